from __future__ import annotations

import json
import re
from typing import Any

import pytest

from rpanoptic.errors import ConfigError
from rpanoptic.pathfinder.settings import (
    PathfinderError,
    PathfinderSettings,
    half_scale_settings,
    paper_settings,
    small_32_settings,
    small_128_settings,
)


def test_the_defaults_are_those_of_pf_14() -> None:
    settings = paper_settings(14)
    assert settings == PathfinderSettings()
    assert settings.period == 11 and settings.clearance == 5
    assert [settings.length_of_distractors(n) for n in (2, 6, 9, 14, 20, 25)] == [1, 2, 3, 4, 6, 8]


def test_presets() -> None:
    mixed = paper_settings(*range(10, 26), form="classification", contrasts=[0.5, 1])
    assert mixed.lengths == tuple(range(10, 26)) and mixed.contrasts == (0.5, 1.0)
    assert [mixed.length(index) for index in (0, 15, 16)] == [10, 25, 10]
    assert small_128_settings().distractors == 8 and small_128_settings(margin=2.0).margin == 2
    half, whole = half_scale_settings(14), paper_settings(14)
    assert [2 * half.size, 2 * half.period, 2 * half.clearance, 2 * half.seed_distance] == [
        whole.size,
        whole.period,
        whole.clearance,
        whole.seed_distance,
    ]
    assert small_32_settings(length=5, form="classification").lengths == (5,)


@pytest.mark.parametrize(
    "settings", [paper_settings(9, 14), small_128_settings(), small_32_settings()]
)
def test_settings_survive_json(settings: PathfinderSettings) -> None:
    read = PathfinderSettings.from_dict(json.loads(json.dumps(settings.as_dict())))
    assert read == settings and hash(read) == hash(settings)


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(PathfinderError, match=r"settings: lenghts; known ones: form, lengths"):
        PathfinderSettings.from_dict({"lenghts": [14]})


@pytest.mark.parametrize(
    ("name", "value", "nearest"),
    [
        ("lengths", (9, 1), 2),
        ("size", 0, 154),
        ("size", 153, 154),
        ("size", 5000, 4096),
        ("border", -1, 0),
        ("distractors", -2, 0),
        ("distractor_length", -2, 0),
        ("continuity", 0.5, 1),
        ("continuity", 1e308, 100),
        ("antialias", 0, 1),
        ("antialias", 17, 16),
        ("paddle_length", 1.0, 2.0),
        ("marker_radius", 1.0, 2.0),
        ("seed_distance", 12.0, 13.0),
    ],
)
def test_a_value_out_of_range_names_the_nearest_that_is_in_range(
    name: str, value: Any, nearest: float
) -> None:
    with pytest.raises(PathfinderError, match=rf"^{name}: expected .*") as caught:
        PathfinderSettings(**{name: value})
    found = re.search(r"nearest possible value is ([\d.]+)$", str(caught.value))
    assert found and float(found[1]) == nearest
    works = (int(nearest),) if name == "lengths" else nearest
    assert PathfinderSettings(**{name: works})
    assert isinstance(caught.value, ConfigError)


def test_thin_paddles_need_antialiasing() -> None:
    with pytest.raises(PathfinderError, match=r"^antialias: .* 0.3 px thick.* is 4$"):
        PathfinderSettings(thickness=0.3)
    assert PathfinderSettings(thickness=0.3, antialias=4)


def test_pictures_that_would_fill_the_memory_are_refused() -> None:
    with pytest.raises(PathfinderError, match=r"^antialias: .* 4096 px; got 16; .* is 4$"):
        PathfinderSettings(size=4096, antialias=16)
    assert PathfinderSettings(size=4096, antialias=4)
    with pytest.raises(PathfinderError, match=r"^seed_distance and border: 2000 and 22 px need"):
        PathfinderSettings(seed_distance=2000.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("form", "regression"),
        ("form", 1),
        ("lengths", ()),
        ("lengths", 14),
        ("lengths", "14"),
        ("lengths", (14.5,)),
        ("lengths", (True,)),
        ("size", 300.0),
        ("border", True),
        ("margin", 0.0),
        ("margin", float("nan")),
        ("thickness", float("inf")),
        ("paddle_length", 1e308),
        ("seed_distance", 1e308),
        ("paddle_length", "5"),
        ("contrasts", ()),
        ("contrasts", (0.5, 1.5)),
        ("contrasts", (0,)),
    ],
)
def test_other_bad_values_name_their_setting(name: str, value: Any) -> None:
    with pytest.raises(PathfinderError, match=rf"^{name}\b.*: expected"):
        PathfinderSettings(**{name: value})
