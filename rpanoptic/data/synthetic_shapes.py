"""Outlines of the synthetic things, and the drawing of one of them."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

# Masks are filled on a grid this many times finer, then averaged: smooth edges.
_SUPERSAMPLING = 4
_STAR_INNER_RADIUS = 0.45


def _regular_polygon(corners: int) -> npt.NDArray[np.float64]:
    angles = 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star(points: int) -> npt.NDArray[np.float64]:
    outline = _regular_polygon(2 * points)
    outline[1::2] *= _STAR_INNER_RADIUS
    return outline


# Corners (x, y) of each outline on or inside the unit circle.
OUTLINES = {
    "disk": _regular_polygon(48),
    "square": _regular_polygon(4),
    "triangle": _regular_polygon(3),
    "star": _star(5),
}


def _polygon_area(corners: npt.NDArray[np.float64]) -> float:
    x, y = corners.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


_UNIT_AREAS = {name: _polygon_area(corners) for name, corners in OUTLINES.items()}


def shape_area(name: str, radius: float) -> float:
    """Area in square pixels of a shape whose circumscribed circle has ``radius`` pixels."""
    return _UNIT_AREAS[name] * radius**2


class Coverage(NamedTuple):
    """How much of each pixel a shape covers, from 0 to 1, in a window of the picture.

    Attributes:
        window: the rows and the columns of the picture that ``alpha`` stands for.
        alpha: (rows, columns) float32; outside the window nothing is covered.
    """

    window: tuple[slice, slice]
    alpha: npt.NDArray[np.float32]


def shape_coverage(
    name: str,
    size: int,
    centre: tuple[float, float],
    radius: float,
    angle: float,
    margin: float = 0.0,
) -> Coverage:
    """Draw a shape. Parts of it may lie outside the picture.

    Args:
        name: a key of ``OUTLINES``.
        size: side of the picture in pixels.
        centre: x, y of the circumscribed circle's centre, in pixels, inside the picture.
        radius: of the circumscribed circle, in pixels.
        angle: rotation in radians.
        margin: how much wider than that circle the window is, in pixels.
    """
    left, top = (max(0, int(c - radius - margin)) for c in centre)
    right, bottom = (min(size, int(np.ceil(c + radius + margin)) + 1) for c in centre)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = OUTLINES[name] @ rotation * radius + np.asarray(centre) - (left, top)
    rows, columns = bottom - top, right - left
    fine = np.zeros((rows * _SUPERSAMPLING, columns * _SUPERSAMPLING), dtype=np.uint8)
    cv2.fillPoly(fine, [np.round(corners * _SUPERSAMPLING).astype(np.int32)], 255)
    coarse = cv2.resize(fine, (columns, rows), interpolation=cv2.INTER_AREA)
    return Coverage((slice(top, bottom), slice(left, right)), coarse.astype(np.float32) / 255)
