"""Paddles and discs as pixels."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from rpanoptic.pathfinder.settings import PathfinderSettings

# Fractional bits of the coordinates that OpenCV gets.
_SHIFT = 8
# OpenCV fills the pixels on a shape's outline too; half a pixel less on every side makes up for it.
_OUTLINE = 0.5


def draw(
    settings: PathfinderSettings,
    paddles: np.ndarray,
    brightness: np.ndarray,
    markers: np.ndarray,
) -> np.ndarray:
    """Draw paddles, and discs over them.

    Args:
        settings: size, thickness, radius of the discs, antialias.
        paddles: ``(N, 2, 2)``, their ends (x, y) in px.
        brightness: ``(N,)`` in 0..1, of each.
        markers: ``(M, 2)``, centres of the discs, whose brightness is 1.

    Returns:
        ``(size, size)`` uint8, 255 times brightness times the part of a pixel that is covered.
    """
    scale = settings.antialias
    side = scale * settings.size
    canvas = np.zeros((side, side), np.uint8)
    corners = _corners(settings, paddles)
    for value in np.unique(brightness):
        chosen = corners[brightness == value]
        cv2.fillPoly(canvas, list(chosen), round(255 * float(value)), shift=_SHIFT)
    radius = round(max(scale * settings.marker_radius - _OUTLINE, 0) * (1 << _SHIFT))
    for center in _fixed(scale * markers).tolist():
        cv2.circle(canvas, center, radius, 255, cv2.FILLED, cv2.LINE_8, _SHIFT)
    if scale == 1:
        return canvas
    shape = (settings.size, settings.size)
    return cv2.resize(canvas, shape, interpolation=cv2.INTER_AREA)


def mask(
    settings: PathfinderSettings, contours: Iterable[np.ndarray], markers: np.ndarray
) -> np.ndarray:
    """Pixels of contours and discs, ``(size, size)`` uint8 of 0 and 1.

    A pixel is in when more than half of it is covered; for paddles thinner than 2 px, more than
    half of what a paddle covers where it lies across two pixels equally, so that they have pixels
    wherever they lie.
    """
    paddles = np.concatenate(list(contours))
    drawn = draw(settings, paddles, np.ones(len(paddles)), markers)
    threshold = 255 * min(settings.thickness, 2) / 4
    return (drawn > threshold).astype(np.uint8)


def _corners(settings: PathfinderSettings, paddles: np.ndarray) -> np.ndarray:
    start, end = paddles[:, 0], paddles[:, 1]
    along = end - start
    along /= np.hypot(*along.T)[:, None]
    across = np.stack((-along[:, 1], along[:, 0]), axis=1)
    scale = settings.antialias
    across *= max(scale * settings.thickness / 2 - _OUTLINE, 0)
    along *= _OUTLINE
    start, end = scale * start + along, scale * end - along
    return _fixed(np.stack((start + across, end + across, end - across, start - across), axis=1))


def _fixed(points: np.ndarray) -> np.ndarray:
    # OpenCV's whole coordinates are centres of pixels.
    return np.rint((points - 0.5) * (1 << _SHIFT)).astype(np.int32)
