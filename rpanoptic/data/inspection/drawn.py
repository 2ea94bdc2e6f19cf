"""The segments that are drawn in a panoptic PNG: their areas and boxes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# Some tools leave the last row and column out of a box, or count them twice.
_BOX_TOLERANCE = 1


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


def bbox_differs(claimed: Any, drawn: tuple[int, int, int, int]) -> bool:
    """Whether a bbox of the JSON is no box, or has an edge more than a pixel from the drawn one.

    Args:
        claimed: any value; x, y, width and height are expected.
        drawn: x, y, width and height.
    """
    if not isinstance(claimed, list) or len(claimed) != 4:
        return True
    if any(type(side) not in (int, float) for side in claimed):
        return True
    return not all(
        abs(one - other) <= _BOX_TOLERANCE
        for one, other in zip(_edges(claimed), _edges(drawn), strict=True)
    )


def _edges(bbox: Any) -> tuple[float, float, float, float]:
    x, y, width, height = bbox
    return x, y, x + width, y + height
