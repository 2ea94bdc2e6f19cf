"""What the tests of the search share."""

from __future__ import annotations

import pytest

pytest.importorskip("optuna")

from rpanoptic.pathfinder.imagenet.search import run, space, study
from tests.pathfinder.imagenet.search.fakes import FAKE, fake_size, small_config


@pytest.fixture()
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A space and configs that no network is built of."""
    monkeypatch.setattr(run, "count_parameters", fake_size)
    monkeypatch.setattr(study, "default_config", small_config)
    monkeypatch.setitem(space.SPACES, "fake", FAKE)
