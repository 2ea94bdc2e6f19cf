"""Sets of shards on disk: a folder of tar files, an index, and a file that describes them.

    imagenet/shards/train/
      shard-00000.tar    pictures with their labels, see rpanoptic.pathfinder.imagenet.data.shards
      ...
      index.npz          where each picture is
      metadata.json      what the set is made of; "complete" when all shards are there

Whatever is there was written whole. A folder is described before its first shard is written, so
that a run that was killed can be continued, by the same command, with the shards that are there.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rpanoptic.data.paths import write_atomically
from rpanoptic.errors import DatasetError
from rpanoptic.pathfinder.imagenet.data.shards import ShardIndex

METADATA = "metadata.json"
INDEX = "index.npz"
SCRIPT = "datasets/prepare_imagenet_shards.py"

_FORMAT_VERSION = 1


class ShardFile(NamedTuple):
    """A shard as the metadata describes it: name, size in bytes, and number of pictures."""

    file: str
    bytes: int
    pictures: int


@dataclass(frozen=True)
class Description:
    """What ``metadata.json`` says.

    Attributes:
        classes: names, by label.
        pictures: their number.
        listing: SHA-256 of the names and labels of the pictures that were packed; "" for tar files
            made by others.
        shorter_side: to which larger pictures were reduced, px; 0: files as they were.
        pictures_per_shard: the last shard may have fewer; 0 for tar files made by others.
        shards: empty until the set is complete.
    """

    classes: tuple[str, ...]
    pictures: int
    listing: str
    shorter_side: int
    pictures_per_shard: int
    shards: tuple[ShardFile, ...] = ()
    format_version: int = _FORMAT_VERSION

    @property
    def complete(self) -> bool:
        """Whether all shards have been written."""
        return bool(self.shards)


def read_description(folder: Path) -> Description | None:
    """The description of the set in ``folder``, or None where none is.

    Raises:
        DatasetError: it is damaged, or of another version of the format.
    """
    path = folder / METADATA
    try:
        values = json.loads(path.read_text())
        found = Description(
            classes=tuple(map(str, values["classes"])),
            pictures=int(values["pictures"]),
            listing=str(values["listing"]),
            shorter_side=int(values["shorter_side"]),
            pictures_per_shard=int(values["pictures_per_shard"]),
            shards=tuple(
                ShardFile(_plain(shard["file"]), int(shard["bytes"]), int(shard["pictures"]))
                for shard in values["shards"]
            ),
            format_version=int(values["format_version"]),
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: is no description of a set of shards ({type(error).__name__}: {error}). "
            f"Remove it, and repeat the command that made it (python {SCRIPT}): shards that are "
            "whole are kept."
        ) from None
    if found.format_version != _FORMAT_VERSION:
        raise DatasetError(
            f"{path}: version {found.format_version} of the format, expected {_FORMAT_VERSION}."
        )
    return found


def write_description(folder: Path, description: Description) -> None:
    """Write ``metadata.json``."""
    values = {
        **asdict(description),
        "complete": description.complete,
        "shards": [shard._asdict() for shard in description.shards],
    }
    write_atomically(folder / METADATA, f"{json.dumps(values, indent=1)}\n".encode())


def write_index(folder: Path, shards: Sequence[ShardIndex]) -> None:
    """Write ``index.npz``: the rows of all shards, and the number of each row's shard."""
    columns = {
        name: np.concatenate([getattr(shard, name) for shard in shards])
        for name in ShardIndex._fields
    }
    numbers = np.repeat(np.arange(len(shards)), [len(shard.keys) for shard in shards])
    file = io.BytesIO()
    np.savez(file, shards=numbers.astype(np.int32), **columns)
    write_atomically(folder / INDEX, file.getvalue())


def read_index(folder: Path, description: Description) -> list[ShardIndex]:
    """The rows of each shard of a complete set.

    Raises:
        DatasetError: the index is missing, damaged, or not that of the description.
    """
    path = folder / INDEX
    try:
        with np.load(path, allow_pickle=False) as content:
            columns = [content[name] for name in ShardIndex._fields]
            numbers = content["shards"]
    except FileNotFoundError:
        raise _unsound(path, "is missing") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _unsound(path, f"cannot be read ({error})") from None
    counts = [shard.pictures for shard in description.shards]
    expected = np.repeat(np.arange(len(counts)), counts)
    if not np.array_equal(numbers, expected) or {len(one) for one in columns} != {len(numbers)}:
        raise _unsound(path, f"is not the index of the shards in {METADATA}")
    labels = columns[ShardIndex._fields.index("labels")]
    if labels.min() < 0 or labels.max() >= len(description.classes):
        raise _unsound(path, f"has labels beyond the {len(description.classes)} classes")
    parts = zip(*(np.split(one, np.cumsum(counts)[:-1]) for one in columns), strict=True)
    return [ShardIndex(*part) for part in parts]


class ShardSource:
    """The pictures of a folder of shards.

    Args:
        folder: that ``datasets/prepare_imagenet_shards.py`` wrote or indexed.

    Raises:
        DatasetError: there is no set, or none that is complete.
    """

    def __init__(self, folder: Path) -> None:
        found = read_description(folder)
        if found is None:
            raise DatasetError(
                f"{folder}: there is no set of shards. To make one, or to index tar files that are "
                f"there: python {SCRIPT} --help"
            )
        if not found.complete:
            raise DatasetError(
                f"{folder}: the set of shards there is not complete. To complete it, repeat the "
                f"command that began it (python {SCRIPT})."
            )
        self.folder = folder
        self._description = found

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return self._description.classes

    def records(self, classes: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """A record for each picture, in the order of the keys.

        Sets that were made here have the order of the folder from which they were made.

        Args:
            classes: list these alone, whose labels are then their places here.

        Raises:
            DatasetError: the index or a shard is missing, or has another size than it had.
        """
        self._check_sizes()
        names = self.classes if classes is None else classes
        label_of = {self.classes.index(name): label for label, name in enumerate(names)}
        listing = []
        index = read_index(self.folder, self._description)
        for shard, rows in zip(self._description.shards, index, strict=True):
            path = str(self.folder / shard.file)
            for key, label, *place in zip(*(column.tolist() for column in rows), strict=True):
                if label in label_of:
                    listing.append((key, path, label_of[label], *place))
        return [
            {
                "file_name": f"{path}:{os.fsdecode(key)}",
                "label": label,
                "shard": path,
                "offset": offset,
                "size": size,
                "crc": crc,
            }
            for key, path, label, offset, size, crc in sorted(listing)
        ]

    def _check_sizes(self) -> None:
        for shard in self._description.shards:
            path = self.folder / shard.file
            size = path.stat().st_size if path.is_file() else None
            if size != shard.bytes:
                found = "is missing" if size is None else f"has {size} bytes"
                raise _unsound(path, f"{found}, but has {shard.bytes} bytes by {METADATA}")


def _plain(name: str) -> str:
    # A description may come from elsewhere: it must not lead out of its folder.
    if Path(name).name != name:
        raise ValueError(f"{name} is no name of a file in the folder")
    return name


def _unsound(path: Path, fault: str) -> DatasetError:
    return DatasetError(
        f"{path}: {fault}. To mend it, repeat the command that made it (python {SCRIPT})."
    )
