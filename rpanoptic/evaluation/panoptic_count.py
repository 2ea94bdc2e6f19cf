"""What one picture adds to panoptic quality and to the confusion of classes."""

from __future__ import annotations

import functools
import inspect
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.panoptic_format import VOID_ID, panoptic_rgb
from rpanoptic.data.paths import write_atomically
from rpanoptic.evaluation.panoptic_prediction import ID_LIMIT, PanopticPrediction
from rpanoptic.evaluation.panoptic_truth import Annotation, PanopticTruth


class ClassCount(NamedTuple):
    """The segments of one class: sum of the IoUs of the matched ones, and how many are which."""

    iou: float
    tp: int
    fp: int
    fn: int

    def plus(self, other: ClassCount) -> ClassCount:
        """The sums of both."""
        return ClassCount(
            self.iou + other.iou, self.tp + other.tp, self.fp + other.fp, self.fn + other.fn
        )


class PictureCount(NamedTuple):
    """What a picture adds.

    Attributes:
        classes: counts by category id.
        confusion: rows of true class, predicted class and their common pixels, by
            :func:`class_places`.
        other_areas: how many segments have another area in the JSON than in the PNG.
    """

    classes: dict[int, ClassCount]
    confusion: list[list[int]]
    other_areas: int


def count_picture(
    truth: PanopticTruth,
    annotation: Annotation,
    ids: np.ndarray,
    prediction: PanopticPrediction,
    png: Path,
) -> PictureCount:
    """Count the segments of a picture as panopticapi does, whatever areas the JSON claims.

    Args:
        truth: of the dataset.
        annotation: of the picture.
        ids: (H, W) segment ids of the ground truth.
        prediction: of the same size.
        png: file of the prediction, see :func:`write_prediction`.
    """
    pairs, pixels = np.unique(
        ids.astype(np.uint64) * np.uint64(ID_LIMIT) + prediction.ids, return_counts=True
    )
    true_ids = (pairs // np.uint64(ID_LIMIT)).astype(np.int64)
    areas: dict[int, int] = {}
    for number, common in zip(true_ids.tolist(), pixels.tolist(), strict=True):
        areas[number] = areas.get(number, 0) + common
    segments = [
        {**segment, "area": areas.get(segment["id"], 0)} for segment in annotation["segments_info"]
    ]
    predicted = [
        {"id": number, "category_id": category}
        for number, category in prediction.categories.items()
    ]
    stat = _counting()(
        0,
        [
            (
                {**annotation, "segments_info": segments},
                {"file_name": png.name, "segments_info": predicted},
            )
        ],
        str(truth.source.panoptic_root),
        str(png.parent),
        {one.id: one._asdict() for one in truth.classes.classes},
    )
    counts = {
        category: ClassCount(float(one.iou), int(one.tp), int(one.fp), int(one.fn))
        for category, one in stat.pq_per_cat.items()
    }
    places = class_places(truth.classes)
    confusion = _confusion(
        (true_ids, _places(places, {one["id"]: one["category_id"] for one in segments})),
        (
            (pairs % np.uint64(ID_LIMIT)).astype(np.int64),
            _places(places, prediction.categories),
        ),
        pixels,
        len(places),
    )
    other = sum(
        claimed["area"] not in (None, segment["area"])
        for claimed, segment in zip(annotation["segments_info"], segments, strict=True)
    )
    return PictureCount(counts, confusion, other)


def write_prediction(png: Path, prediction: PanopticPrediction) -> None:
    """Write the segment ids of a prediction as a panoptic PNG, whole or not at all.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    stream = io.BytesIO()
    # It is read once, or a few times; writing it at Pillow's own level would take twice as long.
    Image.fromarray(panoptic_rgb(prediction.ids)).save(stream, format="PNG", compress_level=1)
    write_atomically(png, stream.getvalue(), sync=False)


def class_places(classes: ClassTable) -> dict[int, int]:
    """Category id -> place in the confusion: things, then stuff; void is after all of them."""
    return {one.id: place for place, one in enumerate((*classes.things, *classes.stuff))}


@functools.cache
def _counting() -> Callable[..., Any]:
    """panopticapi's function that counts the pictures of one process, without its prints.

    It is the same code with a ``print`` of its own that prints nothing. To redirect ``sys.stdout``
    meanwhile would swallow what other threads print.
    """
    from panopticapi.evaluation import pq_compute_single_core

    # Without the decorator that prints errors.
    function = inspect.unwrap(pq_compute_single_core)
    return FunctionType(
        function.__code__,
        {**function.__globals__, "print": lambda *_, **__: None},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


def _places(places: Mapping[int, int], categories: Mapping[int, int]) -> dict[int, int]:
    """Segment id -> place of its class; void and what is not listed have the last place."""
    return {VOID_ID: len(places)} | {
        number: places[category] for number, category in categories.items()
    }


def _confusion(
    true: tuple[np.ndarray, Mapping[int, int]],
    predicted: tuple[np.ndarray, Mapping[int, int]],
    pixels: np.ndarray,
    void: int,
) -> list[list[int]]:
    sums: dict[tuple[int, int], int] = {}
    (true_ids, true_places), (ids, places) = true, predicted
    for one, other, count in zip(true_ids.tolist(), ids.tolist(), pixels.tolist(), strict=True):
        cell = true_places.get(one, void), places.get(other, void)
        sums[cell] = sums.get(cell, 0) + count
    return [[one, other, count] for (one, other), count in sorted(sums.items())]
