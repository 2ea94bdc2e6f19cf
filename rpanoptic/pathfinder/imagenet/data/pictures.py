"""The picture that a record stands for, as RGB, whatever its file holds."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rpanoptic.errors import DatasetError
from rpanoptic.pathfinder.imagenet.data.digits import read_digit

# Behind what is transparent.
_PAPER = (255, 255, 255)
# One channel of 16 bits; Pillow gives RGB of 16 bits as 8 already.
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def read_record(record: dict[str, Any]) -> Image.Image:
    """Read the picture of a record: of a file, of a shard, or a digit.

    Args:
        record: "file_name" for messages, and as the file itself where there is neither "digit"
            (its number) nor "shard" (a tar file, with "offset", "size" and "crc" of the picture).

    Returns:
        an RGB picture of 8 bits; see :func:`decode`.

    Raises:
        DatasetError: the picture cannot be read, or scikit-learn, for digits, is missing.
    """
    if "digit" in record:
        return read_digit(record["digit"], noisy=record["noisy"])
    name = record["file_name"]
    try:
        data = _part(record) if "shard" in record else Path(name).read_bytes()
    except FileNotFoundError as error:
        raise DatasetError(f"{error.filename}: no such file.") from None
    except OSError as error:
        raise DatasetError(f"{name}: cannot be read ({error.strerror or error}).") from None
    return decode(data, name)


def decode(data: bytes, name: str) -> Image.Image:
    """An image file as an RGB picture of 8 bits.

    It is turned as its EXIF orientation says, as in Detectron2. One channel gives three equal ones,
    16 bits are scaled to 8, CMYK and palettes are converted, what is transparent shows white.

    Args:
        data: all bytes of the file.
        name: of the file, for messages.

    Raises:
        DatasetError: it is damaged, truncated, no picture, or one of floating point numbers.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _rgb(ImageOps.exif_transpose(image))
    except MemoryError:
        raise
    except UnidentifiedImageError:
        fault = "it has no known format" if data else "it is empty"
        raise DatasetError(f"{name}: cannot be read as a picture ({fault}).") from None
    # Pillow reports damage by OSError, SyntaxError, ValueError and others.
    except Exception as error:
        raise DatasetError(f"{name}: cannot be read as a picture ({error}).") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP:
        levels = np.asarray(image).astype(np.int64) // 257
        return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("its brightness is in floating point numbers, of which no range is known")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        seen = image.convert("RGBA")
        paper = Image.new("RGBA", seen.size, (*_PAPER, 255))
        return Image.alpha_composite(paper, seen).convert("RGB")
    return image.convert("RGB")


def _part(record: dict[str, Any]) -> bytes:
    """The bytes of a picture in a shard; raises a DatasetError if they are not as indexed."""
    with Path(record["shard"]).open("rb") as file:
        file.seek(record["offset"])
        data = file.read(record["size"])
    if len(data) != record["size"] or zlib.crc32(data) != record["crc"]:
        raise DatasetError(f"{record['file_name']}: the shard is damaged there.")
    return data
