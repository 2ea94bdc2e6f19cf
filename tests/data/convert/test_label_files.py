import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from rpanoptic.data.convert.label_files import (
    check_picture_size,
    files_by_key,
    only_file,
    read_label_image,
    shown_size,
)
from rpanoptic.errors import DatasetError

VALUES = np.array([[0, 1, 255], [256, 40_000, 65_535]])


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.TIFF"])
def test_sixteen_bits_are_read_exactly(tmp_path, name):
    # Written by OpenCV, read by Pillow: two libraries must agree on the values.
    _, data = cv2.imencode(name[1:].lower(), VALUES.astype(np.uint16))
    (tmp_path / name).write_bytes(data.tobytes())
    read = read_label_image(tmp_path / name)
    assert read.dtype == np.int64
    assert np.array_equal(read, VALUES)


def test_big_endian_tiffs_and_32_bits_are_read_exactly(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.int32([[0, 70_000_000]])).save(path)
    assert read_label_image(path).tolist() == [[0, 70_000_000]]
    # A TIFF of big-endian numbers, put together by hand: its header, one strip, one directory.
    entries = [
        (256, 4, 3), (257, 4, 2), (258, 3, 16 << 16), (259, 3, 1 << 16), (262, 3, 1 << 16),
        (273, 4, 8), (277, 3, 1 << 16), (278, 4, 2), (279, 4, 12),
    ]  # fmt: skip
    data = b"MM\0*" + (20).to_bytes(4, "big") + VALUES.astype(">u2").tobytes()
    data += len(entries).to_bytes(2, "big")
    for tag, kind, value in entries:
        data += b"".join(
            number.to_bytes(size, "big")
            for number, size in ((tag, 2), (kind, 2), (1, 4), (value, 4))
        )
    path.write_bytes(data + bytes(4))
    assert np.array_equal(read_label_image(path), VALUES)


def test_an_indexed_picture_holds_its_indices(tmp_path):
    image = Image.fromarray(np.uint8([[0, 5], [200, 255]]))
    image.putpalette(list(range(255, -1, -1)) * 3)
    image.save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "P"
    assert read_label_image(tmp_path / "a.png").tolist() == [[0, 5], [200, 255]]


def test_three_channels_are_one_number_where_that_is_meant(tmp_path):
    Image.fromarray(np.uint8([[[1, 2, 3], [255, 255, 255]]])).save(tmp_path / "a.png")
    assert read_label_image(tmp_path / "a.png", rgb=True).tolist() == [[0x030201, 0xFFFFFF]]
    with pytest.raises(DatasetError, match=r"a\.png: is a picture of mode 'RGB'; a label image"):
        read_label_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n1234"), "cannot be read as a PNG"),
        (
            lambda path: Image.new("L", (9, 9)).save(path, format="JPEG"),
            "cannot be read as a PNG or TIFF",
        ),
        (lambda path: Image.new("RGBA", (2, 2)).save(path), "is a picture of mode 'RGBA'"),
        (lambda path: Image.new("F", (2, 2)).save(path, format="TIFF"), "of mode 'F'"),
        (
            lambda path: Image.new("L", (2, 2)).save(
                path, format="TIFF", save_all=True, append_images=[Image.new("L", (2, 2))]
            ),
            "is a file of several pictures",
        ),
        (
            lambda path: Image.fromarray(np.int32([[-3, 4]])).save(path, format="TIFF"),
            "holds the negative number -3",
        ),
    ],
)
def test_another_file_is_no_label_image(tmp_path, make, message):
    path = tmp_path / "a.png"
    make(path)
    with pytest.raises(DatasetError) as caught:
        read_label_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_greyscale_png_of_few_bits_is_refused_as_pillow_stretches_it(tmp_path):
    # 4 pixels of 4 bits: 0, 1, 2, 3 behind the filter byte 0.
    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 4, 1, 4, 0, 0, 0, 0)
    data = zlib.compress(b"\0\x01\x23")
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    assert np.asarray(Image.open(path)).tolist() == [[0, 17, 34, 51]]
    with pytest.raises(DatasetError, match="greyscale of less than 8 bits"):
        read_label_image(path)


def write_tiff(path, width, bits, data, *, white=0, signed=False):
    """A TIFF of one row, put together by hand, for what Pillow does not write."""
    numbers = {
        256: width, 257: 1, 258: bits, 259: 1, 262: 1 - white, 273: 8, 277: 1, 278: 1,
        279: len(data), 339: 1 + signed,
    }  # fmt: skip
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, one) for tag, one in numbers.items())
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data
        + struct.pack("<H", len(numbers)) + directory + bytes(4)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("bits", "data", "white"), [(4, b"\x01\x23", 0), (2, b"\x1b", 0), (8, bytes(range(4)), 1)]
)
def test_tiffs_whose_numbers_pillow_changes_are_refused(tmp_path, bits, data, white):
    path = tmp_path / "a.tif"
    write_tiff(path, 4, bits, data, white=white)
    assert np.asarray(Image.open(path)).tolist() != [[0, 1, 2, 3]]
    with pytest.raises(DatasetError, match=r"a\.tif: is greyscale of less than 8 bits, or a TIFF"):
        read_label_image(path)


def test_a_compressed_tiff_whose_0_is_white_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    Image.new("L", (4, 4)).save(path, tiffinfo={262: 0}, compression="tiff_lzw")
    with pytest.raises(DatasetError, match="or a TIFF whose 0 is white"):
        read_label_image(path)


def test_a_tiff_of_signed_numbers_holds_no_255_for_minus_1(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, 4, 8, bytes([0, 1, 2, 127]), signed=True)
    assert read_label_image(path).tolist() == [[0, 1, 2, 127]]
    write_tiff(path, 4, 8, bytes([0, 1, 2, 255]), signed=True)
    with pytest.raises(DatasetError, match=r"a\.tif: holds the negative number -1"):
        read_label_image(path)


def test_a_label_image_that_is_to_be_turned_is_refused(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (5, 3)).save(tmp_path / "a.png", exif=exif)
    with pytest.raises(DatasetError, match=r"a\.png: is to be turned by its EXIF orientation"):
        read_label_image(tmp_path / "a.png")


def test_files_are_found_by_what_they_have_in_common(tmp_path):
    for name in [
        "b/2_lab.PNG",
        "1_lab.tif",
        "1.jpg",
        "_lab.png",
        ".3_lab.png",
        "b/2.tif",
        ".b/2_lab.png",
    ]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = files_by_key(tmp_path, suffix="_lab")
    assert found == {"1": [tmp_path / "1_lab.tif"], "b/2": [tmp_path / "b/2_lab.PNG"]}
    assert only_file(found, "b/2", "map", tmp_path) == tmp_path / "b/2_lab.PNG"
    with pytest.raises(DatasetError, match="has no map for '3'"):
        only_file(found, "3", "map", tmp_path)
    (tmp_path / "1_lab.tiff").touch()
    with pytest.raises(DatasetError, match=r"several files as map for '1': 1_lab\.tif, 1_lab\.ti"):
        only_file(files_by_key(tmp_path, suffix="_lab"), "1", "map", tmp_path)
    with pytest.raises(DatasetError, match="nowhere: no such folder"):
        files_by_key(tmp_path / "nowhere")


def test_the_size_of_a_picture_is_that_which_is_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (5, 3)).save(tmp_path / "a.jpg", exif=exif)
    assert shown_size(tmp_path / "a.jpg") == (3, 5)
    check_picture_size(tmp_path / "a.png", np.zeros((5, 3)), tmp_path / "a.jpg")
    with pytest.raises(DatasetError, match=r"a\.png: is 5 x 3 pixels, its picture .*a.jpg is 3 x"):
        check_picture_size(tmp_path / "a.png", np.zeros((3, 5)), tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"b\.jpg: cannot be read as a picture"):
        shown_size(tmp_path / "b.jpg")
