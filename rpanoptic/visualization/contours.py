"""Contours drawn over grey pictures: the true one, a prediction, what is read out step by step."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb

from rpanoptic.visualization.style import ORANGE, SKY, YELLOW

# Where a picture is black and where it is white. Not as far apart as they are, so that colour
# stands out over both.
_GROUND, _LINES = np.array([18.0, 23.0, 33.0]), np.array([128.0, 133.0, 143.0])
_CONTOUR, _WRONG, _MISSED = (255 * np.array(to_rgb(color)) for color in (SKY, ORANGE, YELLOW))


def draw_contour(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Draw the true contour over a picture.

    Args:
        image: ``(H, W)`` uint8, grey.
        target: ``(H, W)``, above 0 on the contour.

    Returns:
        ``(H, W, 3)`` uint8, RGB: the contour sky-blue over the dimmed picture.

    Raises:
        ValueError: arrays of other shapes.
    """
    _check_shape("target", target, _check_grey(image))
    return _painted(_dimmed(image), _CONTOUR, target > 0)


def draw_prediction(
    image: np.ndarray, target: np.ndarray | None, probability: np.ndarray
) -> np.ndarray:
    """Draw a prediction over a picture.

    With the truth, a pixel counts as predicted from a probability of 1/2 and has one of three
    colours: sky-blue where it is right, orange where it is not on the contour, yellow where the
    contour was missed. Without, the colour is the stronger, the higher the probability.

    Args:
        image: ``(H, W)`` uint8, grey.
        target: ``(H, W)``, above 0 on the true contour; None where it is not known.
        probability: ``(H, W)``, 0 to 1, of the contour; a mask of 0 and 1 serves too.

    Returns:
        ``(H, W, 3)`` uint8, RGB, over the dimmed picture.

    Raises:
        ValueError: arrays of other shapes.
    """
    size = _check_grey(image)
    _check_shape("probability", probability, size)
    canvas = _dimmed(image)
    if target is None:
        # What is not finite, of a state that has run away, is drawn as no contour.
        return _painted(canvas, _CONTOUR, np.nan_to_num(probability, posinf=0, neginf=0))
    _check_shape("target", target, size)
    true, predicted = target > 0, probability >= 0.5
    canvas = _painted(canvas, _CONTOUR, true & predicted)
    canvas = _painted(canvas, _WRONG, ~true & predicted)
    return _painted(canvas, _MISSED, true & ~predicted)


def _dimmed(image: np.ndarray) -> np.ndarray:
    return _painted(np.broadcast_to(_GROUND, (*image.shape, 3)), _LINES, image / 255)


def _painted(canvas: np.ndarray, color: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Put ``(H, W)`` of a colour over ``(H, W, 3)``."""
    share = np.clip(opacity, 0, 1).astype(float)[:, :, None]
    return np.rint(canvas + share * (color - canvas)).astype(np.uint8)


def _check_grey(image: np.ndarray) -> tuple[int, int]:
    if image.ndim != 2 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"image must be (H, W) uint8, grey; got {image.shape} of {image.dtype}")
    height, width = image.shape
    return height, width


def _check_shape(name: str, values: np.ndarray, size: tuple[int, int]) -> None:
    if values.shape != size:
        raise ValueError(f"{name} must be {size} like the image, got {values.shape}")
