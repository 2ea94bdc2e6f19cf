from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from rpanoptic.errors import DatasetError
from rpanoptic.pathfinder.imagenet.data.pictures import decode, read_record
from tests.pathfinder.imagenet.data.folder import truncate

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    image = decode(data, "it")
    assert image.mode == "RGB"
    return np.asarray(image)


def test_colours_stay_as_they_are() -> None:
    assert np.array_equal(pixels(encoded(Image.fromarray(COLOURS))), COLOURS)


def test_one_channel_becomes_three_equal_ones() -> None:
    assert np.array_equal(pixels(encoded(Image.fromarray(GREY))), np.stack([GREY] * 3, 2))
    black_and_white = Image.fromarray(GREY > 127)
    assert np.array_equal(
        pixels(encoded(black_and_white)), np.stack([(GREY > 127) * np.uint8(255)] * 3, 2)
    )


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_cut(kind: str) -> None:
    deep = GREY.astype(np.uint16) * 257
    assert np.array_equal(pixels(encoded(Image.fromarray(deep), kind))[..., 1], GREY)


def test_palettes_and_cmyk_are_converted() -> None:
    palette = Image.fromarray(COLOURS).quantize(8)
    assert np.array_equal(pixels(encoded(palette)), np.asarray(palette.convert("RGB")))
    smooth = Image.new("RGB", (16, 16), (200, 40, 90))
    cmyk = pixels(encoded(smooth.convert("CMYK"), "JPEG", quality=100))
    # JPEG rounds each of the four channels.
    assert np.abs(cmyk.astype(int) - (200, 40, 90)).max() <= 3


def test_what_is_transparent_shows_white() -> None:
    alpha = np.zeros((6, 9), dtype=np.uint8)
    alpha[:, :4] = 255
    seen = pixels(encoded(Image.fromarray(np.dstack([COLOURS, alpha]))))
    assert np.array_equal(seen[:, :4], COLOURS[:, :4]) and (seen[:, 4:] == 255).all()
    grey = pixels(encoded(Image.fromarray(np.dstack([GREY, alpha]))))
    assert np.array_equal(grey[:, :4, 0], GREY[:, :4]) and (grey[:, 4:] == 255).all()
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert pixels(encoded(palette, transparency=0)).tolist() == [[[255] * 3, [40, 50, 60]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_detectron2_turns_them(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "turned.png"
    path.write_bytes(encoded(Image.fromarray(COLOURS), exif=exif))
    image = np.asarray(read_record({"file_name": str(path)}))
    assert np.array_equal(image, read_image(str(path), format="RGB"))
    assert image.shape == ((9, 6, 3) if orientation > 4 else (6, 9, 3))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_file_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(encoded(Image.fromarray(COLOURS.repeat(9, 0)), kind))
    read_record({"file_name": str(path)})
    truncate(path)
    with pytest.raises(DatasetError, match=rf"cut\.{kind}: cannot be read as a picture"):
        read_record({"file_name": str(path)})


def test_other_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.png: no such file"):
        read_record({"file_name": str(tmp_path / "gone.png")})
    with pytest.raises(DatasetError, match=r"text: cannot be read .* \(it has no known format\)"):
        decode(b"not a picture", "text")
    with pytest.raises(DatasetError, match=r"nothing: cannot be read as a picture \(it is empty\)"):
        decode(b"", "nothing")
    real = encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF")
    with pytest.raises(DatasetError, match=r"real: .*floating point"):
        decode(real, "real")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_record({"file_name": str(tmp_path)})
