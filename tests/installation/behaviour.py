"""What the tests of Detectron2's behaviour share."""

from __future__ import annotations

import functools

import pytest

from rpanoptic.installation.probe import probe


@functools.cache
def _owner() -> str:
    found = probe(modules=())
    if found.location is None:
        return "there is no Detectron2 in this environment"
    if found.revision is None:
        return f"the Detectron2 in {found.location} is the user's own"
    return ""


def needs_our_detectron2() -> None:
    """Skip a test module where the Detectron2 of this environment is not the mended one."""
    if reason := _owner():
        pytest.skip(reason, allow_module_level=True)
