"""What breaks a sound set in one place, and the only finding that it then has."""

from __future__ import annotations

from collections.abc import Callable

from tests.data.inspection.small_set import SmallSet

Breaker = Callable[[SmallSet], object]
# (kind, what breaks the set, where and part of the message of the only finding)
CASES: list[tuple[str, Breaker, str, str]] = []


def case(kind: str, where: str, message: str) -> Callable[[Breaker], Breaker]:
    def note(breaker: Breaker) -> Breaker:
        CASES.append((kind, breaker, where, message))
        return breaker

    return note


def simple(kind: str, breaker: Breaker, where: str, message: str) -> None:
    CASES.append((kind, breaker, where, message))
