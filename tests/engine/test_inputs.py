from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rpanoptic.engine.inputs import PictureError, find_pictures, output_names, read_picture


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.jpg", "c.JPG"):
        Image.new("RGB", (8, 6), (200, 100, 50)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_files_patterns_and_folders(folder: Path) -> None:
    names = [p.name for p in find_pictures([str(folder)])]
    assert names == ["a.jpg", "b.png", "c.JPG"]
    assert find_pictures([str(folder / "*.png")]) == [folder / "b.png"]
    # A file that is named is taken whatever its ending, and each file once.
    named = [str(folder / "notes.txt"), str(folder / "b.png"), str(folder / "?.png")]
    assert [p.name for p in find_pictures(named)] == ["notes.txt", "b.png"]


@pytest.mark.parametrize("what", ["absent.jpg", "*.gif"])
def test_input_that_matches_nothing_is_named(folder: Path, what: str) -> None:
    with pytest.raises(PictureError, match=what.replace("*", r"\*")):
        find_pictures([str(folder / "a.jpg"), str(folder / what)])


def test_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="folder without pictures"):
        find_pictures([str(tmp_path)])


def test_picture_is_read_as_rgb(folder: Path) -> None:
    image = read_picture(folder / "b.png")
    assert image.shape == (6, 8, 3)
    assert image.dtype == np.uint8
    assert image[0, 0].tolist() == [200, 100, 50]


def test_grey_picture_with_alpha_is_read_as_rgb(tmp_path: Path) -> None:
    Image.new("LA", (4, 4), (90, 255)).save(tmp_path / "grey.png")
    assert read_picture(tmp_path / "grey.png")[0, 0].tolist() == [90, 90, 90]


@pytest.mark.parametrize("name", ["a.jpg", "b.png"])
def test_truncated_picture_is_named(folder: Path, name: str) -> None:
    file = folder / name
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(PictureError, match=str(file)):
        read_picture(file)


def test_file_that_is_no_picture(folder: Path) -> None:
    with pytest.raises(PictureError, match=r"notes\.txt"):
        read_picture(folder / "notes.txt")


def test_picture_that_would_fill_the_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Pillow refuses more than twice this number of pixels; the picture has 48.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(PictureError, match=r"b\.png.*decompression bomb"):
        read_picture(folder / "b.png")


def test_any_error_of_the_reader_names_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise struct.error("unpack requires a buffer of 4 bytes")

    monkeypatch.setattr("rpanoptic.engine.inputs.read_image", fail)
    with pytest.raises(PictureError, match=r"a\.jpg cannot be read: unpack"):
        read_picture(folder / "a.jpg")


def test_what_is_made_of_pictures_has_names_of_its_own() -> None:
    pictures = [Path(name) for name in ("a.png", "a.jpg", "x/a.png", "a_2.png", "all.png", "b")]
    names = output_names(pictures, taken=["all"])
    assert list(names.values()) == ["a", "a_2", "a_3", "a_2_2", "all_2", "b"]
    assert list(names) == pictures
