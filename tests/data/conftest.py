"""A foreign panoptic set and what is derived from it, for several tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpanoptic.data import panoptic_cache
from rpanoptic.data.panoptic_cache import PanopticCache
from rpanoptic.data.panoptic_source import PanopticSource
from tests.data.foreign import ForeignSet, write_foreign_set


@pytest.fixture
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is derived is derived in the process of the test."""
    monkeypatch.setattr(panoptic_cache, "_workers", lambda: 1)


@pytest.fixture
def files(tmp_path: Path) -> ForeignSet:
    return write_foreign_set(tmp_path)


@pytest.fixture
def cache(files: ForeignSet) -> PanopticCache:
    return PanopticCache.of(PanopticSource.of(*files))
