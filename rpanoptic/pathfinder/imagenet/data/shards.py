"""A shard: a tar file of pictures in WebDataset's format, and where each picture is in it.

Picture 17 of class 4 is ``00000017-name.jpg``, followed by ``00000017-name.cls``, which holds "4".
The archive is not compressed, so that a picture is read from its place in the file. Nothing in it
depends on when or where it is written.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torchvision.datasets.folder import IMG_EXTENSIONS

from rpanoptic.errors import DatasetError

_LABEL = ".cls"
# A damaged label must not ask for the names of 2 ** 31 classes.
_MOST_CLASSES = 1_000_000


class Packed(NamedTuple):
    """A picture to be written: key and extension of its name, the file's bytes, and its label."""

    key: str
    extension: str
    data: bytes
    label: int


class ShardIndex(NamedTuple):
    """What a shard holds, a row for each picture in the order of the file.

    Attributes:
        keys: of the pictures, UTF-8.
        labels: int32.
        offsets: places of the pictures' first bytes in the file, int64.
        sizes: bytes of each, int64.
        checksums: CRC-32 of each, uint32.
    """

    keys: npt.NDArray[np.bytes_]
    labels: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    checksums: npt.NDArray[np.uint32]


def pack(pictures: Iterable[Packed]) -> bytes:
    """The bytes of a shard with these pictures."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for picture in pictures:
            _add(archive, f"{picture.key}{picture.extension}", picture.data)
            _add(archive, f"{picture.key}{_LABEL}", str(picture.label).encode())
    return file.getvalue()


def index_shard(path: Path) -> ShardIndex:
    """Read a whole shard, and find its pictures.

    Any tar file in WebDataset's format will do, whoever made it: pictures with one of torchvision's
    extensions, each with a ``.cls`` of the same key, which holds the label. Other files in it do
    not count.

    Raises:
        DatasetError: the file cannot be read, is truncated or no tar file; a picture lacks its
            label, or a label its picture, or two have the same key.
    """
    labels: dict[str, int] = {}
    places: dict[str, tuple[int, int, int]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                key, _, rest = name.partition(".")
                # As in WebDataset, all before the name's first point is the key.
                key, extension = f"{folder}/{key}" if folder else key, f".{rest.lower()}"
                whole = member.isreg() and not member.issparse()
                if not whole or extension not in (_LABEL, *IMG_EXTENSIONS):
                    continue
                if key in (labels if extension == _LABEL else places):
                    raise DatasetError(f"{path}: {key} is there twice with {extension}.")
                data = _read(archive, member)
                if len(data) != member.size:
                    raise DatasetError(f"{path}: ends in the middle of {member.name}.")
                if extension == _LABEL:
                    labels[key] = _label(path, member.name, data)
                else:
                    places[key] = (member.offset_data, member.size, zlib.crc32(data))
            end = archive.offset
    except tarfile.TarError as error:
        raise DatasetError(f"{path}: is no sound, uncompressed tar file ({error}).") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error}).") from None
    # Where it finds no header, tarfile ends without an error.
    if _block(path, end) != bytes(tarfile.BLOCKSIZE):
        raise DatasetError(f"{path}: is damaged or truncated at byte {end}.")
    if lonely := sorted(labels.keys() ^ places.keys()):
        what = "picture" if lonely[0] in labels else f"label ({_LABEL})"
        raise DatasetError(f"{path}: {lonely[0]} has no {what}.")
    if not places:
        raise DatasetError(f"{path}: there is no picture with a label in it.")
    offsets, sizes, checksums = zip(*places.values(), strict=True)
    return ShardIndex(
        np.array([os.fsencode(key) for key in places], dtype=np.bytes_),
        np.array([labels[key] for key in places], dtype=np.int32),
        np.array(offsets, dtype=np.int64),
        np.array(sizes, dtype=np.int64),
        np.array(checksums, dtype=np.uint32),
    )


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    # Without the time of writing and the user: the same bytes whenever and wherever.
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None  # as it is a regular file
    return file.read()


def _block(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(tarfile.BLOCKSIZE)


def _label(path: Path, name: str, data: bytes) -> int:
    text = data.strip()
    # int() takes signs, underscores and any script's digits as well.
    label = int(text) if re.fullmatch(rb"[0-9]{1,10}", text) else -1
    if not 0 <= label < _MOST_CLASSES:
        raise DatasetError(
            f"{path}: {name} holds {data[:20]!r}, expected a label, 0 to {_MOST_CLASSES - 1}."
        )
    return label
