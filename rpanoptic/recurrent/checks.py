"""Checks of arguments that several modules make."""

from __future__ import annotations

import math
import operator


def check_choice(option: str, value: str, known: tuple[str, ...]) -> None:
    """Raise a ValueError that lists the known values unless ``value`` is one of them."""
    if value not in known:
        names = ", ".join(repr(name) for name in known)
        raise ValueError(f"{option} must be one of {names}; got {value!r}")


def check_count(option: str, value: int, *, least: int) -> int:
    """Return ``value`` as an int; raise a ValueError unless it is one of at least ``least``.

    Integers of NumPy count as such, truth values do not.
    """
    wanted = f"{option} must be an integer of at least {least}"
    try:
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, bool):
        raise ValueError(f"{wanted}, got {value!r} ({type(value).__name__})")
    if count < least:
        raise ValueError(f"{wanted}, got {count}")
    return count


def check_flag(option: str, value: bool) -> None:
    """Raise a ValueError unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{option} must be True or False, got {value!r}")


def check_number(option: str, value: float, *, least: float) -> None:
    """Raise a ValueError unless ``value`` is a finite number of at least ``least``."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < least:
        raise ValueError(f"{option} must be a number of at least {least:g}, got {value!r}")
