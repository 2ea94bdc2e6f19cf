from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from PIL import Image

from rpanoptic.errors import ConfigError
from rpanoptic.pathfinder import register_pathfinder_on_the_fly, source_of
from rpanoptic.pathfinder.mapper import PathfinderMapper
from rpanoptic.random_state import seeded
from tests.pathfinder.sets import forget, small_set

NAME = "pathfinder_test_mapper"


@pytest.fixture(params=["segmentation"])
def record(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """The second record of a set of the form that the parameter names."""
    settings = small_set(form=request.param).settings
    register_pathfinder_on_the_fly(NAME, settings, 5, 3)
    yield DatasetCatalog.get(NAME)[1]
    forget(NAME)


def config(size: int = 24, flip: str = "none") -> CfgNode:
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = (size,)
    cfg.INPUT.MIN_SIZE_TEST = size
    cfg.INPUT.RANDOM_FLIP = flip
    return cfg


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("size", [24, 32, 50])
def test_pictures_are_resized_as_the_papers(
    record: dict[str, Any], size: int, is_train: bool
) -> None:
    mapped = PathfinderMapper(config(size), is_train=is_train)(record)
    example = source_of(NAME)[1]
    image = Image.fromarray(example.image).resize((size, size), Image.Resampling.BICUBIC)
    contour = Image.fromarray(example.target * 255).resize((size, size), Image.Resampling.BICUBIC)
    assert mapped["image"].dtype == torch.float32 and mapped["image"].shape == (1, size, size)
    assert np.array_equal(mapped["image"][0], np.asarray(image))
    assert mapped["sem_seg"].dtype == torch.int64
    assert np.array_equal(mapped["sem_seg"], np.asarray(contour) / 255 > 0.2)
    assert 0 < mapped["sem_seg"].sum() < size * size / 2
    assert (mapped["height"], mapped["width"]) == (size, size)
    assert mapped["image_id"] == 1 and mapped["file_name"] == record["file_name"]
    assert "label" not in mapped


def test_size_0_is_that_of_the_set(record: dict[str, Any]) -> None:
    for is_train in (True, False):
        mapped = PathfinderMapper(config(0), is_train=is_train)(record)
        assert np.array_equal(mapped["image"][0], source_of(NAME)[1].image)
        assert np.array_equal(mapped["sem_seg"], source_of(NAME)[1].target)


@pytest.mark.parametrize(
    ("flip", "turned"),
    [
        ("none", [()]),
        ("horizontal", [(), (1,)]),
        ("vertical", [(), (0,)]),
        ("both", [(), (0,), (1,), (0, 1)]),
    ],
)
def test_flips_take_picture_and_contour_along(
    record: dict[str, Any], flip: str, turned: list[tuple[int, ...]]
) -> None:
    mapper = PathfinderMapper(config(32, flip), is_train=True)
    example = source_of(NAME)[1]
    seen: dict[tuple[int, ...], int] = {}
    for seed in range(40):
        with seeded(seed):
            mapped = mapper(record)
        for axes in turned:
            if np.array_equal(mapped["image"][0], np.flip(example.image, axes)):
                assert np.array_equal(mapped["sem_seg"], np.flip(example.target, axes))
                seen[axes] = seen.get(axes, 0) + 1
    assert sum(seen.values()) == 40
    # Of 40 fair draws, fewer than a fifth of the expected number come once in 20,000 times.
    assert all(seen.get(axes, 0) > 40 / len(turned) / 5 for axes in turned)


def test_evaluations_flip_nothing(record: dict[str, Any]) -> None:
    mapper = PathfinderMapper(config(32, "both"), is_train=False)
    for _ in range(10):
        assert np.array_equal(mapper(record)["image"][0], source_of(NAME)[1].image)


@pytest.mark.parametrize("record", ["classification"], indirect=True)
def test_the_classification_form_has_a_label(record: dict[str, Any]) -> None:
    mapper = PathfinderMapper(config(), is_train=True)
    assert [mapper({**record, "index": i})["label"] for i in range(3)] == [
        source_of(NAME)[i].label for i in range(3)
    ]
    assert "sem_seg" not in mapper(record)


def test_the_record_is_left_as_it_is(record: dict[str, Any]) -> None:
    before = dict(record)
    PathfinderMapper(config(), is_train=True)(record)
    assert record == before


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MIN_SIZE_TRAIN", (24, 32), r"INPUT\.MIN_SIZE_TRAIN is \(24, 32\): .* one number"),
        ("MIN_SIZE_TRAIN", (-1,), r"INPUT\.MIN_SIZE_TRAIN is \(-1,\)"),
        ("MIN_SIZE_TRAIN", (), r"INPUT\.MIN_SIZE_TRAIN is \(\)"),
        ("MIN_SIZE_TEST", -1, r"INPUT\.MIN_SIZE_TEST is -1"),
        ("RANDOM_FLIP", "diagonal", r"RANDOM_FLIP is 'diagonal'; known: none, horizontal, vert"),
        ("CROP.ENABLED", True, r"INPUT\.CROP\.ENABLED: a crop"),
    ],
)
def test_impossible_settings_are_named(key: str, value: object, message: str) -> None:
    cfg = config()
    cfg.merge_from_list([f"INPUT.{key}", value])
    with pytest.raises(ConfigError, match=message):
        PathfinderMapper(cfg, is_train="TEST" not in key)
