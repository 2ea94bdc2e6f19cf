"""The names of the sets of this package, and how further ones are named."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rpanoptic.pathfinder.imagenet.data.digits import DigitsSource
from rpanoptic.pathfinder.imagenet.data.folders import FolderSource
from rpanoptic.pathfinder.imagenet.data.imagenet import SPLITS, SearchSource, imagenet_source
from rpanoptic.pathfinder.imagenet.data.sets import register_source
from rpanoptic.pathfinder.imagenet.data.storage import ShardSource

# Name in configs -> part, and whether it is noisy.
DIGITS_SETS = {
    "digits_train": ("train", False),
    "digits_test": ("test", False),
    "digits_search_train": ("search_train", False),
    "digits_search_val": ("search_val", False),
    "digits_noisy_train": ("train", True),
    "digits_noisy_test": ("test", True),
}


def register_builtin_sets() -> None:
    """Register all names of this module. Nothing is read."""
    for name, (part, noisy) in DIGITS_SETS.items():
        register_source(name, partial(DigitsSource, part, noisy=noisy))
    for split in SPLITS:
        register_source(f"imagenet_{split}", partial(imagenet_source, split))
        register_source(f"imagenet_search_{split}", partial(_search_source, split))


def register_image_folder(
    name: str, root: Path | str, *, classes: Sequence[str] | None = None
) -> None:
    """Register a folder in torchvision's ``ImageFolder`` layout. It is read when it is used.

    Args:
        name: for configs; not yet taken.
        root: with a folder for each class, which has pictures at any depth.
        classes: the class folders that count, in the order of their labels, each of which must be
            there; None takes all, in the order of their names. A test set that lacks some classes
            of its training set, or has more, needs them for the same labels.
    """
    register_source(name, partial(FolderSource, Path(root).absolute(), classes=classes))


def register_image_shards(name: str, folder: Path | str) -> None:
    """Register a folder of shards. It is read when it is used.

    Args:
        name: for configs; not yet taken.
        folder: that ``datasets/prepare_imagenet_shards.py`` wrote or indexed.
    """
    register_source(name, partial(ShardSource, Path(folder).absolute()))


def _search_source(part: str) -> SearchSource:
    return SearchSource(imagenet_source("train"), part)
