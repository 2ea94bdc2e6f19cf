from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from rpanoptic.data import build_mapper, build_train_loader
from rpanoptic.errors import ConfigError, DatasetError
from rpanoptic.pathfinder.imagenet.data import ClassificationMapper
from rpanoptic.random_state import seeded
from tests.pathfinder.imagenet.data.folder import config, registered, write_folder


def record(path: Path, **others: Any) -> dict[str, Any]:
    return {"file_name": str(path), "image_id": 7, "label": 2, **others}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """20 x 30 (width x height); red rises to the right, green downwards."""
    rows, columns = np.mgrid[:30, :20]
    rgb = np.dstack([columns * 10, rows * 8, np.full_like(rows, 40)]).astype(np.uint8)
    path = tmp_path / "ramp.png"
    Image.fromarray(rgb).save(path)
    return path


def test_evaluations_see_the_middle(picture: Path) -> None:
    mapped = ClassificationMapper(config(SIZE=16, RESIZE=20), is_train=False)(record(picture))
    expected = np.asarray(Image.open(picture))[7:23, 2:18]  # nothing to resize
    assert mapped["image"].dtype == torch.uint8 and mapped["image"].shape == (3, 16, 16)
    assert np.array_equal(mapped["image"].permute(1, 2, 0), expected)
    assert {key: mapped[key] for key in mapped if key != "image"} == {
        "label": 2,
        "image_id": 7,
        "file_name": str(picture),
        "height": 30,
        "width": 20,
    }


def test_resizing_is_pillows_bilinear_one_which_antialiases(picture: Path) -> None:
    mapped = ClassificationMapper(config(SIZE=6, RESIZE=8), is_train=False)(record(picture))
    resized = Image.open(picture).resize((8, 12), Image.Resampling.BILINEAR)
    assert np.array_equal(mapped["image"].permute(1, 2, 0), np.asarray(resized)[3:9, 1:7])


def test_resize_0_is_size(picture: Path) -> None:
    mapped = ClassificationMapper(config(SIZE=10, RESIZE=0), is_train=False)(record(picture))
    resized = Image.open(picture).resize((10, 15), Image.Resampling.BILINEAR)
    # The middle of 15 rows is 2.5 from the top, which torchvision rounds to the even one.
    assert np.array_equal(mapped["image"].permute(1, 2, 0), np.asarray(resized)[2:12])


def test_channels_come_in_the_order_of_the_format(picture: Path) -> None:
    images = []
    for order in ("RGB", "BGR"):
        cfg = config()
        cfg.INPUT.FORMAT = order
        images.append(ClassificationMapper(cfg, is_train=False)(record(picture))["image"])
    assert torch.equal(images[0], images[1].flip(0)) and not torch.equal(*images)


def test_training_crops_and_flips_at_random(picture: Path) -> None:
    cfg = config()
    mapper = ClassificationMapper(cfg, is_train=True)
    seen, mirrored = set(), 0
    for seed in range(30):
        with seeded(seed):
            image = mapper(record(picture))["image"]
        assert image.shape == (3, 10, 10) and image.dtype == torch.uint8
        seen.add(image.numpy().tobytes())
        mirrored += int(image[0, 5, 0] > image[0, 5, -1])
    assert len(seen) == 30
    assert 5 < mirrored < 25  # of 30 fair draws all but one in 10,000 are


def test_a_scale_of_1_crops_nothing(picture: Path) -> None:
    cfg = config(SCALE=[1.0, 1.0])
    cfg.INPUT.RANDOM_FLIP = "none"
    first, second = (ClassificationMapper(cfg, is_train=train) for train in (True, False))
    assert torch.equal(first(record(picture))["image"], second(record(picture))["image"])


@pytest.mark.parametrize("name", ["rand_augment", "trivial_augment", "auto_augment"])
def test_augmentations_change_the_picture_and_follow_from_the_seed(
    picture: Path, name: str
) -> None:
    plain = ClassificationMapper(config(), is_train=True)
    mapper = ClassificationMapper(config(AUGMENTATION=name), is_train=True)
    changed = 0
    for seed in range(6):
        images = []
        for one in (plain, mapper, mapper):
            with seeded(seed):
                images.append(one(record(picture))["image"])
        assert torch.equal(images[1], images[2]) and images[1].shape == (3, 10, 10)
        changed += not torch.equal(images[0], images[1])
    assert changed > 0


@pytest.mark.parametrize("augmentation", ["", "rand_augment"])
def test_neither_workers_nor_interruptions_change_the_data(
    tmp_path: Path, augmentation: str
) -> None:
    with registered(write_folder(tmp_path)) as name:
        cfg = config(AUGMENTATION=augmentation)
        cfg.DATASETS.TRAIN = (name,)

        def batches(passed: int, count: int, workers: int) -> list[list[dict[str, Any]]]:
            cfg.DATALOADER.NUM_WORKERS = workers
            loader = build_train_loader(cfg, build_mapper(cfg, [name], is_train=True))
            loader.load_state_dict({**loader.state_dict(), "batches": passed})
            return list(islice(loader, count))

        whole = batches(0, 6, 0)
        assert len({one["image"].numpy().tobytes() for batch in whole for one in batch}) == 24
        for passed, workers in ((0, 2), (4, 0)):
            again = batches(passed, 6 - passed, workers)
            for batch, expected in zip(again, whole[passed:], strict=True):
                for one, other in zip(batch, expected, strict=True):
                    assert torch.equal(one["image"], other["image"])
                    assert one["file_name"] == other["file_name"]
                    assert one["label"] == other["label"]


def test_an_unreadable_picture_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    for is_train in (True, False):
        mapper = ClassificationMapper(config(), is_train=is_train)
        with pytest.raises(DatasetError, match=r"bad\.png: cannot be read as a picture"):
            mapper(record(tmp_path / "bad.png"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SIZE", 0, r"RPANOPTIC\.CLASSIFICATION: SIZE must be .* at least 1"),
        ("SIZE", 13, r"CLASSIFICATION\.RESIZE is 12: squares of SIZE 13"),
        ("RESIZE", -1, r"RPANOPTIC\.CLASSIFICATION: RESIZE must be .* at least 0"),
        ("SCALE", [0.5, 1.5], r"CLASSIFICATION\.SCALE is \[0\.5, 1\.5\], .* at most 1"),
        ("SCALE", [0.0, 1.0], r"CLASSIFICATION\.SCALE"),
        ("SCALE", [0.5], r"CLASSIFICATION\.SCALE"),
        ("RATIO", [2.0, 1.0], r"CLASSIFICATION\.RATIO is \[2\.0, 1\.0\], .* lesser first"),
        ("RATIO", [1.0, float("inf")], r"CLASSIFICATION\.RATIO"),
        ("AUGMENTATION", "mix", r"CLASSIFICATION: AUGMENTATION must be one of '', 'rand_augment'"),
        ("UNREADABLE", "ignore", r"CLASSIFICATION: UNREADABLE must be one of 'raise', 'skip'"),
    ],
)
def test_impossible_settings_are_named(key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClassificationMapper(config(**{key: value}), is_train=True)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("FORMAT", "L", r"INPUT: FORMAT must be one of 'RGB', 'BGR'"),
        ("RANDOM_FLIP", "vertical", r"INPUT: RANDOM_FLIP must be one of 'none', 'horizontal'"),
        ("CROP.ENABLED", True, r"INPUT\.CROP\.ENABLED: .*CLASSIFICATION\.SCALE"),
    ],
)
def test_impossible_settings_of_the_input_are_named(key: str, value: object, message: str) -> None:
    cfg = config()
    cfg.merge_from_list([f"INPUT.{key}", value])
    with pytest.raises(ConfigError, match=message):
        ClassificationMapper(cfg, is_train=True)


def test_the_record_is_left_as_it_is(tmp_path: Path) -> None:
    with registered(write_folder(tmp_path)) as name:
        first = DatasetCatalog.get(name)[0]
        before = dict(first)
        ClassificationMapper(config(), is_train=True)(first)
        assert first == before
