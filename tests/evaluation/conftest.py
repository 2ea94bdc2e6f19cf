"""Fixtures of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.evaluation.panoptic_sets import NAME, registered, two_pictures, write_truth


@pytest.fixture()
def two_panoptic_pictures(tmp_path: Path) -> Iterator[Path]:
    """The set of two pictures under ``panoptic_sets.NAME``; the file of its JSON."""
    file, pngs = write_truth(tmp_path / "truth", two_pictures())
    with registered(NAME, file, pngs):
        yield file
