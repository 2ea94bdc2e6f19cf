"""Pictures that cannot be used: named once each, and counted."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)


class Unusable(NamedTuple):
    """What a mapper returns in place of the input that it could not make.

    Attributes:
        file_name: of the picture.
        reason: a sentence that names the file and says what is wrong with it.
    """

    file_name: str
    reason: str

    @classmethod
    def of(cls, record: dict[str, Any]) -> Unusable:
        """For a mapper that returns None, as Detectron2's may, and gives no reason."""
        name = str(record.get("file_name", "(no file)"))
        return cls(name, f"{name}: the mapper cannot use it.")


class UnusableLog:
    """Names each unusable picture once in the log, by a warning.

    It belongs into the process that takes the batches, so that several workers, and several
    passes over the data, name a picture once.

    Args:
        consequence: a sentence that ends the warning.
    """

    def __init__(self, consequence: str) -> None:
        self._consequence = consequence
        self._named: set[str] = set()
        self._times = 0

    @property
    def pictures(self) -> int:
        """Different pictures so far."""
        return len(self._named)

    @property
    def times(self) -> int:
        """How often they were met so far."""
        return self._times

    def note(self, unusable: Iterable[Unusable]) -> None:
        """Count these, and name those that are new."""
        for one in unusable:
            self._times += 1
            if one.file_name not in self._named:
                self._named.add(one.file_name)
                logger.warning(
                    "%s %s Unusable pictures so far: %d.",
                    one.reason,
                    self._consequence,
                    self.pictures,
                )
