"""What is possible next to settings that are not: values with which probes find room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rpanoptic.pathfinder.placement import Budget, NoRoomError, place
from rpanoptic.pathfinder.settings import MAX_SIZE, PathfinderError, PathfinderSettings

# All of so many pictures have to be arranged within a part of the usual budget, so that hardly any
# picture with the named value needs more than all of it.
_PROBES = 12
_BUDGET = Budget(rounds=3_000, starts=100, pictures=5)
_MOST_TIMES_LARGER = 4
# Values are searched for to such a part of them, and exactly below it.
_PRECISION = 16
_SEED = 0


def impossible(settings: PathfinderSettings, length: int, error: NoRoomError) -> PathfinderError:
    """The error that says which setting is at fault, and the nearest value that leaves room.

    The search is bounded: it probes the values of one setting by bisection.

    Args:
        settings: for which a picture could not be arranged.
        length: of the contours of that picture, paddles.
        error: what was tried in vain.
    """
    size = f"{settings.size} x {settings.size} px"
    if error.setting == "distractors":
        number = _last(
            lambda count: has_room(replace(settings, distractors=count), length),
            0,
            settings.distractors,
            guess=error.reached,
        )
        paddles = settings.length_of_distractors(length)
        found = f"no room in {size} for {settings.distractors} distractors of {paddles} paddles"
        return _error("distractors", f"{found} beside contours of {length}", number)
    found = f"no room in {size} for two contours of {length} paddles"
    if settings.form == "classification":
        found += " with discs at their ends"
    shorter = _last(lambda value: has_room(settings, value), 2, length, guess=error.reached)
    if shorter is not None:
        return _error("lengths", found, shorter)
    longer = _first(lambda value: has_room(settings, value), length, 3 * length)
    if longer is not None:
        return _error("lengths", found, longer)
    limit = min(_MOST_TIMES_LARGER * settings.size, MAX_SIZE)
    larger = _first(
        lambda value: has_room(replace(settings, size=value), length), settings.size, limit
    )
    return _error("size", found, larger)


def has_room(settings: PathfinderSettings, length: int) -> bool:
    """Whether probes with contours of ``length`` paddles all find room."""
    try:
        for index in range(_PROBES):
            place(settings, length, np.random.default_rng((_SEED, index)), _BUDGET)
    except NoRoomError:
        return False
    return True


def _last(works: Callable[[int], bool], low: int, high: int, *, guess: int) -> int | None:
    """The greatest value from ``low`` to below ``high`` that works, or one a little lower.

    ``guess`` is a value above which hardly any works.
    """
    if low >= high or not works(low):
        return None
    high = min(high, max(guess, low) + 1)
    while high - low > max(1, low // _PRECISION):
        middle = (low + high) // 2
        if works(middle):
            low = middle
        else:
            high = middle
    return low


def _first(works: Callable[[int], bool], low: int, limit: int) -> int | None:
    """The least value above ``low`` and up to ``limit`` that works, or one a little greater."""
    step, high = max(1, low // _PRECISION), low
    while high < limit:
        high = min(low + step, limit)
        if works(high):
            break
        low, step = high, 2 * step
    else:
        return None
    while high - low > max(1, low // _PRECISION):
        middle = (low + high) // 2
        if works(middle):
            high = middle
        else:
            low = middle
    return high


def _error(setting: str, found: str, nearest: int | None) -> PathfinderError:
    end = "" if nearest is None else f"; the nearest possible value is {nearest}"
    return PathfinderError(f"{setting}: {found}{end}")
