"""Checks of arguments that several modules make."""

from __future__ import annotations


def check_choice(option: str, value: str, known: tuple[str, ...]) -> None:
    """Raise a ValueError that lists the known values unless ``value`` is one of them."""
    if value not in known:
        names = ", ".join(repr(name) for name in known)
        raise ValueError(f"{option} must be one of {names}; got {value!r}")
