"""The COCO panoptic format, and what Detectron2's "separated" form derives from it.

A panoptic PNG holds a segment id at each pixel, as ``R + 256 G + 256**2 B``; 0 is void. Its JSON
lists the segments of each picture. The separated form adds semantic PNGs (0 for every thing,
1..n for the stuff classes in the order of their ids, 255 for void) and instance annotations of
the things alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util
from PIL import Image

from rpanoptic.errors import DatasetError

VOID_ID = 0
LARGEST_SEGMENT_ID = 256**3 - 1
VOID_LABEL = 255
THINGS_LABEL = 0


def read_panoptic_png(path: Path) -> npt.NDArray[np.uint32]:
    """The segment ids of a panoptic PNG, (H, W), 0 where void.

    Raises:
        DatasetError: the file is missing, truncated, or not an RGB picture.
    """
    rgb = read_picture(path)
    if rgb.ndim != 3 or rgb.shape[2] < 3 or rgb.dtype != np.uint8:
        raise DatasetError(
            f"{path}: a panoptic PNG has three 8-bit channels (R, G, B), got shape {rgb.shape} "
            f"and type {rgb.dtype}."
        )
    return segment_ids(rgb)


def segment_ids(rgb: np.ndarray) -> npt.NDArray[np.uint32]:
    """The pixels (..., 3 or 4), R G B, of a panoptic PNG, uint8 -> its segment ids (...)."""
    # One array of the result's size; a product with weights would hold six, of huge pictures too.
    ids = rgb[..., 2].astype(np.uint32)
    for channel in (1, 0):
        ids <<= 8
        ids |= rgb[..., channel]
    return ids


def read_picture(path: Path) -> np.ndarray:
    """The pixels of an image file, as stored: (H, W) or (H, W, C).

    Raises:
        DatasetError: the file is missing, truncated or no picture; the message names it.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file.") from None
    # Pillow reports damage by OSError, SyntaxError, ValueError and others.
    except Exception as error:
        raise DatasetError(f"{path}: cannot be read as a picture ({error}).") from None


def panoptic_rgb(segment_ids: np.ndarray) -> npt.NDArray[np.uint8]:
    """Segment ids (...) below 256**3 -> the pixels (..., 3), R G B, of their panoptic PNG."""
    shifts = np.array([0, 8, 16], dtype=np.uint32)
    return (segment_ids.astype(np.uint32)[..., None] >> shifts & 255).astype(np.uint8)


class DrawnSegment(NamedTuple):
    """A segment by its pixels.

    Attributes:
        area: their number.
        bbox: x, y, width and height of the smallest box around them, in pixels.
    """

    area: int
    bbox: tuple[int, int, int, int]


def drawn_segments(ids: npt.NDArray[np.integer]) -> dict[int, DrawnSegment]:
    """The segments of a picture by id, void among them.

    It works on runs of equal ids along the rows, which are far fewer than the pixels.

    Args:
        ids: (H, W) segment ids, at least one pixel.
    """
    height, width = ids.shape
    begins = np.ones((height, width), dtype=bool)
    np.not_equal(ids[:, 1:], ids[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=ids.size)
    found, segment = np.unique(ids.ravel()[starts], return_inverse=True)
    rows, left = np.divmod(starts, width)
    right = left + lengths
    areas = np.bincount(segment, weights=lengths).astype(np.int64)
    boxes = np.empty((4, found.size), dtype=np.int64)
    boxes[:2] = max(height, width)
    boxes[2:] = 0
    np.minimum.at(boxes[0], segment, left)
    np.minimum.at(boxes[1], segment, rows)
    np.maximum.at(boxes[2], segment, right)
    np.maximum.at(boxes[3], segment, rows + 1)
    boxes[2:] -= boxes[:2]
    return {
        int(one): DrawnSegment(int(area), (int(x), int(y), int(w), int(h)))
        for one, area, x, y, w, h in zip(found, areas, *boxes, strict=True)
    }


def stuff_labels(categories: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """Category id -> label in the semantic PNGs, for all ``categories`` of a panoptic JSON.

    Things get 0. Stuff gets 1, 2, ... in the order of the ids, as Detectron2's tables have it.
    """
    ordered = sorted(categories, key=lambda category: category["id"])
    stuff = [category["id"] for category in ordered if not category["isthing"]]
    labels = {category["id"]: THINGS_LABEL for category in ordered if category["isthing"]}
    return labels | {category_id: 1 + index for index, category_id in enumerate(stuff)}


def thing_annotation(mask: np.ndarray) -> dict[str, Any]:
    """What a COCO instance annotation says of a mask.

    Args:
        mask: (H, W) boolean, with at least one pixel.

    Returns:
        ``segmentation`` (compressed RLE, its counts a string), ``area`` in pixels, and ``bbox``
        as x, y, width, height in pixels.
    """
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    rle["counts"] = rle["counts"].decode("ascii")
    rle["size"] = [int(side) for side in rle["size"]]
    return {
        "segmentation": rle,
        "area": int(mask_util.area(rle)),
        "bbox": [int(side) for side in mask_util.toBbox(rle)],
    }
