"""A small name -> class table with errors that help. Pure Python: the engine stands on its own."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes by name.

    Args:
        kind: what the table holds, in the singular; it stands in the error messages.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Return a class decorator that enters the class as ``name``.

        Raises:
            KeyError: the name is taken.
        """

        def enter(cls: type[T]) -> type[T]:
            if name in self._classes:
                raise KeyError(f"{self._kind} {name!r} is already registered")
            self._classes[name] = cls
            return cls

        return enter

    def get(self, name: str) -> type[T]:
        """Return the class entered as ``name``.

        Raises:
            ValueError: no such name; the message lists the known ones and the closest.
        """
        if name in self._classes:
            return self._classes[name]
        close = difflib.get_close_matches(str(name).lower(), self._classes, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        known = ", ".join(sorted(self._classes))
        raise ValueError(f"unknown {self._kind} {name!r}; known: {known}.{hint}")

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __len__(self) -> int:
        return len(self._classes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)
