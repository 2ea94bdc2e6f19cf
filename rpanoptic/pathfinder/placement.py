"""Where the contours, the distractors and the discs of a picture lie."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np

from rpanoptic.pathfinder.growth import Chain, Chance, Field, Point
from rpanoptic.pathfinder.settings import PathfinderSettings

# Two ends of one contour, and two of different ones, count as equally far apart when their
# distances differ by less than this part of their mean.
_EQUAL_DISTANCE = 0.05
# Edges by which chains are shortened first at a dead end.
_CUT = 2
# How often complete contours are judged, each time with new later halves, before all is begun anew.
_REGROWN = 8


@dataclass(frozen=True)
class Budget:
    """How often something is tried before the settings count as impossible.

    Attributes:
        rounds: in which both contours of a picture get an edge, in all attempts to place them.
        starts: of a distractor.
        pictures: arrangements that are begun anew because a distractor found no room.
    """

    rounds: int = 30_000
    starts: int = 300
    pictures: int = 30


class NoRoomError(Exception):
    """The attempts are spent.

    Attributes:
        setting: "lengths" or "distractors".
        reached: the most paddles of each contour, or distractors, that an attempt placed.
    """

    def __init__(self, setting: str, reached: int) -> None:
        super().__init__(f"no room for {setting}, reached {reached}")
        self.setting = setting
        self.reached = reached


@dataclass(frozen=True)
class Placement:
    """The geometry of a picture; coordinates are (x, y) in px.

    Attributes:
        contours: paddles of the two, ``(L, 2, 2)`` each.
        distractors: paddles of each, ``(D, 2, 2)``.
        marked: the contour that has the first disc.
        label: 1 if all discs are on that contour.
        markers: centres of the discs, ``(1, 2)`` or ``(2, 2)``.
    """

    contours: tuple[np.ndarray, np.ndarray]
    distractors: tuple[np.ndarray, ...]
    marked: int
    label: int
    markers: np.ndarray


def place(
    settings: PathfinderSettings, length: int, rng: np.random.Generator, budget: Budget
) -> Placement:
    """Arrange a picture with contours of ``length`` paddles.

    Raises:
        NoRoomError: the budget is spent.
    """
    chance = Chance(rng, settings.continuity)
    coin = chance.bit()
    placed = 0
    for _ in range(budget.pictures):
        pair = _Pair(settings, length, chance)
        marks = _place_pair(pair, coin, budget)
        others: list[Chain] = []
        field = pair.ground()
        while len(others) < settings.distractors:
            chain = _place_distractor(field, settings, length, chance, budget)
            if chain is None:
                break
            others.append(chain)
        else:
            first, second = (chain.paddles() for chain in pair.chains)
            return Placement(
                (first, second),
                tuple(chain.paddles() for chain in others),
                marks.contour,
                marks.label,
                np.array(marks.centers),
            )
        placed = max(placed, len(others))
    raise NoRoomError("distractors", placed)


@dataclass(frozen=True)
class _Marks:
    contour: int
    label: int
    centers: list[Point]


def _place_pair(pair: _Pair, coin: int, budget: Budget) -> _Marks:
    while pair.rounds < budget.rounds:
        complete = pair.grow()
        for _ in range(_REGROWN):
            if not complete:
                break
            marks = pair.marks(coin)
            if marks is not None:
                return marks
            complete = pair.grow_again()
    raise NoRoomError("lengths", pair.reached)


class _Pair:
    """The two contours of a picture, each with the field in which it grows.

    A chain's own latest edge enters its own field late, as its next edge begins there; the other
    chain's field has it at once.
    """

    def __init__(self, settings: PathfinderSettings, length: int, chance: Chance) -> None:
        self.settings = settings
        self.length = length
        self.chance = chance
        self.fields = (Field(settings), Field(settings))
        self.chains: tuple[Chain, Chain]
        self.reached = 0
        self.rounds = 0
        # Edges after which a chain that turns as it may has left its own disc.
        self._leaving = 1 + math.ceil(settings.marker_clearance / settings.period)

    def grow(self) -> bool:
        """Try once; whether both chains are complete.

        Where one runs into a dead end, the latest edges of both are drawn anew: a few at first,
        more each time that leads no further.
        """
        self._seed()
        self.rounds += 1
        if not all(field.has_room(c.points[0]) for field, c in self._both()):
            return False
        return self._complete(0)

    def grow_again(self) -> bool:
        """Draw the later halves of complete chains anew; whether they are complete again."""
        self._shorten(self.length // 2)
        return self._complete(self.length // 2)

    def _complete(self, edges: int) -> bool:
        farthest, cut = edges, 0
        while edges < self.length:
            self.rounds += 1
            if self._add_edges():
                edges += 1
                if edges > farthest:
                    farthest, cut = edges, 0
                continue
            self.reached = max(self.reached, farthest)
            cut += _CUT
            edges -= cut
            if edges < 1:
                return False
            self._shorten(edges)
        return True

    def _add_edges(self) -> bool:
        for mine, (field, chain) in enumerate(self._both()):
            if not chain.grow(field, self.chance.turns):
                return False
            self._block(mine, len(chain.points) - 1)
        return True

    def _block(self, mine: int, number: int) -> None:
        """Block edge ``number``, from 1, of a chain for the other, and the edge before for it."""
        points, field = self.chains[mine].points, self.fields[mine]
        self.fields[1 - mine].block_edge(points[number - 1], points[number])
        if number > 1:
            field.block_edge(points[number - 2], points[number - 1])
        # A chain keeps off its own disc too, once it has left it.
        if number == self._leaving:
            field.block_disc(points[0])

    def _shorten(self, edges: int) -> None:
        self._clear_fields()
        for mine, chain in enumerate(self.chains):
            chain.shorten(edges)
            for number in range(1, edges + 1):
                self._block(mine, number)

    def _clear_fields(self) -> None:
        for field, other in zip(self.fields, self.chains[::-1], strict=True):
            field.clear()
            field.block_disc(other.points[0])

    def marks(self, coin: int) -> _Marks | None:
        """The discs of complete chains; None where they find no room or would tell the answer."""
        if self.settings.form == "segmentation":
            return _Marks(coin, 1, [self.chains[coin].points[0]])
        marks = self._matched_marks() if self._last_discs_are_clear() else None
        if marks is None or not coin:
            return marks
        # The chains' names are arbitrary; a coin gives them, so that each is equally often marked.
        self.chains = self.chains[::-1]
        self.fields = self.fields[::-1]
        return replace(marks, contour=1 - marks.contour)

    def ground(self) -> Field:
        """A field with both chains, and discs at all ends that might have one."""
        field = self.fields[0]
        chain = self.chains[0]
        field.block_edge(chain.points[-2], chain.points[-1])
        for chain in self.chains:
            for center in self._ends(chain):
                field.block_disc(center)
        return field

    def _both(self) -> zip[tuple[Field, Chain]]:
        return zip(self.fields, self.chains, strict=True)

    def _ends(self, chain: Chain) -> list[Point]:
        ends = [chain.points[0]]
        return ends if self.settings.form == "segmentation" else [*ends, chain.points[-1]]

    def _seed(self) -> None:
        settings, chance = self.settings, self.chance
        inset = self.fields[0].low + 2 * settings.seed_distance
        low, high = inset, max(settings.size - inset, inset)
        x, y = chance.uniform(low, high), chance.uniform(low, high)
        direction = chance.heading()
        across_x = settings.seed_distance * math.cos(direction)
        across_y = settings.seed_distance * math.sin(direction)
        heading = chance.heading()
        if settings.form == "classification":
            # A disc stands at one of the two. Neither its place nor its contour's first heading
            # may say which, as contours seldom turn back.
            x, y, other = x - across_x / 2, y - across_y / 2, heading
        else:
            other = chance.heading()
        self.chains = (
            Chain((x, y), heading, self.length, settings),
            Chain((x + across_x, y + across_y), other, self.length, settings),
        )
        self._clear_fields()

    def _last_discs_are_clear(self) -> bool:
        settings = self.settings
        low = settings.border + settings.marker_radius
        high = settings.size - low
        lasts = [chain.points[-1] for chain in self.chains]
        if not all(low <= value <= high for point in lasts for value in point):
            return False
        ends = [end for chain in self.chains for end in self._ends(chain)]
        apart = 2 * settings.marker_radius + settings.margin
        if any(math.dist(a, b) < apart for a, b in itertools.combinations(ends, 2)):
            return False
        return all(
            _distance(last, other.points) >= settings.marker_clearance
            for last, other in zip(lasts, self.chains[::-1], strict=True)
        )

    def _matched_marks(self) -> _Marks | None:
        # The distance of the discs must not tell whether they are on one contour: a last end has to
        # be as far from both first ends before a coin chooses one of these.
        firsts = [chain.points[0] for chain in self.chains]
        lasts = [chain.points[-1] for chain in self.chains]
        matched = []
        for shared, last in enumerate(lasts):
            near, far = (math.dist(first, last) for first in (firsts[shared], firsts[1 - shared]))
            if abs(near - far) < _EQUAL_DISTANCE * (near + far) / 2:
                matched.append(shared)
        if not matched:
            return None
        shared = matched[int(self.chance.uniform(0, len(matched)))]
        label = self.chance.bit()
        contour = shared if label else 1 - shared
        return _Marks(contour, label, [firsts[contour], lasts[shared]])


def _place_distractor(
    field: Field, settings: PathfinderSettings, length: int, chance: Chance, budget: Budget
) -> Chain | None:
    edges = settings.length_of_distractors(length)
    reach = edges * settings.period + settings.clearance + settings.period
    for _ in range(budget.starts):
        start = (chance.uniform(field.low, field.high), chance.uniform(field.low, field.high))
        if not field.has_room(start):
            continue
        chain = Chain(start, chance.heading(), edges, settings)
        if not chain.grow(field, chance.turns):
            continue
        ground = field.around(start, reach)
        before = ground.copy()
        while not chain.is_complete and chain.grow(field, chance.turns):
            field.block_edge(chain.points[-3], chain.points[-2])
        if chain.is_complete:
            field.block_edge(chain.points[-2], chain.points[-1])
            return chain
        ground[:] = before
    return None


def _distance(point: Point, chain: list[Point]) -> float:
    """From a point to the nearest of a chain's edges."""
    vertices = np.array(chain)
    start, steps = vertices[:-1], np.diff(vertices, axis=0)
    along = ((point - start) * steps).sum(1) / (steps**2).sum(1)
    nearest = start + np.clip(along, 0, 1)[:, None] * steps
    return float(np.hypot(*(point - nearest).T).min())
