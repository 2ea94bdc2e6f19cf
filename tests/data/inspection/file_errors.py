"""Errors of a dataset's files."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
from PIL import Image

from tests.data.inspection.cases import case, simple
from tests.data.inspection.small_set import SmallSet, rgb


@case("picture_missing", "000002.jpg", "is not there")
def _(data):
    data.picture(1).unlink()


@case("picture_missing", "000002.jpg", "is not there; it is a link to moved.jpg")
def _(data):
    data.picture(1).unlink()
    data.picture(1).symlink_to("moved.jpg")


@case("picture_missing", "sub/000002.jpg", "is not there; there is no folder ")
def _(data):
    data.picture(1).unlink()
    data.images[1]["file_name"] = "sub/000002.jpg"


@case(
    "picture_missing",
    "sub\\000002.jpg",
    "is not there; the folders in its name must be parted by /",
)
def _(data):
    data.picture(1).unlink()
    data.images[1]["file_name"] = "sub\\000002.jpg"


@case("png_missing", "000003.png", "is not there")
def _(data):
    data.png(2).unlink()


@case("picture_unreadable", "000001.jpg", "cannot be decoded (image file is truncated")
def _(data):
    data.picture().write_bytes(data.picture().read_bytes()[:-200])


@case("picture_unreadable", "000001.jpg", "cannot be read (no picture)")
def _(data):
    data.picture().write_bytes(b"no picture")


@case("picture_unreadable", "000001.jpg", "is no file")
def _(data):
    data.picture().unlink()
    data.picture().mkdir()


@case("picture_unreadable", "000001.jpg", "cannot be read (Image size (400000000 pixels) exceeds")
def _(data):
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    data.picture().write_bytes(_png((b"IHDR", header), (b"IDAT", b"")))


@case("picture_unreadable", "000001.jpg", "is no file")
def _(data):
    data.picture().unlink()
    os.mkfifo(data.picture())


@case("png_unreadable", "000001.png", "cannot be decoded")
def _(data):
    data.png().write_bytes(data.png().read_bytes()[:-40])


@case("png_unreadable", "000001.png", "cannot be read (no picture)")
def _(data):
    data.png().write_bytes(b"")


@case("png_mode", "000001.png", "not RGB of 8 bits (label images: datasets/convert_")
def _(data):
    Image.open(data.png()).convert("P").save(data.png())


@case("png_mode", "000001.png", "is grey, 8 bits a channel, not RGB of 8 bits")
def _(data):
    Image.open(data.png()).convert("L").save(data.png())


@case("png_mode", "000001.png", "16 bits a channel")
def _(data):
    Image.fromarray(np.full((16, 24), 300, dtype=np.uint16)).save(data.png())


@case("png_mode", "000001.png", "16 bits a channel")
def _(data):
    # Pillow reads RGB of 16 bits as 8 bits, without a word.
    rows = b"".join(b"\0" + bytes(24 * 6) for _ in range(16))
    header = struct.pack(">IIBBBBB", 24, 16, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    data.png().write_bytes(_png(*chunks))


def _png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@case("png_mode", "000001.png", "is a JPEG")
def _(data):
    Image.open(data.png()).save(data.png(), format="JPEG")


@case("picture_size", "000001.jpg", "is 30 x 16 pixels, but 24 x 16 by the JSON")
def _(data):
    Image.open(data.picture()).resize((30, 16)).save(data.picture())


def turn(data: SmallSet, orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(data.picture()).resize(size).save(data.picture(), exif=exif)


simple(
    "picture_turned",
    lambda data: turn(data, 6, (24, 16)),
    "000001.jpg",
    "is 16 x 24 pixels, but 24 x 16 by the JSON, for its EXIF orientation 6 turns it",
)
for _orientation, _size in ((3, (24, 16)), (6, (16, 24)), (8, (16, 24))):
    simple(
        "picture_oriented",
        lambda data, orientation=_orientation, size=_size: turn(data, orientation, size),
        "000001.jpg",
        f"has the EXIF orientation {_orientation}",
    )


@case("png_size", "000001.png", "is 24 x 17 pixels, but 24 x 16 by the JSON")
def _(data):
    data.redraw(lambda pixels: np.concatenate([pixels, pixels[-1:]]))


@case("segment_only_in_png", "000001.png", "has segment 9, which the JSON does not list")
def _(data):
    def change(pixels):
        pixels[:, 22:] = rgb(9)
        return pixels

    data.redraw(change)


@case("segment_only_in_json", "000001.png", "lacks segment 11, which the JSON lists")
def _(data):
    data.segments().append({"id": 11, "category_id": 3, "area": 1})
