"""A model's panoptic prediction of one picture: checked, in the ids of the dataset's files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.data.catalog import Metadata
from torch import Tensor

from rpanoptic.data.panoptic_format import LARGEST_SEGMENT_ID, VOID_ID
from rpanoptic.errors import ConfigError, DatasetError, listed

#: Segment ids of a panoptic PNG are below this.
ID_LIMIT = LARGEST_SEGMENT_ID + 1
# Void in the form that has no list of segments.
_NO_CLASS = -1


@dataclass(frozen=True)
class PredictedIds:
    """How the numbers of a model's classes become category ids of the dataset's JSON.

    Attributes:
        dataset: its name, for messages.
        things: contiguous id of a thing -> category id.
        stuff: contiguous id of stuff -> category id.
        known: all category ids of the JSON.
        label_divisor: of ids that hold class and instance, ``class * label_divisor + instance``;
            None if the dataset names none.
    """

    dataset: str
    things: Mapping[int, int]
    stuff: Mapping[int, int]
    known: frozenset[int]
    label_divisor: int | None

    @classmethod
    def of(cls, dataset: str, metadata: Metadata, known: Iterable[int]) -> PredictedIds:
        """The ids that a dataset's metadata and the categories of its JSON say.

        Raises:
            DatasetError: the metadata has no tables of ids.
        """
        tables: list[dict[int, int]] = []
        for key in ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id"):
            table = metadata.get(key)
            if table is None:
                raise DatasetError(f"dataset {dataset}: its metadata lacks {key}.")
            tables.append({int(index): int(category) for category, index in table.items()})
        things, stuff = tables
        divisor = metadata.get("label_divisor")
        divisor = None if divisor is None else int(divisor)
        return cls(dataset, things, stuff, frozenset(known), divisor)


@dataclass(frozen=True)
class PanopticPrediction:
    """What a model predicts of a picture.

    Attributes:
        ids: (H, W) segment ids, 0 where nothing is predicted, below 256**3.
        categories: segment id -> category id of the dataset's JSON; each segment has pixels.
        areas: segment id -> its pixels.
    """

    ids: npt.NDArray[np.uint32]
    categories: dict[int, int]
    areas: dict[int, int]


def read_prediction(output: Any, classes: PredictedIds, picture: str) -> PanopticPrediction:
    """Check a prediction, of which nothing is changed, and bring it into one form.

    Args:
        output: ``(panoptic_seg, segments_info)``. ``panoptic_seg`` is ``(H, W)`` whole numbers.
            With a list ``segments_info`` they are segment ids, 0 where nothing is predicted;
            each segment has "id" and "category_id", which is a contiguous id of the things or the
            stuff by "isthing", or without "isthing" a category id of the JSON. With None they are
            ``class * label_divisor + instance`` by contiguous classes, or -1.
            Numbers and flags may be Python's, NumPy's or PyTorch's.
        classes: of the dataset.
        picture: its name, for messages.

    Raises:
        ConfigError: ``panoptic_seg`` holds no whole numbers or such as a PNG cannot hold; segments
            have pixels and are not listed, or the reverse, or are listed twice; or a class is
            unknown.
    """
    try:
        panoptic_seg, segments_info = output
    except (TypeError, ValueError):
        raise ConfigError(
            f"{picture}: a panoptic prediction is a pair of segment ids and their list, got "
            f"{type(output).__name__}."
        ) from None
    ids = _whole_numbers(panoptic_seg, picture)
    if segments_info is None:
        ids, segments_info = _listed_segments(ids, classes, picture)
    if ids.size and (ids.min() < 0 or ids.max() >= ID_LIMIT):
        raise ConfigError(
            f"{picture}: predicted segment ids reach from {ids.min()} to {ids.max()}; expected 0 "
            f"to {ID_LIMIT - 1}."
        )
    categories = _categories(segments_info, classes, picture)
    found, pixels = np.unique(ids, return_counts=True)
    areas = dict(zip(found.tolist(), pixels.tolist(), strict=True))
    areas.pop(VOID_ID, None)
    for absent, fault in (
        (areas.keys() - categories.keys(), "have pixels, but are not listed in segments_info"),
        (categories.keys() - areas.keys(), "are listed in segments_info, but have no pixels"),
    ):
        if absent:
            raise ConfigError(
                f"{picture}: predicted segments {listed(sorted(absent), most=5)} {fault}."
            )
    return PanopticPrediction(ids.astype(np.uint32), categories, areas)


def plain(value: Any) -> Any:
    """A number of NumPy or PyTorch as Python's own; all else as it is."""
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else value
    if isinstance(value, (np.generic, np.ndarray)):
        return value.item() if value.size == 1 else value
    return value


def _whole_numbers(panoptic_seg: Any, picture: str) -> np.ndarray:
    tensor = isinstance(panoptic_seg, Tensor)
    ids = panoptic_seg.detach().cpu().numpy() if tensor else np.asarray(panoptic_seg)
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise ConfigError(
            f"{picture}: predicted segment ids must be whole numbers (H, W), got {ids.dtype} "
            f"{ids.shape}."
        )
    return ids


def _listed_segments(
    labels: np.ndarray, classes: PredictedIds, picture: str
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Segment ids and their list, of labels that hold class and instance."""
    divisor = classes.label_divisor
    if not divisor:
        raise ConfigError(
            f"{picture}: predicted without segments_info, which needs label_divisor in the "
            f"metadata of dataset {classes.dataset}."
        )
    if labels.size and labels.min() < _NO_CLASS:
        raise ConfigError(
            f"{picture}: a predicted label is {labels.min()}; expected -1, or "
            "class * label_divisor + instance."
        )
    segments = []
    for label in np.unique(labels).tolist():
        if label != _NO_CLASS:
            index = label // divisor
            isthing = index in classes.things
            # 0 is a label here, and void in a PNG.
            segments.append({"id": label + 1, "category_id": index, "isthing": isthing})
    return labels.astype(np.int64) + 1, segments


def _categories(segments: Any, classes: PredictedIds, picture: str) -> dict[int, int]:
    """Category ids by segment id."""
    if not isinstance(segments, Sequence):
        raise ConfigError(f"{picture}: segments_info must be a list, got {type(segments)}.")
    found: dict[int, int] = {}
    for segment in segments:
        number = plain(segment.get("id"))
        if type(number) is not int or not VOID_ID < number < ID_LIMIT:
            raise ConfigError(
                f"{picture}: segments_info lists the id {number!r}; expected 1 to {ID_LIMIT - 1}."
            )
        if number in found:
            raise ConfigError(f"{picture}: segments_info lists the segment {number} twice.")
        found[number] = _category(segment, classes, f"{picture}: the predicted segment {number}")
    return found


def _category(segment: Mapping[str, Any], classes: PredictedIds, place: str) -> int:
    given, isthing = plain(segment.get("category_id")), plain(segment.get("isthing"))
    if type(given) is not int:
        raise ConfigError(f"{place} has the category_id {given!r}; expected a whole number.")
    if isthing not in (None, 0, 1):
        raise ConfigError(f"{place} has isthing {isthing!r}; expected True or False.")
    if isthing is None:
        kind, table = "category", dict(zip(classes.known, classes.known, strict=True))
    else:
        kind = "thing class" if isthing else "stuff class"
        table = dict(classes.things if isthing else classes.stuff)
    category = table.get(given)
    if category is None or category not in classes.known:
        expected = sorted(index for index, one in table.items() if one in classes.known)
        raise ConfigError(
            f"{place} has the {kind} {given}; dataset {classes.dataset} has "
            f"{listed(expected, most=8) or 'none'}."
        )
    return category
