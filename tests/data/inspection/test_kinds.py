"""Every kind of finding, by a set that is broken in this place alone."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rpanoptic.data.inspection import KINDS
from tests.data.inspection.small_set import CAT, CROWD, GRASS, SKY, SmallSet, rgb

Breaker = Callable[[SmallSet], object]
# (kind, what breaks the set, where and part of the message of the only finding)
CASES: list[tuple[str, Breaker, str, str]] = []


def case(kind: str, where: str, message: str) -> Callable[[Breaker], Breaker]:
    def note(breaker: Breaker) -> Breaker:
        CASES.append((kind, breaker, where, message))
        return breaker

    return note


def simple(kind: str, breaker: Breaker, where: str, message: str) -> None:
    CASES.append((kind, breaker, where, message))


# The JSON: entries.
@case("missing_key", "images[1]", "lacks 'height'")
def _(data):
    del data.images[1]["height"]


@case("missing_key", "images[0]", "lacks 'file_name'")
def _(data):
    # Its file is then one that nothing lists.
    data.picture().unlink()
    del data.images[0]["file_name"]


@case("missing_key", "annotations[2]", "lacks 'segments_info'")
def _(data):
    del data.annotations[2]["segments_info"]


@case("missing_key", "annotations[0] (000001.png): segments_info[1]", "lacks 'category_id'")
def _(data):
    del data.segments()[1]["category_id"]


@case("wrong_value", "images[0]", "a whole number above 0 as 'width', got \"24\"")
def _(data):
    data.images[0]["width"] = "24"


@case("wrong_value", "annotations[0] (000001.png): segments_info[2]", "as 'id', got \"5\"")
def _(data):
    data.segments()[2]["id"] = "5"


@case("wrong_value", "annotations[3]", "must be an object, got 7")
def _(data):
    data.annotations.append(7)


for _value, _text in (("1", '"1"'), (None, "null"), (2, "2"), ([1], "[1]")):

    @case("wrong_flag", "categories[0]", f"must have 0 or 1 as 'isthing', got {_text}")
    def _(data, value=_value):
        data.categories[0]["isthing"] = value

    @case("wrong_flag", "annotations[1] (000002.png): segments_info[0]", f"'iscrowd', got {_text}")
    def _(data, value=_value):
        data.segments(1)[0]["iscrowd"] = value


@case("duplicate_category", "categories[3]", "has the id 7 of an entry before it")
def _(data):
    data.categories.append({"id": 7, "name": "lawn", "isthing": 0})


@case("duplicate_image", "images[3]", "has the id 1 of an entry before it")
def _(data):
    data.images.append({**data.images[0]})


@case("duplicate_annotation", "image 2", "has two annotations")
def _(data):
    data.annotations.append(data.annotations[1])


@case("duplicate_segment", "annotations[0] (000001.png): segments_info[4]", "has the id 5 of")
def _(data):
    data.segments().append(data.segments()[2])


for _name in ("000001.png", ".//000001.png"):

    @case("duplicate_png", "annotations[1]", f"has the PNG {_name!r} of another image")
    def _(data, name=_name):
        # The segments of one of them would be drawn over those of the other.
        data.png(1).unlink()
        data.annotations[1] = {**data.annotations[0], "image_id": 2, "file_name": name}


for _id in (2**63, -(2**63) - 1):

    @case("wrong_value", "images[0]", f"has the id {_id}, too long for 64 bits")
    def _(data, image_id=_id):
        data.images[0]["id"] = data.annotations[0]["image_id"] = image_id


@case("wrong_value", "categories[0]", f"has the id {2**63}, too long for 64 bits")
def _(data):
    data.categories[0]["id"] = 2**63
    for number in range(3):
        for segment in data.segments(number)[2:]:
            segment["category_id"] = 2**63


@case("unknown_image", "000004.png", "belongs to image 4, which is absent")
def _(data):
    data.annotations.append({**data.annotations[0], "image_id": 4, "file_name": "000004.png"})


@case("unknown_image", "000004.png", "belongs to image '1', which is absent")
def _(data):
    data.annotations.append({**data.annotations[0], "image_id": "1", "file_name": "000004.png"})


@case("unknown_category", "segment 5 of 000001.png", "has category 77, which is not among")
def _(data):
    data.segments()[2]["category_id"] = 77


for _id in (0, -3, 256**3, 10**30):

    @case("segment_id_range", "000001.png", f"has a segment of id {_id}; ")
    def _(data, segment_id=_id):
        data.segments().append({"id": segment_id, "category_id": 3, "area": 4})


for _name in ("../a.png", "/a.png", "a\\..\\..\\b.png", "C:b.png", "a\0.png", ""):

    @case("png_outside", "annotations[0]", "must have a path below the folder of the PNGs")
    def _(data, name=_name):
        data.png().unlink()
        data.annotations[0]["file_name"] = name


@case("too_many_stuff", "categories", "255 are stuff, at most 254 can")
def _(data):
    data.categories[1:] = [
        {"id": number, "name": f"stuff {number}", "isthing": 0} for number in range(7, 262)
    ]
    for annotation in data.annotations:
        template = annotation["segments_info"][0]
        # Each class occurs, in pictures of a pixel for each segment.
        ids = np.arange(1, 385).reshape(16, 24)
        ids[ids > 256] = 256
        data_png = data.source.panoptic_root / annotation["file_name"]
        Image.fromarray(np.stack([ids & 255, ids >> 8, 0 * ids], 2).astype(np.uint8)).save(data_png)
        annotation["segments_info"] = [
            {"id": 1 + index, "category_id": category["id"], "area": 1}
            for index, category in enumerate(data.categories)
        ]
        annotation["segments_info"][255]["area"] = 129
        assert template["category_id"] == 9


# The files.
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


@case("png_mode", "000001.png", "is a palette, 8 bits a channel, not RGB of 8 bits")
def _(data):
    Image.open(data.png()).convert("P").save(data.png())


@case("png_mode", "000001.png", "is grey, 8 bits a channel")
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


def _turn(data: SmallSet, orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(data.picture()).resize(size).save(data.picture(), exif=exif)


simple(
    "picture_turned",
    lambda data: _turn(data, 6, (24, 16)),
    "000001.jpg",
    "is 16 x 24 pixels, but 24 x 16 by the JSON, for its EXIF orientation 6 turns it",
)
for _orientation, _size in ((3, (24, 16)), (6, (16, 24)), (8, (16, 24))):
    simple(
        "picture_oriented",
        lambda data, orientation=_orientation, size=_size: _turn(data, orientation, size),
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


# What runs, and may be wrong.
for _area in (1, 23.5, "24", float("nan"), -24):

    @case("area_mismatch", "000001.png", f"segment 5 has 24 pixels, its area is {_area!r}")
    def _(data, area=_area):
        data.segments()[2]["area"] = area


for _bbox in (
    [1, 6, 6, 9],
    [3, 6, 6, 4],
    [1, 6, 6],
    "box",
    {"x": 1},
    [1, 6, 6, None],
    [1, 6, 6, True],
    [1, 6, float("inf"), 4],
    [10**400, 6, 0.5, 4],
    [1, 6, 6, float("nan")],
):

    @case("bbox_mismatch", "000001.png", "segment 5 has the box [1, 6, 6, 4], its bbox is ")
    def _(data, bbox=_bbox):
        data.segments()[2]["bbox"] = bbox


@case("class_without_segments", "category 12", "'dog' never occurs")
def _(data):
    data.categories.append({"id": 12, "name": "dog", "isthing": 1})


@case("duplicate_class_name", "category 9", "has the name 'grass', as category 7")
def _(data):
    data.categories[2]["name"] = "grass"


@case("category_id_range", "category -9", "has a negative id")
def _(data):
    data.categories[2]["id"] = -9
    for number in range(3):
        data.segments(number)[0]["category_id"] = -9


@case("mixed_image_ids", "images", "have ids that are numbers, and ids that are strings, as 'town'")
def _(data):
    data.images[0]["id"] = data.annotations[0]["image_id"] = "town"


for _name in ("000001.jpg", "./000001.jpg"):

    @case("duplicate_picture", _name, "is the picture of two images")
    def _(data, name=_name):
        data.picture(1).unlink()
        data.images[1]["file_name"] = name


@case("only_crowds", "category 3", "'cat' occurs in crowds alone, which training leaves out")
def _(data):
    for number in range(3):
        data.segments(number)[2]["iscrowd"] = 1


@case("picture_outside", "../000001.jpg", "is no path below the folder of the pictures")
def _(data):
    shutil.move(data.picture(), data.source.image_root.parent)
    data.images[0]["file_name"] = "../000001.jpg"


@case("split_stuff", "000001.png", "has 2 segments of category 9, which is stuff")
def _(data):
    data.segments()[1]["category_id"] = 9


@case("crowd_stuff", "000001.png", "segment 70000 of category 9 (stuff) is a crowd")
def _(data):
    data.segments()[0]["iscrowd"] = True


@case("no_segments", "000001.png", "has no segments")
def _(data):
    data.segments().clear()
    data.redraw(np.zeros_like)


@case("void_picture", "000001.png", "93.8% of its pixels are void")
def _(data):
    def change(pixels):
        pixels[:] = 0
        pixels[6:10, 1:7] = rgb(CAT)
        return pixels

    data.redraw(change)
    data.annotations[0]["segments_info"] = data.segments()[2:3]


@case("void_set", "all PNGs", "62.5% of all pixels are void")
def _(data):
    def change(pixels):
        ids = pixels @ np.array([1, 256, 65536])
        pixels[:, 9:] = 0
        # What is left of the crowd would change its box, so that it goes, too.
        pixels[ids == CROWD] = 0
        return pixels

    for number in range(3):
        data.redraw(change, number)
        data.segments(number).pop()
        for segment, area in zip(data.segments(number), _areas(data, number), strict=True):
            segment["area"] = area
            del segment["bbox"]


def _areas(data: SmallSet, number: int) -> list[int]:
    ids = np.array(Image.open(data.png(number))) @ np.array([1, 256, 65536])
    return [int((ids == one).sum()) for one in (SKY, GRASS, CAT)]


@case("thin_picture", "000001.jpg", "is 500 x 4: at a long side of 1333, 10.7 are left")
def _(data):
    Image.new("RGB", (500, 4)).save(data.picture())
    Image.new("RGB", (500, 4), rgb(GRASS)).save(data.png())
    data.images[0].update(width=500, height=4)
    data.annotations[0]["segments_info"] = [{"id": GRASS, "category_id": 7, "area": 2000}]


@case("png_alpha", "000001.png", "has an alpha channel, which is left out")
def _(data):
    Image.open(data.png()).convert("RGBA").save(data.png())


@case("picture_depth", "000001.jpg", "has more than 8 bits (Pillow's mode I;16)")
def _(data):
    pixels = np.full((16, 24), 40000, dtype=np.uint16)
    Image.fromarray(pixels).save(data.picture(), format="PNG")


# Good to know.
@case("not_annotated", "000001.jpg", "has no annotation, and is left out")
def _(data):
    data.png().unlink()
    del data.annotations[0]


@case("missing_area", "annotations", "1 of 12 segments have no area")
def _(data):
    del data.segments()[0]["area"]


for _nothing in (None, " ", 7):

    @case("unnamed_class", "category 7", "has no name, and is called 'class 7'")
    def _(data, name=_nothing):
        data.categories[1]["name"] = name


@case("no_things", "categories", "all are stuff")
def _(data):
    data.categories[0]["isthing"] = False
    for number in range(3):
        data.segments(number)[3].update(category_id=12, iscrowd=0)
    data.categories.append({"id": 12, "name": "water", "isthing": False})


@case("no_stuff", "categories", "all are things")
def _(data):
    for category in data.categories:
        category["isthing"] = True


for _mode, _words in (("L", "grey"), ("CMYK", "CMYK")):

    @case("picture_colors", "000001.jpg", f"is {_words}, not RGB")
    def _(data, mode=_mode):
        Image.open(data.picture()).convert(mode).save(data.picture())


@case("identical_pictures", "000003.jpg", "is the same file as 000001.jpg")
def _(data):
    shutil.copyfile(data.picture(0), data.picture(2))


@case("unlisted_picture", "more.jpg", "is not listed")
def _(data):
    shutil.copyfile(data.picture(), data.source.image_root / "more.jpg")
    (data.source.image_root / "notes.txt").write_text("no picture")
    (data.source.image_root / ".hidden.jpg").write_text("hidden")


@case("unlisted_png", "000001_old.png", "is not listed")
def _(data):
    shutil.copyfile(data.png(), data.source.panoptic_root / "000001_old.png")


@pytest.fixture
def data(tmp_path: Path) -> SmallSet:
    return SmallSet(tmp_path)


@pytest.mark.parametrize(
    ("kind", "breaker", "where", "message"), CASES, ids=[f"{one[0]}-{one[3]}" for one in CASES]
)
def test_a_fault_is_found_and_no_other(data, kind, breaker, where, message):
    breaker(data)
    found = data.inspect()
    assert found.numbers == {kind: 1}
    [finding] = found.findings
    assert (finding.kind, finding.where) == (kind, where)
    assert message in finding.message
    assert finding.severity == found.worst == KINDS[kind].severity


@pytest.mark.parametrize("key", ["categories", "images", "annotations"])
def test_an_empty_list_is_found(data, key):
    data.content[key] = []
    found = data.inspect()
    assert found.numbers["empty_list"] == 1
    assert found.worst == "error"


def test_every_kind_has_a_case():
    assert {kind for kind, *_ in CASES} | {"empty_list"} == set(KINDS)


def test_a_sound_set_has_no_finding(data):
    found = data.inspect()
    assert (found.findings, found.numbers, found.worst) == ([], {}, None)


def test_a_picture_that_is_turned_upright_and_fits_is_none(data):
    _turn(data, 1, (24, 16))
    assert data.inspect().worst is None


def test_a_missing_file_is_looked_for_under_like_names(data):
    data.picture(1).rename(data.picture(1).with_suffix(".JPEG"))
    found = data.inspect()
    assert found.numbers == {"picture_missing": 1, "unlisted_picture": 1}
    assert found.findings[0].message == "is not there; there is 000002.JPEG"


def test_boxes_may_differ_by_a_pixel(data):
    for bbox in ([1.0, 6.0, 5.0, 3.0], [0.4, 6, 6.5, 4.9]):
        data.segments()[2]["bbox"] = bbox
        assert data.inspect().worst is None
