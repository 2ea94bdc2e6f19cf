"""Where Pathfinder examples come from: drawn when they are read, or a folder of shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from rpanoptic.errors import DatasetError, listed
from rpanoptic.pathfinder.generator import generate
from rpanoptic.pathfinder.sets import Example
from rpanoptic.pathfinder.settings import PathfinderSettings
from rpanoptic.pathfinder.shards import Shard
from rpanoptic.pathfinder.storage import (
    METADATA,
    Description,
    read_description,
    repair_command,
    shard_name,
)

__all__ = ["Example", "GeneratedSource", "PathfinderSource", "StoredSource", "source_of"]


class PathfinderSource(Protocol):
    """Examples by their index, always the same ones."""

    @property
    def settings(self) -> PathfinderSettings:
        """Of the generator."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def name_of(self, index: int) -> str:
        """What to call an example in messages."""

    def check(self, most: int | None) -> None:
        """Raise an error that names a fault, after looking at ``most`` examples; None: at all."""


class GeneratedSource:
    """Examples that are drawn when they are read; nothing is stored.

    Args:
        settings: of the generator.
        seed: of the generator, at least 0.
        number: of examples, at least 1.

    Raises:
        DatasetError: ``seed`` or ``number`` is out of range.
    """

    def __init__(self, settings: PathfinderSettings, seed: int, number: int) -> None:
        if seed < 0 or number < 1:
            raise DatasetError(
                "A Pathfinder set needs a seed of at least 0 and a number of at least 1, got "
                f"{seed} and {number}."
            )
        self.settings = settings
        self.seed = seed
        self._number = number

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int) -> Example:
        """Draw an example.

        Raises:
            IndexError: there is no such example.
            ConfigError: the settings are impossible.
        """
        _check_index(index, self._number)
        sample = generate(self.settings, self.seed, index)
        return Example(sample.image, sample.target, sample.label)

    def name_of(self, index: int) -> str:
        """Number and seed."""
        return f"{index:09d} of seed {self.seed}"

    def check(self, most: int | None) -> None:
        """Draw one example of each length; ``most`` does not matter.

        Raises:
            ConfigError: the settings are impossible.
        """
        for index in range(min(len(self.settings.lengths), self._number)):
            self[index]


class StoredSource:
    """The examples of a folder that ``datasets/prepare_pathfinder.py`` wrote.

    Shards are opened when they are first needed. No file stays open, so that the source may be used
    after a fork and handed to other processes.

    Args:
        folder: of the set.

    Raises:
        DatasetError: there is no set, or none that is complete; the message says what to do.
    """

    def __init__(self, folder: Path) -> None:
        description = read_description(folder)
        if description is None:
            raise DatasetError(f"{folder}: there is no Pathfinder set.")
        if not description.complete:
            raise DatasetError(
                f"{folder}: the Pathfinder set there is not complete. To complete it: "
                f"{repair_command(folder)}"
            )
        self.folder = folder
        self.description: Description = description
        self._indices = description.indices()
        self._shards: dict[int, Shard] = {}

    @property
    def settings(self) -> PathfinderSettings:
        """Of the generator that drew the set."""
        return self.description.content.settings

    def __len__(self) -> int:
        return self.description.content.number

    def __getitem__(self, index: int) -> Example:
        """Read an example.

        Raises:
            IndexError: there is no such example.
            DatasetError: its shard is missing or damaged; the message says how to mend it.
        """
        _check_index(index, len(self))
        number = index // self.description.shard_size
        try:
            if number not in self._shards:
                path = self.folder / shard_name(number)
                self._shards[number] = Shard(path, self._indices[number])
            return self._shards[number].read(index)
        except DatasetError as error:
            raise self._mendable(str(error)) from None

    def name_of(self, index: int) -> str:
        """Shard and number."""
        return f"{self.folder / shard_name(index // self.description.shard_size)}:{index:09d}"

    def check(self, most: int | None) -> None:
        """Compare the sizes of all shards with the metadata, and read examples.

        Args:
            most: how many to read, evenly spread; None reads all.

        Raises:
            DatasetError: a shard is missing or has another size, or an example is damaged.
        """
        for shard in self.description.shards:
            path = self.folder / shard.file
            size = path.stat().st_size if path.is_file() else None
            if size != shard.bytes:
                found = "is missing" if size is None else f"has {size} bytes"
                raise self._mendable(f"{path}: {found}, but {shard.bytes} bytes by {METADATA}.")
        count = len(self) if most is None else min(most, len(self))
        for index in np.linspace(0, len(self) - 1, count).round().astype(int):
            self[int(index)]

    def _mendable(self, fault: str) -> DatasetError:
        return DatasetError(f"{fault} To find and mend every fault: {repair_command(self.folder)}")


# By the name of the dataset.
_OPENERS: dict[str, Callable[[], PathfinderSource]] = {}


def source_of(name: str) -> PathfinderSource:
    """The examples of a registered Pathfinder set.

    Raises:
        DatasetError: no such set is registered, or it is stored and not there.
    """
    if name not in _OPENERS:
        raise DatasetError(
            f"There is no Pathfinder set {name!r}; known: {listed(sorted(_OPENERS), most=100)}."
        )
    return _OPENERS[name]()


def set_source(name: str, opener: Callable[[], PathfinderSource]) -> None:
    """Let :func:`source_of` find a set.

    Args:
        name: of the dataset.
        opener: called for every example, so it should remember what it has opened.
    """
    _OPENERS[name] = opener


def _check_index(index: int, number: int) -> None:
    if not 0 <= index < number:
        raise IndexError(f"example {index} of a set of {number}")
