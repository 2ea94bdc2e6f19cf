from __future__ import annotations

import re
from dataclasses import replace

import pytest

from rpanoptic.pathfinder.generator import generate
from rpanoptic.pathfinder.limits import has_room
from rpanoptic.pathfinder.placement import Budget
from rpanoptic.pathfinder.settings import (
    PathfinderError,
    PathfinderSettings,
    paper_settings,
    small_32_settings,
)


def _nearest(settings: PathfinderSettings, setting: str) -> int:
    with pytest.raises(PathfinderError, match=rf"^{setting}: no room in ") as caught:
        generate(settings, 0, 0)
    found = re.search(r"the nearest possible value is (\d+)$", str(caught.value))
    assert found
    return int(found[1])


def _draw_some(settings: PathfinderSettings) -> None:
    for index in range(40):
        generate(settings, 1, index)


def test_contours_that_cannot_fit_name_a_length_that_does() -> None:
    settings = replace(small_32_settings(), lengths=(60,))
    nearest = _nearest(settings, "lengths")
    assert nearest >= 10
    _draw_some(replace(settings, lengths=(nearest,)))


def test_of_mixed_lengths_the_short_ones_are_still_drawn() -> None:
    settings = replace(small_32_settings(), lengths=(5, 60))
    assert len(generate(settings, 0, 0).contours[0]) == 5
    with pytest.raises(PathfinderError, match=r"^lengths: .* two contours of 60 paddles"):
        generate(settings, 0, 1)


def test_distractors_without_room_name_a_number_that_has_room() -> None:
    settings = replace(small_32_settings(), distractors=1000)
    nearest = _nearest(settings, "distractors")
    assert nearest >= 10
    _draw_some(replace(settings, distractors=nearest))


def test_paddles_too_long_for_the_picture_name_a_size() -> None:
    settings = replace(small_32_settings(), paddle_length=30.0, lengths=(2,), distractors=1)
    nearest = _nearest(settings, "size")
    assert nearest > 32
    _draw_some(replace(settings, size=nearest))


def test_the_usual_sets_have_room_in_a_part_of_the_budget() -> None:
    for length in (9, 14, 20, 25):
        assert has_room(paper_settings(length), length)
    assert not has_room(small_32_settings(), 60)
    assert Budget().rounds > 0
