from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from rpanoptic.errors import DatasetError
from rpanoptic.pathfinder.imagenet.neural_fit import match_stimuli
from tests.pathfinder.imagenet.neural_fit.helpers import assembly

THREE = assembly(np.zeros((3, 1, 1)), np.array([0, 1, 2]))  # s000, s001, s002


def test_pictures_are_matched_by_name_with_or_without_ending(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pictures = [Path("x/s002.jpg"), Path("x/s000.png"), Path("x/other.png"), Path("x/s001.png")]
    with caplog.at_level(logging.WARNING):
        found = match_stimuli(THREE, pictures)
    assert [path.stem for path in found] == ["s000", "s001", "s002"]
    assert "1 pictures are no stimulus of synthetic.nc and are not used: other.png" in caplog.text


def test_missing_and_unused_pictures_are_named() -> None:
    pictures = [Path("s000.png"), Path("s003.png")]
    message = r"synthetic\.nc: 2 of its 3 stimuli .* s001, s002; no stimulus: s003\.png"
    with pytest.raises(DatasetError, match=message):
        match_stimuli(THREE, pictures)


def test_two_pictures_of_a_stimulus() -> None:
    pictures = [Path(f"s{place:03d}.png") for place in range(3)] + [Path("s001.jpg")]
    with pytest.raises(DatasetError, match=r"s001 could be any of s001\.png, s001\.jpg"):
        match_stimuli(THREE, pictures)
