from __future__ import annotations

from pathlib import Path

import numpy as np
import pycocotools.mask as rle
import pytest
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances
from PIL import Image

from rpanoptic.visualization.colors import class_color, instance_color
from rpanoptic.visualization.panoptic import (
    MIN_SIDE,
    draw_instances,
    draw_output,
    draw_panoptic,
    draw_record,
    enlarged,
    panoptic_from_record,
)


@pytest.fixture()
def metadata() -> Metadata:
    return Metadata(
        name="test_visualization", thing_classes=["cat", "dog"], stuff_classes=["things", "sky"]
    )


@pytest.fixture()
def image() -> np.ndarray:
    return np.full((500, 600, 3), 128, dtype=np.uint8)


def segmentation() -> tuple[np.ndarray, list[dict]]:
    ids = np.zeros((500, 600), dtype=np.int32)
    ids[:200] = 1
    ids[300:450, 100:300] = 2
    segments = [
        {"id": 1, "category_id": 1, "isthing": False},
        {"id": 2, "category_id": 0, "isthing": True, "score": 0.9},
    ]
    return ids, segments


def test_segments_are_painted_in_their_class_colour(metadata: Metadata, image: np.ndarray) -> None:
    ids, segments = segmentation()
    drawn = draw_panoptic(image, torch.as_tensor(ids), segments, metadata)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (image == 128).all()  # the input is not painted over
    # Corners of the segments, away from labels and edges.
    for (y, x), kind, category, opacity in [
        ((20, 20), "stuff", 1, 0.5),
        ((320, 120), "thing", 0, 0.65),
    ]:
        color = 255 * np.array(class_color(metadata, kind, category))
        expected = opacity * color + (1 - opacity) * 128
        assert np.abs(drawn[y, x] - expected).max() <= 3  # rounding in the renderer
    # Unlabelled pixels stay.
    assert (drawn[480, 500] == 128).all()


def test_drawing_is_deterministic(metadata: Metadata, image: np.ndarray) -> None:
    ids, segments = segmentation()
    first = draw_panoptic(image, ids, segments, metadata)
    assert np.array_equal(first, draw_panoptic(image, ids, segments, metadata))


def test_small_pictures_are_enlarged(metadata: Metadata) -> None:
    ids = np.ones((50, 100), dtype=np.int32)
    segments = [{"id": 1, "category_id": 1, "isthing": False}]
    drawn = draw_panoptic(np.zeros((50, 100, 3), np.uint8), ids, segments, metadata)
    assert drawn.shape == (MIN_SIDE, 2 * MIN_SIDE, 3)


def test_no_segments(metadata: Metadata, image: np.ndarray) -> None:
    drawn = draw_panoptic(image, np.zeros((500, 600)), [], metadata)
    assert np.array_equal(drawn, image)


def test_instances_alone(metadata: Metadata, image: np.ndarray) -> None:
    masks = torch.zeros(1, 500, 600, dtype=torch.bool)
    masks[0, 100:300, 100:300] = True
    found = Instances(
        (500, 600),
        pred_boxes=Boxes(torch.tensor([[100.0, 100, 300, 300]])),
        pred_classes=torch.tensor([1]),
        scores=torch.tensor([0.75]),
        pred_masks=masks,
    )
    drawn = draw_instances(image, found, metadata)
    changed = (drawn != 128).any(axis=2)
    assert changed[100:300, 100:300].mean() > 0.95
    assert not changed[350:, 350:].any()
    assert np.array_equal(drawn, draw_output(image, {"instances": found}, metadata))
    assert np.array_equal(draw_instances(image, found[:0], metadata), image)


def test_output_without_segments_is_the_picture(metadata: Metadata, image: np.ndarray) -> None:
    assert np.array_equal(draw_output(image, {}, metadata), image)


def test_stuff_alone_is_drawn_by_its_scores(metadata: Metadata, image: np.ndarray) -> None:
    scores = torch.zeros(2, 500, 600)
    scores[1, :, :300] = 1
    scores[0, :, 300:] = 1
    labels = scores.argmax(dim=0)
    segments = [{"id": label, "category_id": label, "isthing": False} for label in (0, 1)]
    drawn = draw_output(image, {"sem_seg": scores}, metadata)
    assert np.array_equal(drawn, draw_panoptic(image, labels, segments, metadata))
    sky = 0.5 * 255 * np.array(class_color(metadata, "stuff", 1)) + 0.5 * 128
    assert np.abs(drawn[20, 20] - sky).max() < 3


def test_colours_of_the_dataset_are_used(metadata: Metadata) -> None:
    metadata.set(stuff_colors=[(0, 0, 0), (255, 0, 51)])
    assert class_color(metadata, "stuff", 1) == pytest.approx((1.0, 0.0, 0.2))
    assert class_color(metadata, "thing", 1) != class_color(metadata, "thing", 0)


def test_instances_of_a_class_have_their_own_shades() -> None:
    color = (0.2, 0.5, 0.8)
    shades = {tuple(np.round(instance_color(color, k), 4)) for k in range(5)}
    assert len(shades) == 5
    assert instance_color(color, 0) == pytest.approx(color)
    assert all(0 <= value <= 1 for shade in shades for value in shade)


def test_ground_truth_of_the_panoptic_format(tmp_path: Path) -> None:
    ids = np.array([[1, 300], [70000, 0]])
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / "p.png")
    info = [{"id": 300, "category_id": 0, "isthing": True}]
    record = {"pan_seg_file_name": str(tmp_path / "p.png"), "segments_info": info}
    read, segments = panoptic_from_record(record, (2, 2))
    assert np.array_equal(read, ids)
    assert segments == info


def test_ground_truth_of_the_separated_format(tmp_path: Path, metadata: Metadata) -> None:
    labels = np.zeros((40, 60), dtype=np.uint8)
    labels[:10] = 1
    labels[10] = 255
    Image.fromarray(labels).save(tmp_path / "s.png")
    mask = np.zeros((40, 60), dtype=np.uint8, order="F")
    mask[20:30, 5:15] = 1
    polygon = [20.0, 20, 40, 20, 40, 30, 20, 30]
    record = {
        "sem_seg_file_name": str(tmp_path / "s.png"),
        "annotations": [
            {"category_id": 1, "segmentation": rle.encode(mask)},
            {"category_id": 0, "segmentation": [polygon]},
        ],
    }
    ids, segments = panoptic_from_record(record, (40, 60))
    assert [(s["category_id"], s["isthing"]) for s in segments] == [
        (1, False),
        (1, True),
        (0, True),
    ]
    assert (ids[:10] == 1).all()
    assert (ids[10:20] == 0).all()
    assert (ids[20:30, 5:15] == 2).all()
    assert (ids[22:28, 22:38] == 3).all()
    drawn = draw_record(np.zeros((40, 60, 3), np.uint8), record, metadata)
    assert drawn.any()


def test_boxes_are_drawn_where_there_are_no_masks(metadata: Metadata, image: np.ndarray) -> None:
    instances = Instances(
        (500, 600),
        pred_boxes=Boxes(torch.tensor([[100.0, 200.0, 300.0, 400.0]])),
        pred_classes=torch.tensor([0]),
        scores=torch.tensor([0.75]),
    )
    drawn = draw_output(image, {"instances": instances}, metadata)
    changed = (drawn != image).any(axis=2)
    assert changed[210:390, 300].all()  # an edge
    assert not changed[250:390, 150:290].any()  # the inside, below the label
    assert not changed[:150].any()
    small = draw_instances(image[::5, ::5], _scaled(instances, 0.2), metadata)
    rows, columns = np.nonzero((small != 128).any(axis=2))
    factor = small.shape[0] / 100
    assert abs(columns.max() - 60 * factor) < 6  # the line's width and the label's
    assert abs(rows.max() - 80 * factor) < 6
    # No formula: Matplotlib would refuse it.
    metadata = Metadata(name="test_formula", thing_classes=[r"$\frac{car_x$"])
    assert (draw_output(image, {"instances": instances}, metadata) != image).any()


def _scaled(instances: Instances, factor: float) -> Instances:
    return Instances(
        (100, 120),
        pred_boxes=Boxes(instances.pred_boxes.tensor * factor),
        pred_classes=instances.pred_classes,
        scores=instances.scores,
    )


def test_long_and_narrow_picture_stays_of_a_size_to_draw() -> None:
    assert enlarged(np.zeros((2, 1000, 3), np.uint8)).shape == (8, 4000, 3)
    assert enlarged(np.zeros((2, 5000, 3), np.uint8)).shape == (2, 5000, 3)
