"""ImageNet under ``$DETECTRON2_DATASETS/imagenet``, and the part of it on which searches run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rpanoptic.data.paths import DATASETS_VARIABLE, datasets_root
from rpanoptic.errors import DatasetError
from rpanoptic.pathfinder.imagenet.data.folders import FolderSource
from rpanoptic.pathfinder.imagenet.data.storage import METADATA, ShardSource

IMAGENET_FOLDER = "imagenet"
SPLITS = ("train", "val")

_CLASSES = 1000
# Of the search subset: every tenth class, and the last pictures of each in the order of names.
_EVERY = 10
_HELD_OUT = 50


class SelectableSource(Protocol):
    """A source some of whose classes can be listed alone."""

    @property
    def classes(self) -> Sequence[str]: ...

    def records(self, classes: Sequence[str] | None = None) -> list[dict[str, Any]]: ...


def imagenet_source(split: str) -> SelectableSource:
    """ImageNet's "train" or "val": its folder, else its shards.

    Raises:
        DatasetError: neither is there, the shards are not complete, the class folders of the splits
            differ, or they are not 1000.
    """
    root = datasets_root() / IMAGENET_FOLDER
    folder, shards = root / split, root / "shards" / split
    source: SelectableSource
    if folder.is_dir():
        (other,) = set(SPLITS) - {split}
        source = FolderSource(folder, counterpart=root / other)
    elif (shards / METADATA).is_file():
        source = ShardSource(shards)
    else:
        raise DatasetError(
            f"{folder}: no such folder, nor shards in {shards}; datasets are looked for under the "
            f"environment variable {DATASETS_VARIABLE}. Expected {folder}/<wnid>/<picture>; "
            "datasets/README.md says how it gets there."
        )
    if len(source.classes) != _CLASSES:
        place = folder if folder.is_dir() else shards
        raise DatasetError(
            f"{place}: {len(source.classes)} classes, but ImageNet has {_CLASSES}. For pictures of "
            "other classes: rpanoptic.pathfinder.imagenet.register_image_folder."
        )
    return source


class SearchSource:
    """A small set to choose a model on, without a look at the pictures of the final test.

    Every tenth class, and both parts from the training pictures: the last 50 of each class, in the
    order of their names, are "val".

    Args:
        source: the training pictures.
        part: "train" or "val".
        every: take each class whose label is a multiple of it.
        held_out: pictures of each class in "val".
    """

    def __init__(
        self, source: SelectableSource, part: str, *, every: int = _EVERY, held_out: int = _HELD_OUT
    ) -> None:
        self._source = source
        self._part = part
        self._every = every
        self._held_out = held_out

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by label."""
        return list(self._source.classes[:: self._every])

    def records(self) -> list[dict[str, Any]]:
        """A record for each picture.

        Raises:
            DatasetError: the training pictures have a fault, or a class has too few of them.
        """
        by_class: dict[int, list[dict[str, Any]]] = {}
        classes = self.classes
        for record in self._source.records(classes):
            by_class.setdefault(record["label"], []).append(record)
        for label, records in by_class.items():
            if len(records) <= self._held_out:
                raise DatasetError(
                    f"{Path(records[0]['file_name']).parent}: class {classes[label]} has "
                    f"{len(records)} pictures, but {self._held_out} of each are held out for "
                    "choosing a model."
                )
        part = slice(-self._held_out, None) if self._part == "val" else slice(-self._held_out)
        return [record for label in sorted(by_class) for record in by_class[label][part]]
