"""Errors of a panoptic JSON's entries."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tests.data.inspection.cases import case


@case("missing_key", "images[1]", "lacks 'height'")
def _(data):
    del data.images[1]["height"]


@case("missing_key", "images[0]", "lacks 'file_name'")
def _(data):
    # Its file is then one that nothing lists.
    data.picture().unlink()
    del data.images[0]["file_name"]


@case("missing_key", "annotations[2]", "instances with masks are converted by datasets/convert_")
def _(data):
    data.png(2).unlink()
    del data.annotations[2]["file_name"]
    data.annotations[2]["segmentation"] = []


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
