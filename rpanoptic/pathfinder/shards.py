"""A shard: some consecutive samples of a set in one file, a zip archive of PNGs.

Sample 12000 is ``000012000_image.png`` and ``000012000_target.png`` (0 and 255, to be looked at);
``labels.json`` holds the labels in the samples' order. The archive is not compressed, as PNGs are,
so that a sample is read from its place in the file. Nothing in it depends on when or where it is
written.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np

from rpanoptic.errors import DatasetError
from rpanoptic.pathfinder.generator import generate
from rpanoptic.pathfinder.sets import Example
from rpanoptic.pathfinder.settings import PathfinderSettings

_LABELS = "labels.json"
_KINDS = ("image", "target")
_PNG_COMPRESSION = 3
# A bit a pixel is written in a quarter of the time.
_BILEVEL = {"image": 0, "target": 1}
# What precedes a file in a zip archive; its last two numbers say how long the rest of it is.
_HEADER = struct.Struct("<26x2H")


def encode_shard(settings: PathfinderSettings, seed: int, indices: range) -> bytes:
    """Draw samples and pack them.

    Args:
        settings: of the generator.
        seed: of the generator.
        indices: of the samples.

    Returns:
        the bytes of the file.

    Raises:
        ConfigError: the settings are impossible.
    """
    # OpenCV's own threads would fight with the other processes.
    cv2.setNumThreads(1)
    file = io.BytesIO()
    labels = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for index in indices:
            sample = generate(settings, seed, index)
            pictures = (sample.image, sample.target * np.uint8(255))
            for kind, pixels in zip(_KINDS, pictures, strict=True):
                archive.writestr(_entry(_name(index, kind)), _png(pixels, _BILEVEL[kind]))
            labels.append(int(sample.label))
        archive.writestr(_entry(_LABELS), json.dumps(labels))
    return file.getvalue()


class Shard:
    """A shard to read from. It holds no open file, so that processes may share it.

    Args:
        path: the file.
        indices: of the samples that it shall hold.

    Raises:
        DatasetError: the file is missing, is no such archive, or lacks a sample.
    """

    def __init__(self, path: Path, indices: range) -> None:
        self._path = path
        self._first = indices.start
        try:
            with zipfile.ZipFile(path) as archive:
                entries = {entry.filename: entry for entry in archive.infolist()}
                self._labels = np.array(json.loads(archive.read(_LABELS)), dtype=np.uint8)
            if self._labels.shape != (len(indices),):
                raise ValueError(f"{len(self._labels)} labels, expected {len(indices)}")
            # Place, size and checksum; objects for as many entries would take far more memory.
            self._entries = np.array(
                [
                    [
                        (entry.header_offset, entry.file_size, entry.CRC)
                        for kind in _KINDS
                        for entry in [entries[_name(index, kind)]]
                    ]
                    for index in indices
                ],
                dtype=np.int64,
            )
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read ({error.strerror or error}).") from None
        # A damaged archive may also look encrypted (RuntimeError), or as no other Python writes it.
        except (zipfile.BadZipFile, KeyError, ValueError, RuntimeError) as error:
            raise DatasetError(f"{path}: is no sound shard ({error}).") from None

    def read(self, index: int) -> Example:
        """Read a sample.

        Args:
            index: in the set, not in the shard.

        Raises:
            DatasetError: the file cannot be read, or the sample in it is damaged.
        """
        place = index - self._first
        try:
            with self._path.open("rb") as file:
                image, target = (
                    self._picture(file, _name(index, kind), *map(int, entry))
                    for kind, entry in zip(_KINDS, self._entries[place], strict=True)
                )
        except OSError as error:
            message = f"{self._path}: cannot be read ({error.strerror or error})."
            raise DatasetError(message) from None
        return Example(image, (target > 0).astype(np.uint8), int(self._labels[place]))

    def _picture(
        self, file: io.BufferedReader, name: str, offset: int, size: int, crc: int
    ) -> np.ndarray:
        file.seek(offset)
        header = file.read(_HEADER.size)
        if len(header) == _HEADER.size:
            file.seek(sum(_HEADER.unpack(header)), io.SEEK_CUR)
            data = file.read(size)
            if len(data) == size and zlib.crc32(data) == crc:
                pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
                if pixels is not None:
                    return pixels
        raise DatasetError(f"{self._path}: {name} in it is damaged.")


def _name(index: int, kind: str) -> str:
    return f"{index:09d}_{kind}.png"


def _entry(name: str) -> zipfile.ZipInfo:
    """Without the time of writing and the system, the same bytes whenever and wherever."""
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    return entry


def _png(pixels: np.ndarray, bilevel: int) -> bytes:
    options = [cv2.IMWRITE_PNG_COMPRESSION, _PNG_COMPRESSION, cv2.IMWRITE_PNG_BILEVEL, bilevel]
    done, data = cv2.imencode(".png", pixels, options)
    if not done:
        raise OSError("OpenCV could not encode a PNG")
    return data.tobytes()
