"""Packs folders of pictures into shards, and indexes shards that others made."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from iopath.common.file_io import file_lock
from PIL import Image

from rpanoptic.data.parallel import map_in_processes
from rpanoptic.data.paths import write_atomically
from rpanoptic.errors import DatasetError
from rpanoptic.pathfinder.imagenet.data.folders import FolderSource
from rpanoptic.pathfinder.imagenet.data.pictures import decode
from rpanoptic.pathfinder.imagenet.data.shards import Packed, ShardIndex, index_shard, pack
from rpanoptic.pathfinder.imagenet.data.storage import (
    INDEX,
    METADATA,
    Description,
    ShardFile,
    read_description,
    read_index,
    write_description,
    write_index,
)

# About 110 MB of ImageNet.
PICTURES_PER_SHARD = 1000
# Of reduced pictures.
_QUALITY = 95
_OURS = re.compile(rf"\.?({re.escape(METADATA)}|{re.escape(INDEX)}|shard-\d+\.tar)(\..+\.tmp)?")

_logger = logging.getLogger(__name__)


class PackReport(NamedTuple):
    """What was done: pictures and shards of the set, and how many shards were written now."""

    pictures: int
    shards: int
    written: int


class _Item(NamedTuple):
    """A picture to be packed: place in the folder's order, path below the root, and label."""

    place: int
    path: str
    label: int

    @property
    def key(self) -> str:
        # Points would end the key; the place makes it unique, and keeps the folder's order.
        return f"{self.place:08d}-{re.sub(r'[^A-Za-z0-9_-]', '_', Path(self.path).stem)}"


def pack_folder(
    root: Path,
    folder: Path,
    *,
    pictures_per_shard: int = PICTURES_PER_SHARD,
    shorter_side: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> PackReport:
    """Pack a folder in ``ImageFolder``'s layout into shards; shards that are whole are kept.

    Pictures are spread over the shards in a fixed random order, so that these may also be streamed,
    as WebDataset does it.

    Args:
        root: with a folder for each class.
        folder: where the shards go; it is made if need be.
        pictures_per_shard: at least 1.
        shorter_side: reduce larger pictures to it, as JPEG of quality 95, px; 0: files as they are.
        workers: processes that pack, a shard each; the files do not depend on it. Each holds a
            shard in memory.
        progress: whether to show progress bars, on standard error.

    Raises:
        DatasetError: a class folder or a picture has a fault; the folder is in ``root``, or holds
            something else, or a set that differs; or it cannot be written.
    """
    root, folder = root.absolute(), folder.absolute()
    source = FolderSource(root)
    items = [
        _Item(place, str(Path(record["file_name"]).relative_to(root)), record["label"])
        for place, record in enumerate(source.records())
    ]
    names = "\n".join(f"{item.path} {item.label}" for item in items)
    wanted = Description(
        classes=source.classes,
        pictures=len(items),
        listing=_sha256(names),
        shorter_side=shorter_side,
        pictures_per_shard=pictures_per_shard,
    )
    if root.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise DatasetError(
            f"{folder}: is in {root}, where it would count as a class. Choose another folder."
        )
    _check_room(folder, wanted)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(str(folder)):
            _check_room(folder, wanted)  # Another process may have been here meanwhile.
            try:
                return _pack(root, folder, wanted, items, workers, progress)
            finally:
                folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
    except OSError as error:
        raise DatasetError(f"{folder}: the shards cannot be written there ({error}).") from error


def index_folder(
    folder: Path,
    *,
    classes: Sequence[str] | None = None,
    workers: int = 1,
    progress: bool = True,
) -> PackReport:
    """Index the tar files of a folder, whoever made them, so that they can be read here.

    Args:
        folder: with ``*.tar`` in WebDataset's format.
        classes: names, by label; None takes the labels themselves.
        workers: processes that read, a shard each.
        progress: whether to show a progress bar, on standard error.

    Raises:
        DatasetError: there is no tar file, or one has a fault; a label is beyond the classes; or
            the folder holds a set that was made here.
    """
    found = read_description(folder)
    if found is not None and found.listing:
        raise DatasetError(f"{folder}: these shards were made here, and have their index.")
    paths = sorted(folder.glob("*.tar"))
    if not paths:
        raise DatasetError(f"{folder}: there is no tar file.")
    rows = map_in_processes(
        index_shard,
        paths,
        workers=workers,
        description=folder.name,
        unit="shards",
        chunk=1,
        progress=progress,
    )
    last = max(int(part.labels.max()) for part in rows)
    names = tuple(map(str, range(last + 1))) if classes is None else tuple(classes)
    if last >= len(names):
        raise DatasetError(f"{folder}: a label is {last}, but there are {len(names)} classes.")
    number = sum(len(part.keys) for part in rows)
    try:
        _finish(folder, Description(names, number, "", 0, 0), paths, rows)
    except OSError as error:
        raise DatasetError(f"{folder}: the index cannot be written there ({error}).") from error
    return PackReport(number, len(paths), 0)


def _check_room(folder: Path, wanted: Description) -> None:
    found = read_description(folder)
    if found is None:
        if folder.is_dir() and any(not _OURS.fullmatch(entry.name) for entry in folder.iterdir()):
            raise DatasetError(f"{folder}: something else is there. Choose another folder.")
        return
    values, expected = asdict(found), asdict(wanted)
    names = {"listing": "other pictures", "classes": "other classes"}
    differing = [
        names.get(key, f"{key} {values[key]}, not {expected[key]}")
        for key in expected
        if key != "shards" and values[key] != expected[key]
    ]
    if differing:
        raise DatasetError(
            f"{folder} holds another set of shards: {'; '.join(differing)}. Choose another folder, "
            "or remove this one."
        )


def _pack(
    root: Path,
    folder: Path,
    wanted: Description,
    items: Sequence[_Item],
    workers: int,
    progress: bool,
) -> PackReport:
    for entry in folder.iterdir():
        if entry.suffix == ".tmp" and _OURS.fullmatch(entry.name):
            entry.unlink(missing_ok=True)  # what a killed run has left half-written
    found = read_description(folder)
    # Without them, what was written whole is taken to be whole still.
    known: list[ShardIndex] | None = None
    if found is None:
        write_description(folder, wanted)
    elif found.complete:
        try:
            known = read_index(folder, found)
        except DatasetError as error:
            _logger.warning("%s It is made again.", error)
    # Unlike NumPy's, a hash's order is the same in all versions for ever.
    shuffled = sorted(items, key=lambda item: _sha256(item.path))
    size = wanted.pictures_per_shard
    shards = [shuffled[start : start + size] for start in range(0, len(items), size)]
    paths = [folder / f"shard-{number:05d}.tar" for number in range(len(shards))]
    expected = [None] * len(shards) if known is None else known
    kept = map_in_processes(
        _whole,
        list(zip(paths, shards, expected, strict=True)),
        workers=workers,
        description=f"{folder.name}: shards that are there",
        unit="shards",
        chunk=1,
        progress=progress and any(path.exists() for path in paths),
    )
    todo = [number for number, rows in enumerate(kept) if isinstance(rows, str)]
    for number in todo:
        if paths[number].exists():
            _logger.warning("%s It is written again.", kept[number])
    if todo and found is not None and found.complete:
        write_description(folder, wanted)
    written = map_in_processes(
        partial(_write, root, wanted.shorter_side),
        [(paths[number], shards[number]) for number in todo],
        workers=workers,
        description=folder.name,
        unit="shards",
        chunk=1,
        progress=progress and bool(todo),
    )
    fresh = dict(zip(todo, written, strict=True))
    rows = [part if isinstance(part, ShardIndex) else fresh[n] for n, part in enumerate(kept)]
    _finish(folder, wanted, paths, rows)
    return PackReport(len(items), len(shards), len(todo))


def _finish(
    folder: Path, description: Description, paths: Sequence[Path], rows: Sequence[ShardIndex]
) -> None:
    write_index(folder, rows)
    shards = tuple(
        ShardFile(path.name, path.stat().st_size, len(part.keys))
        for path, part in zip(paths, rows, strict=True)
    )
    write_description(folder, replace(description, shards=shards))


def _whole(task: tuple[Path, Sequence[_Item], ShardIndex | None]) -> ShardIndex | str:
    """The rows of a shard that is whole, or what is wrong with it."""
    path, items, known = task
    try:
        rows = index_shard(path)
    except DatasetError as error:
        return str(error)
    if rows.keys.tolist() != [item.key.encode() for item in items] or rows.labels.tolist() != [
        item.label for item in items
    ]:
        return f"{path}: holds other pictures."
    if known is not None and not np.array_equal(rows.checksums, known.checksums):
        return f"{path}: has changed since it was written."
    return rows


def _write(root: Path, shorter_side: int, task: tuple[Path, Sequence[_Item]]) -> ShardIndex:
    path, items = task
    write_atomically(path, pack([_packed(root, shorter_side, item) for item in items]))
    return index_shard(path)


def _packed(root: Path, shorter_side: int, item: _Item) -> Packed:
    path = root / item.path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error}).") from None
    extension = path.suffix.lower().replace(".jpeg", ".jpg")
    if shorter_side:
        picture = decode(data, str(path))
        if min(picture.size) > shorter_side:
            data, extension = _reduced(picture, shorter_side), ".jpg"
    return Packed(item.key, extension, data, item.label)


def _reduced(picture: Image.Image, shorter_side: int) -> bytes:
    factor = shorter_side / min(picture.size)
    width, height = (max(shorter_side, round(side * factor)) for side in picture.size)
    file = io.BytesIO()
    reduced = picture.resize((width, height), Image.Resampling.BICUBIC)
    reduced.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
