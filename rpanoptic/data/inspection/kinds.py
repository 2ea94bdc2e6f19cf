"""The kinds of findings, each with its severity and its meaning."""

from __future__ import annotations

from typing import Literal, NamedTuple

#: "error": training or evaluation would fail, or see other data than was meant. "warning": they
#: run, but their results may not mean what they seem to. "note": good to know.
Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


class Kind(NamedTuple):
    """How severe findings of a kind are, and what it means, for tables."""

    severity: Severity
    meaning: str


#: All kinds by name, in the order of the tables.
KINDS: dict[str, Kind] = {
    # The JSON.
    "missing_key": Kind("error", "an entry of the JSON lacks a key"),
    "wrong_value": Kind("error", "an entry of the JSON holds something else than it should"),
    "wrong_flag": Kind("error", "isthing or iscrowd is not 0, 1, false or true"),
    "empty_list": Kind("error", "the JSON lists no categories, images or annotations"),
    "duplicate_category": Kind("error", "two categories have the same id"),
    "duplicate_image": Kind("error", "two images have the same id"),
    "duplicate_annotation": Kind("error", "an image has two annotations"),
    "duplicate_png": Kind("error", "two annotations name the same PNG"),
    "duplicate_segment": Kind("error", "two segments of a picture have the same id"),
    "mixed_image_ids": Kind("error", "some image ids are numbers, and some are strings"),
    "unknown_image": Kind("error", "an annotation belongs to an image that is not listed"),
    "unknown_category": Kind("error", "a segment has a category that is not listed"),
    "segment_id_range": Kind("error", "a segment's id is not from 1 to 16,777,215"),
    "too_many_stuff": Kind("error", "more stuff classes than an 8-bit semantic PNG can hold"),
    "png_outside": Kind("error", "the name of a PNG leaves its folder, or is no name"),
    # The files.
    "picture_missing": Kind("error", "a picture is not there"),
    "png_missing": Kind("error", "a panoptic PNG is not there"),
    "picture_unreadable": Kind("error", "a picture is damaged or truncated, or is none"),
    "png_unreadable": Kind("error", "a panoptic PNG is damaged or truncated, or is no picture"),
    "png_mode": Kind("error", "a panoptic PNG is not RGB of 8 bits, or is a JPEG"),
    "picture_size": Kind("error", "a picture has another size than the JSON says"),
    "picture_turned": Kind("error", "a picture's size is right only without its EXIF orientation"),
    "png_size": Kind("error", "a panoptic PNG has another size than the JSON or the picture"),
    "segment_only_in_png": Kind("error", "a panoptic PNG has a segment that the JSON lacks"),
    "segment_only_in_json": Kind("error", "the JSON has a segment that its panoptic PNG lacks"),
    # What runs, and may be wrong.
    "area_mismatch": Kind("warning", "a segment's area is not its number of pixels"),
    "bbox_mismatch": Kind("warning", "a segment's bbox is not that of its pixels"),
    "class_without_segments": Kind("warning", "no segment is of this class"),
    "only_crowds": Kind("warning", "a class of things whose segments are all crowds"),
    "duplicate_class_name": Kind("warning", "two classes have the same name"),
    "category_id_range": Kind("warning", "a category's id is negative"),
    "duplicate_picture": Kind("warning", "two images name the same picture"),
    "picture_outside": Kind("warning", "the name of a picture leaves its folder"),
    "split_stuff": Kind("warning", "a picture has several segments of one stuff class"),
    "crowd_stuff": Kind("warning", "a segment of stuff has iscrowd"),
    "no_segments": Kind("warning", "a picture's annotation has no segments: all is void"),
    "void_picture": Kind("warning", "more than 90 % of a picture is void"),
    "void_set": Kind("warning", "more than half of all pixels are void"),
    "thin_picture": Kind("warning", "a picture so long and narrow that resizing leaves a strip"),
    "png_alpha": Kind("warning", "a panoptic PNG has an alpha channel"),
    "picture_depth": Kind("warning", "a picture of more than 8 bits, which 8 bits cut off"),
    # Good to know.
    "not_annotated": Kind("note", "an image has no annotation, and is left out"),
    "missing_area": Kind("note", "segments without area, which panopticapi needs"),
    "unnamed_class": Kind("note", "a class has no name"),
    "no_things": Kind("note", "all classes are stuff"),
    "no_stuff": Kind("note", "all classes are things"),
    "picture_colors": Kind("note", "a picture is not RGB, and is converted"),
    "picture_oriented": Kind("note", "a picture is turned by its EXIF orientation; its PNG is not"),
    "identical_pictures": Kind("note", "two pictures are the same file, byte by byte"),
    "unlisted_picture": Kind("note", "a file among the pictures that the JSON does not list"),
    "unlisted_png": Kind("note", "a file among the PNGs that the JSON does not list"),
}
