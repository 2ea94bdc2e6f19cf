"""Textures of the synthetic stuff, and the regions that they fill.

A texture is a (size, size) float32 field from 0 to 1, that blends two tones of a colour. Lengths
are fractions of the picture's side, so that pictures of any size look alike.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]

# A region covers at least this fraction of what it is cut from.
_MIN_SHARE = 0.3


def _coordinates(size: int) -> tuple[Field, Field]:
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    return axis[None, :], axis[:, None]


def _rotated(size: int, angle: float) -> tuple[Field, Field]:
    x, y = _coordinates(size)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * x + sin * y, cos * y - sin * x


def _soft_step(signed: Field) -> Field:
    """0 below -1, 1 above 1, linear between."""
    return np.clip(0.5 + 0.5 * signed, 0, 1)


def stripes(size: int, rng: np.random.Generator) -> Field:
    """Soft parallel bands in any direction."""
    along, _ = _rotated(size, rng.uniform(0, np.pi))
    period = rng.uniform(0.09, 0.16)
    wave = np.sin(along * np.float32(2 * np.pi / period) + np.float32(rng.uniform(0, 2 * np.pi)))
    return _soft_step(2 * wave)


def checks(size: int, rng: np.random.Generator) -> Field:
    """A chequerboard in any direction."""
    u, v = _rotated(size, rng.uniform(0, np.pi))
    scale = np.float32(2 * np.pi / rng.uniform(0.13, 0.19))
    shift = rng.uniform(0, 2 * np.pi, size=2).astype(np.float32)
    return _soft_step(3.5 * np.sin(u * scale + shift[0]) * np.sin(v * scale + shift[1]))


def dots(size: int, rng: np.random.Generator) -> Field:
    """Small discs on a square lattice in any direction."""
    u, v = _rotated(size, rng.uniform(0, np.pi))
    spacing = rng.uniform(0.09, 0.14)
    shift = rng.uniform(0, 1, size=2).astype(np.float32)
    # Offsets to the nearest lattice point, in units of the spacing.
    du, dv = (u / np.float32(spacing) + shift[0]), (v / np.float32(spacing) + shift[1])
    du, dv = du - np.rint(du), dv - np.rint(dv)
    radius = np.float32(rng.uniform(0.24, 0.32))
    return _soft_step((radius - np.sqrt(du * du + dv * dv)) * 9)


def clouds(size: int, rng: np.random.Generator) -> Field:
    """Smooth noise of two octaves."""
    cells = int(rng.integers(4, 8))
    noise = np.zeros((size, size), dtype=np.float32)
    for octave, weight in ((1, 1.0), (2, 0.5)):
        grid = rng.random((cells * octave, cells * octave), dtype=np.float32)
        noise += weight * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    low, high = float(noise.min()), float(noise.max())
    return (noise - low) / (high - low)


TEXTURES: dict[str, Callable[[int, np.random.Generator], Field]] = {
    "stripes": stripes,
    "checks": checks,
    "dots": dots,
    "clouds": clouds,
}


def partition(size: int, regions: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Cut a square picture into regions by straight or wavy lines.

    Args:
        size: side in pixels.
        regions: how many, at least 1.
        rng: source of the lines.

    Returns:
        (size, size) map of the region of each pixel, 0 to ``regions - 1``.
    """
    labels = np.zeros((size, size), dtype=np.uint8)
    for new in range(1, regions):
        # The largest region is cut, so that none gets small.
        target = labels == np.bincount(labels.ravel()).argmax()
        along, across = _rotated(size, rng.uniform(0, 2 * np.pi))
        amplitude = rng.uniform(0.02, 0.07) if rng.random() < 0.7 else 0.0
        wave = np.sin(across * np.float32(2 * np.pi * rng.uniform(0.8, 2.5)) + rng.uniform(0, 6.28))
        height = along + np.float32(amplitude) * wave.astype(np.float32)
        # Every eighth pixel tells the quantile well enough.
        level = np.quantile(height[target][::8], rng.uniform(_MIN_SHARE, 1 - _MIN_SHARE))
        labels[target & (height > level)] = new
    return labels
