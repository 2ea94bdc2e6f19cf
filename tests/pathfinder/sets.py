"""Small Pathfinder sets that several tests store and read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from rpanoptic.pathfinder import sources
from rpanoptic.pathfinder.sets import PathfinderSet
from rpanoptic.pathfinder.settings import small_32_settings
from rpanoptic.pathfinder.sources import PathfinderSource
from rpanoptic.pathfinder.storage import WriteReport, write_set

NUMBER = 11
SHARD_SIZE = 4


def small_set(number: int = NUMBER, seed: int = 3, **settings: Any) -> PathfinderSet:
    """Pictures of 32 x 32 with contours of 4 paddles."""
    return PathfinderSet(
        settings=replace(small_32_settings(length=4, distractors=1), **settings),
        split="val",
        number=number,
        seed=seed,
    )


def store(folder: Path, content: PathfinderSet | None = None, **options: Any) -> WriteReport:
    """Write a set in shards of 4, the small one if no other is given."""
    options = {"shard_size": SHARD_SIZE, "progress": False} | options
    return write_set(folder, content or small_set(), **options)


def files(folder: Path) -> dict[str, bytes]:
    """The content of each file of a set."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_equal(first: PathfinderSource, second: PathfinderSource) -> None:
    """The examples of two sources must be the same."""
    assert len(first) == len(second)
    for index in range(len(first)):
        for one, other in zip(first[index], second[index], strict=True):
            assert np.array_equal(one, other)


def forget(name: str) -> None:
    """Undo the registration of a set."""
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
    sources._OPENERS.pop(name)
