"""Chains of edges that grow one by one and keep clear of what is there."""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np

from rpanoptic.pathfinder.settings import PathfinderSettings

Point = tuple[float, float]

# Turns that are tried for an edge. Drawing turns until one leads to free ground draws them with the
# wanted probabilities among those that do.
_TURNS = 16
# An edge counts as blocked if, turning by this part of the largest turn at every further pivot,
# its chain would hit the border. Without this, long chains in a small picture seldom succeed.
_TURN_BEFORE_BORDER = 0.7
# Fine pixels to a clearance: of the raster in which free ground is looked up.
_RESOLUTION = 8
# Most fine pixels on a side, 64 MB: contours that keep less apart than such a pixel keep it apart.
_MAX_WIDTH = 8192
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
    blocked ground by less than two of its pixels, so that clearances hold exactly.

    Attributes:
        low, high: least and greatest coordinate of a centre line, px.
    """

    def __init__(self, settings: PathfinderSettings) -> None:
        clearance = settings.clearance
        self.low = settings.border + settings.thickness / 2
        self.high = settings.size - self.low
        self._scale = min(math.ceil(_RESOLUTION / clearance), max(_MAX_WIDTH // settings.size, 1))
        self._width = self._scale * settings.size
        self._cells = bytearray(self._width**2)
        self._raster = np.frombuffer(self._cells, np.uint8).reshape(self._width, self._width)
        # Points on an edge are looked up half a clearance apart. What is nearest to a point
        # between two of them is at most so much farther from one of these.
        self._spacing = clearance / 2
        self._line = self._thickness(math.hypot(clearance, self._spacing / 2))
        self._disc = self._thickness(math.hypot(settings.marker_clearance, self._spacing / 2))
        turn = _TURN_BEFORE_BORDER * math.pi / 2 / settings.continuity
        self._turning_radius = settings.period / (2 * math.sin(turn / 2))

    def clear(self) -> None:
        """Free all ground but the border."""
        self._raster.fill(0)

    def around(self, point: Point, distance: float) -> np.ndarray:
        """What is blocked in the square that reaches ``distance`` px from a point; a view."""
        low_x, high_x, low_y, high_y = (
            min(max(round((value + sign * distance) * self._scale), 0), self._width)
            for value in point
            for sign in (-1, 1)
        )
        return self._raster[low_y:high_y, low_x:high_x]

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
        if not (self.low <= x <= self.high and self.low <= y <= self.high):
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

    def can_turn(self, point: Point, along_x: float, along_y: float) -> bool:
        """Whether a chain can still turn aside before the border.

        Args:
            point: its end.
            along_x, along_y: unit vector of its heading.
        """
        x, y = point
        room_x = self.high - x if along_x > 0 else x - self.low
        room_y = self.high - y if along_y > 0 else y - self.low
        radius = self._turning_radius
        return room_x >= radius * (1 - abs(along_y)) and room_y >= radius * (1 - abs(along_x))

    def _fixed(self, point: Point) -> tuple[int, int]:
        # OpenCV's whole coordinates are centres of pixels.
        factor = self._scale << _SHIFT
        half = 1 << (_SHIFT - 1)
        return int(point[0] * factor) - half, int(point[1] * factor) - half

    def _thickness(self, radius: float) -> int:
        return 2 * math.ceil(radius * self._scale + _ROUNDING - 0.5) + 1


class Chain:
    """A contour that grows, edge by edge.

    The first and the last edge end with their paddles, without the gap beyond.

    Args:
        start: its first end.
        heading: of its first edge, radians.
        length: number of edges, and of paddles, it is to have.
        settings: lengths of paddles and gaps.

    Attributes:
        points: the first end, the pivots, and the other end once it is complete.
    """

    def __init__(
        self, start: Point, heading: float, length: int, settings: PathfinderSettings
    ) -> None:
        self.points = [start]
        self.length = length
        self._headings = [heading]
        self._period = settings.period
        self._margin = settings.margin
        self._paddle = settings.paddle_length

    @property
    def is_complete(self) -> bool:
        """Whether it has all its edges."""
        return len(self.points) > self.length

    def grow(self, field: Field, turns: Iterator[float]) -> bool:
        """Add an edge where the field is free.

        Returns:
            whether there was free ground in any of the directions that were tried. An edge that
            heads for the border too late to turn counts as blocked, unless it is the last.
        """
        number = len(self.points) - 1
        first, last = number == 0, number == self.length - 1
        length = self._period - (first + last) * self._margin
        start, before = self.points[-1], self._headings[-1]
        for _ in range(1 if first else _TURNS):
            heading = before if first else before + next(turns)
            along_x, along_y = math.cos(heading), math.sin(heading)
            end = (start[0] + length * along_x, start[1] + length * along_y)
            if field.is_free(start, end) and (last or field.can_turn(end, along_x, along_y)):
                self.points.append(end)
                self._headings.append(heading)
                return True
        return False

    def shorten(self, edges: int) -> None:
        """Leave the first ``edges`` edges."""
        del self.points[edges + 1 :], self._headings[edges + 1 :]

    def paddles(self) -> np.ndarray:
        """Ends of its paddles, ``(L, 2, 2)`` (x, y) in px, first paddle first."""
        points = np.array(self.points)
        headings = np.array(self._headings[1:])
        along = np.stack((np.cos(headings), np.sin(headings)), axis=1)
        begin = points[:-1] + self._margin * along
        begin[0] = points[0]
        return np.stack((begin, begin + self._paddle * along), axis=1)
