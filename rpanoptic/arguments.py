"""Types of command-line arguments that several tools take."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """Return an argparse type: whole numbers from ``least``; others are refused by name."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from error
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is not at least {least}")
        return value

    return parse


def numbers_of_steps(text: str) -> list[int]:
    """An argparse type: ``1-10,15,20`` as whole numbers from 1, ascending, each once."""
    number = at_least(1)
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if dash and number(first) > number(last):
            raise argparse.ArgumentTypeError(f"{part!r}: the range ends before it begins")
        found.update(range(number(first), number(last if dash else first) + 1))
    return sorted(found)
