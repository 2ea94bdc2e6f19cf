"""Chains of edges that grow one by one and keep clear of what is there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from rpanoptic.pathfinder.settings import PathfinderSettings

Point = tuple[float, float]

# Turns that are tried for an edge. Drawing turns until one leads to free ground draws them with the
# wanted probabilities among those that do.
_TURNS = 16
# Fine pixels to a clearance: of the raster in which free ground is looked up.
_RESOLUTION = 8
# Fractional bits of the coordinates that OpenCV gets.
_SHIFT = 4
# How far, in fine pixels, the centre of the pixel that holds a point can be from it, and how far
# a line of odd thickness in OpenCV can fall short of half its thickness.
_ROUNDING = math.sqrt(0.5) + 0.3

# Distribution of ``continuity * d``: its density is 2 / pi * cos^2 between -pi/2 and pi/2.
_ANGLES = np.linspace(-math.pi / 2, math.pi / 2, 2049)
_CUMULATED = 0.5 + _ANGLES / math.pi + np.sin(2 * _ANGLES) / (2 * math.pi)


class Chance:
    """Random numbers one at a time, drawn in blocks.

    Args:
        rng: the only source of chance.
        continuity: of the turns, see :class:`PathfinderSettings`.
    """

    def __init__(self, rng: np.random.Generator, continuity: float) -> None:
        self.rng = rng
        self.turns = self._turns(continuity)
        self.uniforms = self._uniforms()

    def uniform(self, low: float, high: float) -> float:
        """Between ``low`` and ``high``."""
        return low + (high - low) * next(self.uniforms)

    def heading(self) -> float:
        """Any angle, radians."""
        return self.uniform(0, 2 * math.pi)

    def bit(self) -> int:
        """0 or 1, equally likely."""
        return int(next(self.uniforms) < 0.5)

    def _turns(self, continuity: float) -> Iterator[float]:
        while True:
            drawn = np.interp(self.rng.random(256), _CUMULATED, _ANGLES)
            yield from (drawn / continuity).tolist()

    def _uniforms(self) -> Iterator[float]:
        while True:
            yield from self.rng.random(256).tolist()


class Field:
    """Ground that chains may enter: off the border, and clear of all that was blocked.

    Free ground is looked up in a raster at points along an edge. The raster errs on the side of
    blocked ground by less than one of its pixels, so that clearances hold exactly.
    """

    def __init__(self, settings: PathfinderSettings) -> None:
        clearance = settings.clearance
        self.low = settings.border + settings.thickness / 2
        self.high = settings.size - self.low
        self._scale = math.ceil(_RESOLUTION / clearance)
        self._width = self._scale * settings.size
        self._cells = bytearray(self._width**2)
        self._raster = np.frombuffer(self._cells, np.uint8).reshape(self._width, self._width)
        self._saved = np.zeros_like(self._raster)
        # Points on an edge are looked up half a clearance apart. What is nearest to a point
        # between two of them is at least as far from these as this.
        self._spacing = clearance / 2
        self._line = self._thickness(math.hypot(clearance, self._spacing / 2))
        self._disc = self._thickness(math.hypot(settings.marker_clearance, self._spacing / 2))

    def clear(self) -> None:
        """Free all ground but the border."""
        self._raster.fill(0)

    def save(self) -> None:
        """Remember what is blocked."""
        np.copyto(self._saved, self._raster)

    def restore(self) -> None:
        """Free what was blocked since :meth:`save`."""
        np.copyto(self._raster, self._saved)

    def block_edge(self, start: Point, end: Point) -> None:
        """Block all that is nearer to an edge than the clearance."""
        cv2.line(self._raster, self._fixed(start), self._fixed(end), 1, self._line, 8, _SHIFT)

    def block_disc(self, center: Point) -> None:
        """Block a disc and what is nearer to it than the margin."""
        fixed = self._fixed(center)
        cv2.line(self._raster, fixed, fixed, 1, self._disc, 8, _SHIFT)

    def has_room(self, point: Point) -> bool:
        """Whether a chain may begin here."""
        x, y = point
        if not (self.low <= x <= self.high and self.low <= y <= self.high):
            return False
        return not self._cells[int(y * self._scale) * self._width + int(x * self._scale)]

    def is_free(self, start: Point, end: Point) -> bool:
        """Whether an edge may run from ``start``, where its chain is already, to ``end``."""
        x, y = end
        low, high = self.low, self.high
        if not (low <= x <= high and low <= y <= high):
            return False
        dx, dy = x - start[0], y - start[1]
        points = math.ceil(math.hypot(dx, dy) / self._spacing)
        scale, width, cells = self._scale, self._width, self._cells
        x, y = x * scale, y * scale
        dx, dy = dx * scale / points, dy * scale / points
        for _ in range(points):
            if cells[int(y) * width + int(x)]:
                return False
            x -= dx
            y -= dy
        return True

    def _fixed(self, point: Point) -> tuple[int, int]:
        # OpenCV's whole coordinates are centres of pixels.
        factor = self._scale * (1 << _SHIFT)
        half = 1 << (_SHIFT - 1)
        return round(point[0] * factor) - half, round(point[1] * factor) - half

    def _thickness(self, radius: float) -> int:
        return 2 * math.ceil(radius * self._scale + _ROUNDING - 0.5) + 1


@dataclass
class Chain:
    """A contour as it grows.

    Attributes:
        points: its first end, its pivots, and its other end once it is complete.
        heading: of the latest edge, radians; of the first before there is one.
        length: number of edges, and of paddles, it is to have.
    """

    points: list[Point]
    heading: float
    length: int

    @property
    def edges(self) -> int:
        """That it has."""
        return len(self.points) - 1


def grow(chain: Chain, field: Field, settings: PathfinderSettings, turns: Iterator[float]) -> bool:
    """Add an edge to a chain, where the field is free.

    The first and the last edge end with their paddles, without the gap beyond.

    Returns:
        whether there was free ground in any of the directions that were tried.
    """
    number = chain.edges
    ends = (number == 0) + (number == chain.length - 1)
    length = settings.period - ends * settings.margin
    start = chain.points[-1]
    for _ in range(_TURNS if number else 1):
        heading = chain.heading + next(turns) if number else chain.heading
        end = (start[0] + length * math.cos(heading), start[1] + length * math.sin(heading))
        if field.is_free(start, end):
            chain.points.append(end)
            chain.heading = heading
            return True
    return False


def paddles(chain: Chain, settings: PathfinderSettings) -> np.ndarray:
    """Ends of the paddles of a complete chain, ``(L, 2, 2)`` (x, y) in px, first paddle first."""
    points = np.array(chain.points)
    steps = np.diff(points, axis=0)
    along = steps / np.hypot(*steps.T)[:, None]
    begin = points[:-1] + settings.margin * along
    begin[0] = points[0]
    return np.stack((begin, begin + settings.paddle_length * along), axis=1)
