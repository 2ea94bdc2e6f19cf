"""What runs, and may be wrong or good to know."""

from __future__ import annotations

import shutil

import numpy as np
from PIL import Image

from tests.data.inspection.cases import case
from tests.data.inspection.small_set import CAT, CROWD, GRASS, SKY, SmallSet, rgb

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
