"""Reads COCO's instance and stuff annotations: one mask per annotation, which may overlap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util

from rpanoptic.data.panoptic_json import COCO_LISTS, faults, read_lists
from rpanoptic.errors import DatasetError

_MIN_COORDINATES = 6  # three points
# pycocotools ends the process at outlines that are much longer.
_MOST_COORDINATE = 100_000


@dataclass(frozen=True)
class CocoAnnotations:
    """A COCO JSON whose annotations have masks.

    Attributes:
        path: the file.
        images: its images by their ids, in the file's order.
        categories: its categories by their ids.
        annotations: the annotations of each image that has some, in the file's order.
        header: its "info" and its "licenses", which images may name.
    """

    path: Path
    images: dict[int | str, Mapping[str, Any]]
    categories: dict[int, Mapping[str, Any]]
    annotations: dict[int | str, list[Mapping[str, Any]]]
    header: dict[str, Any]


def read_coco_annotations(path: Path) -> CocoAnnotations:
    """Read a COCO JSON of instances or stuff segments and check that its parts fit together.

    Masks are not looked at; :func:`decoded_mask` does that.

    Raises:
        DatasetError: there is no such file, it is no such JSON, an entry lacks a field or holds
            something else there, or an annotation names an image or a category that the file
            lacks. The message names the file and the entry.
    """
    content = read_lists(path, "COCO JSON of annotations", COCO_LISTS)
    # Images and categories are as in a panoptic JSON, but that "isthing" is rare.
    categories = [
        {"isthing": 1, **entry} if isinstance(entry, dict) else entry
        for entry in content["categories"]
    ]
    common = {"images": content["images"], "categories": categories, "annotations": []}
    for fault in faults(common):
        raise DatasetError(f"{path}: {fault.where} {fault.what}.")
    read = CocoAnnotations(
        path,
        {image["id"]: image for image in content["images"]},
        {category["id"]: category for category in content["categories"]},
        {},
        {key: content[key] for key in ("info", "licenses") if key in content},
    )
    for index, annotation in enumerate(content["annotations"]):
        if what := _fault(annotation, read):
            name = annotation_name(annotation) if isinstance(annotation, dict) else "an annotation"
            raise DatasetError(f"{path}: annotations[{index}] ({name}) {what}.")
        read.annotations.setdefault(annotation["image_id"], []).append(annotation)
    return read


def annotation_name(annotation: Mapping[str, Any]) -> str:
    """How messages name an annotation."""
    return f"annotation {annotation.get('id', 'without id')}"


def _fault(annotation: Any, read: CocoAnnotations) -> str | None:
    if not isinstance(annotation, dict):
        return "must be an object"
    if "segments_info" in annotation:
        return "is of a COCO panoptic JSON, which needs no conversion"
    for key, known in (("image_id", read.images), ("category_id", read.categories)):
        value = annotation.get(key)
        # type(), not isinstance: True is an int, too, and 1.0 finds the key 1.
        if type(value) not in (int, str) or value not in known:
            return f"has {key} {value!r}, which the file lacks"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return f"must have 0 or 1 as 'iscrowd', got {annotation['iscrowd']!r}"
    if "segmentation" not in annotation:
        return "lacks 'segmentation'; a box alone tells no pixels"
    return None


def decoded_mask(segmentation: Any, height: int, width: int) -> npt.NDArray[np.bool_]:
    """The pixels of an annotation.

    Args:
        segmentation: a list of polygons ``[x, y, x, y, ...]``, in pixels from the corner, each
            number up to 100,000 either way, of which those of less than three points have no
            area; or RLE, an object with "size" (height, width) and "counts", a list or COCO's
            compressed string.
        height: of the picture.
        width: of the picture.

    Returns:
        (H, W).

    Raises:
        ValueError: it is none of these, or of another size.
    """
    if isinstance(segmentation, list):
        return _polygon_mask(segmentation, height, width)
    if not isinstance(segmentation, dict):
        raise ValueError("'segmentation' must be a list of polygons, or RLE")
    if segmentation.get("size") != [height, width]:
        raise ValueError(
            f"its RLE is of size {segmentation.get('size')} (height, width), the picture of "
            f"{[height, width]}"
        )
    counts = segmentation.get("counts")
    rle: Mapping[str, Any] = segmentation
    if isinstance(counts, list):
        if any(type(count) is not int or count < 0 for count in counts):
            raise ValueError("its RLE must have whole numbers from 0 as 'counts'")
        if sum(counts) != height * width:
            raise ValueError(f"its RLE counts {sum(counts)} pixels of {height * width}")
        rle = mask_util.frPyObjects(segmentation, height, width)
    elif not isinstance(counts, str):
        raise ValueError("its RLE must have a list or a string as 'counts'")
    try:
        mask = mask_util.decode(rle)
        area = int(mask_util.area(rle))
    except ValueError as error:
        raise ValueError(f"its RLE cannot be decoded ({error})") from None
    # pycocotools leaves the rest of the mask as the memory was, if the counts end early.
    if mask.max(initial=0) > 1 or np.count_nonzero(mask) != area:
        raise ValueError("its RLE ends before the last pixel")
    return mask.astype(bool)


def _polygon_mask(polygons: list[Any], height: int, width: int) -> npt.NDArray[np.bool_]:
    for polygon in polygons:
        numbers = isinstance(polygon, list) and all(
            type(one) in (int, float) and abs(one) <= _MOST_COORDINATE for one in polygon
        )
        if not numbers or len(polygon) % 2:
            raise ValueError(
                "a polygon must be a list of numbers x, y, x, y, ..., each up to "
                f"{_MOST_COORDINATE} pixels"
            )
    # pycocotools takes four numbers for a box.
    whole = [polygon for polygon in polygons if len(polygon) >= _MIN_COORDINATES]
    if not whole:
        return np.zeros((height, width), dtype=bool)
    return mask_util.decode(mask_util.merge(mask_util.frPyObjects(whole, height, width))).astype(
        bool
    )
