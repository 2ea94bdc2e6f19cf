"""Pathfinder samples that several tests look at, and their geometry."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from rpanoptic.pathfinder.generator import PathfinderSample, generate
from rpanoptic.pathfinder.settings import (
    PathfinderSettings,
    paper_settings,
    small_32_settings,
    small_128_settings,
)

SETS: dict[str, tuple[PathfinderSettings, int]] = {
    "14": (paper_settings(14), 60),
    "25": (paper_settings(25), 20),
    "mixed": (paper_settings(*range(10, 26)), 48),
    "14 classification": (paper_settings(14, form="classification"), 40),
    "128": (small_128_settings(margin=2.0), 150),
    "32": (replace(small_32_settings(), contrasts=(0.4, 0.7, 1.0)), 900),
    "32 classification": (
        replace(small_32_settings(form="classification"), contrasts=(0.4, 0.7, 1.0)),
        300,
    ),
}
SEED = 3


@functools.lru_cache
def samples(name: str) -> tuple[PathfinderSample, ...]:
    """Those of a set of :data:`SETS`, in order."""
    settings, number = SETS[name]
    return tuple(generate(settings, SEED, index) for index in range(number))


def directions(paddles: np.ndarray) -> np.ndarray:
    """Unit vectors (L, 2) along the paddles of a contour."""
    along = paddles[:, 1] - paddles[:, 0]
    return along / np.hypot(*along.T)[:, None]


def pivots(settings: PathfinderSettings, paddles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where neighbouring paddles' lines should meet, (L - 1, 2), from one side and the other."""
    along = settings.margin * directions(paddles)
    return paddles[:-1, 1] + along[:-1], paddles[1:, 0] - along[1:]


def edges(settings: PathfinderSettings, paddles: np.ndarray) -> np.ndarray:
    """The chain under a contour's paddles with its gaps, (L, 2, 2), from its first end to its last.

    Follows from the paddles alone, not from how the generator grows them.
    """
    joints, _ = pivots(settings, paddles)
    points = np.concatenate((paddles[:1, 0], joints, paddles[-1:, 1]))
    return np.stack((points[:-1], points[1:]), axis=1)


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Between segments (M, 2, 2) and segments (N, 2, 2), (M, N); 0 where they cross."""
    a, b = first[:, None, 0], first[:, None, 1]
    c, d = second[None, :, 0], second[None, :, 1]
    crossing = (_side(a, b, c) * _side(a, b, d) < 0) & (_side(c, d, a) * _side(c, d, b) < 0)
    apart = np.minimum.reduce([_to(a, c, d), _to(b, c, d), _to(c, a, b), _to(d, a, b)])
    return np.where(crossing, 0.0, apart)


def _side(start: np.ndarray, end: np.ndarray, point: np.ndarray) -> np.ndarray:
    along, to = end - start, point - start
    return along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0]


def _to(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    along = end - start
    part = ((point - start) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-12)
    nearest = start + np.clip(part, 0, 1)[..., None] * along
    return np.linalg.norm(point - nearest, axis=-1)
