"""What a Pathfinder set holds, whether it is stored or drawn when it is read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rpanoptic.errors import DatasetError
from rpanoptic.pathfinder.settings import PathfinderSettings

SPLITS = ("train", "val", "test")
# Pictures of a split where no other number is asked for.
NUMBERS = {"train": 200_000, "val": 10_000, "test": 10_000}
MAX_NUMBER = 10**9


class Example(NamedTuple):
    """A picture with its answer.

    Attributes:
        image: ``(H, W)`` uint8.
        target: ``(H, W)`` uint8, 1 on the marked contour and its disc, else 0. In the
            classification form, both contours that carry a disc count as marked.
        label: in the classification form 1 if both discs are on one contour, else 0; in the
            segmentation form always 1.
    """

    image: np.ndarray
    target: np.ndarray
    label: int


@dataclass(frozen=True, kw_only=True)
class PathfinderSet:
    """A split of a set: everything on which its pictures depend, and their number.

    Attributes:
        settings: of the generator.
        split: "train", "val" or "test".
        number: of pictures, 1 to 10^9. Picture ``i`` does not depend on it.
        seed: of all splits of the set, at least 0. See :attr:`split_seed`.

    Raises:
        DatasetError: a value is out of range.
    """

    settings: PathfinderSettings
    split: str
    number: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise DatasetError(f"split {self.split!r} is unknown; known: {', '.join(SPLITS)}.")
        for name, least in (("number", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise DatasetError(
                    f"A Pathfinder set needs a {name} of at least {least}, "
                    f"got {getattr(self, name)}."
                )
        if self.number > MAX_NUMBER:
            raise DatasetError(
                f"A Pathfinder set has at most {MAX_NUMBER} pictures, got {self.number}."
            )

    @property
    def split_seed(self) -> int:
        """The seed with which the generator draws this split; below 2^32.

        It follows from seed, split, form, size and lengths, so that no two splits share a picture,
        and a picture of one length does not begin as one of another.
        """
        settings = self.settings
        lengths = ",".join(map(str, settings.lengths))
        text = f"{self.seed} {self.split} {settings.form} {settings.size} {lengths}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    def as_dict(self) -> dict[str, Any]:
        """All values, in containers that JSON knows."""
        return {
            "split": self.split,
            "number": self.number,
            "seed": self.seed,
            "settings": self.settings.as_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PathfinderSet:
        """The set of :meth:`as_dict`; other keys are ignored.

        Raises:
            KeyError: a value is missing.
            ConfigError: a setting is unknown or impossible.
            DatasetError: another value is out of range.
        """
        return cls(
            settings=PathfinderSettings.from_dict(values["settings"]),
            split=values["split"],
            number=int(values["number"]),
            seed=int(values["seed"]),
        )
