"""Pictures of crowds, without segments, without things, or one pixel wide: from file to PQ."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_panoptic_separated
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from rpanoptic.data import PanopticDatasetMapper
from rpanoptic.data.coco_panoptic import prepare_coco_panoptic
from rpanoptic.data.synthetic_classes import CLASSES, STUFF, THINGS, class_metadata, coco_categories
from rpanoptic.engine import Predictor
from rpanoptic.engine.check import check_run
from rpanoptic.engine.run import run
from tests.engine.test_trainer import arguments
from tests.modeling.meta_arch.models import MODELS, model_cfg, tiny_model

NAME = "test_unusual_images"
THING, OTHER = THINGS[0].id, STUFF[0].id
STUFF_LABEL, VOID = 1, 255
# By file: height, width, and segments as (category, crowd) that share the picture from left to
# right; None is void.
PICTURES: dict[str, tuple[int, int, list[tuple[int, int] | None]]] = {
    "ordinary": (64, 64, [(OTHER, 0), (THING, 0)]),
    "crowd": (64, 64, [(OTHER, 0), (THING, 1)]),
    "crowd alone": (64, 64, [(THING, 1)]),
    "stuff": (64, 64, [(OTHER, 0)]),
    "nothing": (64, 64, [None]),
    "wide": (1, 2000, [(OTHER, 0), (THING, 0), None]),
    "high": (2000, 1, [(OTHER, 0), (THING, 0), None]),
}
# At which one pixel stays one pixel.
SIZES = {"INPUT__MAX_SIZE_TRAIN": 2000, "INPUT__MAX_SIZE_TEST": 2000, "INPUT__RANDOM_FLIP": "none"}


def write_pictures(root: Path) -> None:
    """Write ``PICTURES`` as a COCO panoptic set, and prepare it."""
    for folder in ("images", "panoptic"):
        (root / folder).mkdir()
    images, annotations = [], []
    for number, (name, (height, width, parts)) in enumerate(PICTURES.items(), start=1):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(root / "images" / f"{name}.jpg"), pixels)
        # By columns, or by rows where there is one column.
        place = np.indices((height, width))[1 if width > 1 else 0]
        place = place * len(parts) // max(height, width)
        ids = np.zeros((height, width), dtype=np.uint8)
        segments = []
        for index, part in enumerate(parts):
            if part is None:
                continue
            ids[place == index] = index + 1
            rows, columns = np.nonzero(place == index)
            left, top = int(columns.min()), int(rows.min())
            box = [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1]
            segment = {"id": index + 1, "category_id": part[0], "iscrowd": part[1], "bbox": box}
            segments.append({**segment, "area": len(rows)})
        # Blue, green, red: an id of one byte is red.
        bgr = np.stack([np.zeros_like(ids), np.zeros_like(ids), ids], axis=2)
        cv2.imwrite(str(root / "panoptic" / f"{name}.png"), bgr)
        size = {"height": height, "width": width}
        images.append({"id": number, "file_name": f"{name}.jpg", **size})
        annotations.append(
            {"image_id": number, "file_name": f"{name}.png", "segments_info": segments}
        )
    content = {"images": images, "annotations": annotations, "categories": coco_categories(CLASSES)}
    (root / "panoptic.json").write_text(json.dumps(content))
    prepare_coco_panoptic(
        root / "panoptic.json",
        root / "panoptic",
        root / "sem_seg",
        root / "instances.json",
        progress=False,
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Name under which the pictures are registered, in the separated form."""
    root = tmp_path_factory.mktemp("unusual")
    write_pictures(root)
    files = [root / name for name in ("images", "panoptic", "panoptic.json")]
    files += [root / name for name in ("sem_seg", "instances.json")]
    register_coco_panoptic_separated(NAME, class_metadata(), *map(str, files))
    yield f"{NAME}_separated"
    for kind in ("separated", "stuffonly"):
        DatasetCatalog.remove(f"{NAME}_{kind}")
        MetadataCatalog.remove(f"{NAME}_{kind}")


@pytest.fixture(scope="module")
def mapped(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By picture what the trainer's mapper makes of it."""
    cfg = model_cfg("RecurrentPanopticFPN", tmp_path_factory.mktemp("mapped"), **SIZES)
    mapper = PanopticDatasetMapper(cfg, is_train=True)
    records = DatasetCatalog.get(dataset)
    return {Path(record["file_name"]).stem: mapper(record) for record in records}


def test_what_is_left_of_them_to_train_on(mapped: dict[str, dict[str, Any]]) -> None:
    instances = {name: len(picture["instances"]) for name, picture in mapped.items()}
    assert instances == {name: int(name in ("ordinary", "wide", "high")) for name in PICTURES}
    classes = {name: set(p["sem_seg"].unique().tolist()) for name, p in mapped.items()}
    # The pixels of a crowd are those of things.
    assert classes["crowd"] == {0, STUFF_LABEL}
    assert classes["crowd alone"] == {0}
    assert classes["stuff"] == {STUFF_LABEL}
    assert classes["nothing"] == {VOID}
    assert classes["wide"] == classes["high"] == {0, STUFF_LABEL, VOID}
    assert mapped["wide"]["image"].shape == (3, 1, 2000)
    assert mapped["high"]["image"].shape == (3, 2000, 1)


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_on_each(
    name: str, mapped: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    nodes = ("FPN", "MASK_HEAD", "SEM_SEG_HEAD")
    # After three steps nothing is at its equilibrium.
    quiet = {f"MODEL__RECURRENT__{node}__ON_FAILURE": "record" for node in nodes}
    model = tiny_model(name, tmp_path, **quiet)
    pairs = [("ordinary", "crowd"), ("nothing", "ordinary"), ("crowd alone", "wide")]
    for batch in [(alone,) for alone in PICTURES] + pairs:
        model.zero_grad()
        with EventStorage():
            losses = model([mapped[picture] for picture in batch])
        assert MODELS[name][1] <= set(losses), batch
        assert all(loss.isfinite() for loss in losses.values()), (batch, losses)
        sum(losses.values()).backward()
        for key, parameter in model.named_parameters():
            # None would stop several processes, which wait for every gradient.
            if parameter.requires_grad:
                assert parameter.grad is not None, (batch, key)
                assert parameter.grad.isfinite().all(), (batch, key)


@pytest.mark.parametrize("name", MODELS)
def test_a_prediction_of_each(name: str, dataset: str, tmp_path: Path) -> None:
    cfg = model_cfg(name, tmp_path, **SIZES)
    torch.manual_seed(0)
    predict = Predictor(cfg, build_model(cfg))
    for record in DatasetCatalog.get(dataset):
        size = record["height"], record["width"]
        result = predict(read_image(record["file_name"], format="RGB"))
        if "sem_seg" in result:
            assert result["sem_seg"].shape[1:] == size and result["sem_seg"].isfinite().all()
        if "instances" in result:
            assert result["instances"].image_size == size
            assert result["instances"].pred_boxes.tensor.isfinite().all()
        if "panoptic_seg" in result:
            assert result["panoptic_seg"][0].shape == size


def test_a_whole_run_on_them(dataset: str, tmp_path: Path) -> None:
    cfg = model_cfg(
        "RecurrentPanopticFPN",
        tmp_path,
        DATASETS__TRAIN=(dataset,),
        DATASETS__TEST=(dataset,),
        DATALOADER__FILTER_EMPTY_ANNOTATIONS=False,
        SOLVER__MAX_ITER=3,
        **SIZES,
    )
    check_run(cfg)
    results = run(cfg, arguments())
    assert results is not None
    assert set(results) == {"sem_seg", "bbox", "segm", "panoptic_seg"}
    assert 0 <= results["panoptic_seg"]["PQ"] <= 100
    assert math.isfinite(results["segm"]["AP"])
