"""Small panoptic datasets that are drawn for a test, and predictions for them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

from rpanoptic.data.panoptic_format import panoptic_rgb
from rpanoptic.evaluation.panoptic import PanopticEvaluator

# Dataset ids: two things, two stuff; none is its contiguous id.
CAR, DOG, SKY, ROAD = 3, 18, 187, 200
CATEGORIES: list[dict[str, Any]] = [
    {"id": CAR, "name": "car", "isthing": 1},
    {"id": DOG, "name": "dog", "isthing": 1},
    {"id": SKY, "name": "sky", "isthing": 0},
    {"id": ROAD, "name": "road", "isthing": 0},
]
THINGS = {CAR: 0, DOG: 1}
STUFF = {0: 0, SKY: 1, ROAD: 2}
# A registered dataset.
NAME = "panoptic_test"
# Segment id, dataset category, crowd.
Segment = tuple[int, int, bool]
Pictures = Mapping[Any, tuple[np.ndarray, Sequence[Segment]]]


def annotation(image_id: Any, ids: np.ndarray, segments: Sequence[Segment]) -> dict[str, Any]:
    info = [
        {"id": i, "category_id": category, "iscrowd": int(crowd), "area": int((ids == i).sum())}
        for i, category, crowd in segments
    ]
    return {"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": info}


def write_truth(folder: Path, pictures: Pictures) -> tuple[Path, Path]:
    """A COCO panoptic JSON and the folder of its PNGs."""
    pngs = folder / "panoptic"
    pngs.mkdir(parents=True)
    images, annotations = [], []
    for image_id, (ids, segments) in pictures.items():
        annotations.append(annotation(image_id, ids, segments))
        Image.fromarray(panoptic_rgb(ids)).save(pngs / annotations[-1]["file_name"])
        height, width = ids.shape
        image = {"id": image_id, "file_name": f"{image_id}.jpg", "height": height, "width": width}
        images.append(image)
    file = folder / "panoptic.json"
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    file.write_text(json.dumps(content))
    return file, pngs


@contextlib.contextmanager
def registered(name: str, file: Path, pngs: Path) -> Iterator[str]:
    """Metadata of a panoptic dataset, without any records."""
    MetadataCatalog.get(name).set(
        image_root=str(file.parent),
        panoptic_json=str(file),
        panoptic_root=str(pngs),
        label_divisor=1000,
        thing_dataset_id_to_contiguous_id=THINGS,
        stuff_dataset_id_to_contiguous_id=STUFF,
    )
    try:
        yield name
    finally:
        MetadataCatalog.remove(name)


def prediction(ids: np.ndarray, segments: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """A model's output: segments are id and dataset category."""
    info = [
        {
            "id": i,
            "category_id": THINGS[category] if category in THINGS else STUFF[category],
            "isthing": category in THINGS,
        }
        for i, category in segments
    ]
    return {"panoptic_seg": (torch.as_tensor(ids.astype(np.int64)), info)}


def record(image_id: Any, shape: tuple[int, int] = (10, 10)) -> dict[str, Any]:
    height, width = shape
    name = f"somewhere/{image_id}.jpg"
    return {"image_id": image_id, "file_name": name, "height": height, "width": width}


def two_pictures() -> dict[int, tuple[np.ndarray, list[Segment]]]:
    """Two pictures of 10 x 10 pixels with cars, a dog, a crowd of dogs and void."""
    first = np.full((10, 10), 7)  # sky
    first[0:4, 0:5] = 1  # car, 20 pixels
    first[5:9, 0:5] = 2  # car, 20 pixels
    first[0:2, 6:10] = 0  # void, 8 pixels
    second = np.full((10, 10), 7)
    second[0:5, 0:4] = 3  # dog, 20 pixels
    second[6:10, 5:10] = 4  # crowd of dogs, 20 pixels
    return {
        1: (first, [(1, CAR, False), (2, CAR, False), (7, SKY, False)]),
        2: (second, [(3, DOG, False), (4, DOG, True), (7, SKY, False)]),
    }


def random_picture(random: np.random.Generator) -> tuple[np.ndarray, list[Segment]]:
    """Void, two kinds of stuff, overlapping things and crowds; ids up to the largest."""
    shape = (int(random.integers(8, 30)), int(random.integers(8, 30)))
    ids = np.zeros(shape, dtype=np.int64)
    numbers = random.choice(256**3 - 1, size=12, replace=False) + 1
    segments: list[Segment] = []
    for number in numbers[: int(random.integers(2, 12))].tolist():
        row, column = random.integers(0, shape[0]), random.integers(0, shape[1])
        height, width = random.integers(2, 15, size=2)
        ids[row : row + height, column : column + width] = number
        category = int(random.choice([CAR, DOG, SKY, ROAD]))
        segments.append((number, category, category in THINGS and bool(random.random() < 0.3)))
    # A segment that others cover stays listed now and then, as in some datasets.
    return ids, [one for one in segments if (ids == one[0]).any() or random.random() < 0.2]


def random_prediction(
    ids: np.ndarray, segments: Sequence[Segment], random: np.random.Generator
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """A picture's segments: some shifted, lost, torn, of another class, or drawn into void."""
    found = np.where(random.random(ids.shape) < 0.05, 0, ids)
    if random.random() < 0.5:
        found = np.roll(found, random.integers(-2, 3, size=2), axis=(0, 1))
    if random.random() < 0.1:
        found = np.zeros_like(ids)
    categories = {number: category for number, category, _ in segments}
    for number in np.unique(found)[1:].tolist():
        if random.random() < 0.15:
            found[found == number] = 0
        elif random.random() < 0.2:
            categories[number] = int(random.choice([CAR, DOG, SKY, ROAD]))
    for number in range(1, int(random.integers(1, 4))):
        row, column = random.integers(0, ids.shape[0]), random.integers(0, ids.shape[1])
        found[row : row + 6, column : column + 6] = number
        categories[number] = int(random.choice([CAR, DOG, SKY, ROAD]))
    present = [number for number in np.unique(found).tolist() if number]
    return found, [(number, categories[number]) for number in present]


def evaluate(
    predictions: dict[Any, dict[str, Any]], folder: Path | None = None, **options: Any
) -> dict[str, float]:
    """The evaluator's figures for outputs by image id."""
    evaluator = PanopticEvaluator(NAME, folder, **options)
    evaluator.reset()
    for image_id, output in predictions.items():
        shape = tuple(output["panoptic_seg"][0].shape)
        evaluator.process([record(image_id, shape)], [output])
    return evaluator.evaluate()["panoptic_seg"]


def perfect(pictures: dict[Any, Any] | None = None) -> dict[Any, dict[str, Any]]:
    """Predictions that are the ground truth, without its crowds."""
    outputs = {}
    for image_id, (ids, segments) in (pictures or two_pictures()).items():
        kept = [(i, category) for i, category, crowd in segments if not crowd]
        listed = [i for i, _ in kept]
        outputs[image_id] = prediction(np.where(np.isin(ids, listed), ids, 0), kept)
    return outputs


def change(file: Path, edit: Any) -> None:
    """Edit a JSON in place."""
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def hand_made() -> dict[int, dict[str, Any]]:
    """Predictions of :func:`two_pictures`, of which one car is wrong."""
    first = np.full((10, 10), 9)  # sky everywhere else
    first[0:4, 0:4] = 1  # car: 16 of the 20 pixels, IoU 16 / 20 = 0.8
    first[5:9, 3:8] = 2  # car: 8 of 20 common, 20 beside them, IoU 8 / 32: no match
    second = np.full((10, 10), 9)
    second[0:5, 0:4] = 5  # dog, exact
    second[6:10, 5:10] = 6  # dog, all of it in the crowd: neither right nor wrong
    return {
        1: prediction(first, [(1, CAR), (2, CAR), (9, SKY)]),
        2: prediction(second, [(5, DOG), (6, DOG), (9, SKY)]),
    }
