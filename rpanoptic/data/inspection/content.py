"""Reads a panoptic JSON with all its faults, and keeps what can be used."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rpanoptic.data.inspection.findings import ClassCount, Counts, Findings, id_range
from rpanoptic.data.panoptic_classes import MOST_STUFF, class_name
from rpanoptic.data.panoptic_format import LARGEST_SEGMENT_ID, VOID_ID
from rpanoptic.data.panoptic_json import faults, is_inner_path, read_panoptic_json


class Segment(NamedTuple):
    """A segment of the JSON.

    Attributes:
        id: of the segment, any whole number.
        category_id: None where it is not one of the listed categories.
        crowd: whether it has iscrowd.
        area: as it stands there; None without one.
        bbox: as it stands there; None without one.
    """

    id: int
    category_id: int | None
    crowd: bool
    area: Any
    bbox: Any


class Picture(NamedTuple):
    """An annotated picture of the JSON, small enough to be sent to another process.

    Attributes:
        file_name: of the picture; None where the JSON has none.
        size: (width, height) in pixels; None where the JSON has no usable one.
        png: name of its panoptic PNG; None where it is no name, or leaves the folder.
        segments: those with a usable id, each id once.
        complete: whether these are all that the JSON lists.
    """

    file_name: str | None
    size: tuple[int, int] | None
    png: str | None
    segments: tuple[Segment, ...]
    complete: bool

    @property
    def name(self) -> str:
        """What messages about its segments call it."""
        return self.png or self.file_name or "a picture without a name"


@dataclass(frozen=True)
class Content:
    """What can be used of a panoptic JSON.

    Attributes:
        categories: the entries, ascending by id, with a name and a usable "isthing" (1 where it was
            none), as :meth:`rpanoptic.data.panoptic_classes.ClassTable.from_categories` takes them.
        pictures: those with an annotation, in the order of the annotations.
        other_pictures: file names of images without one.
        counts: of all this; pixels are not yet known.
    """

    categories: list[dict[str, Any]]
    pictures: list[Picture]
    other_pictures: list[str]
    counts: Counts


def read_content(path: Path, findings: Findings) -> Content:
    """Read a panoptic JSON, and add what is wrong with it to ``findings``.

    Raises:
        DatasetError: it is no panoptic JSON at all.
    """
    content = read_panoptic_json(path)
    for fault in faults(content):
        findings.add(fault.kind, fault.where, fault.what)
    for key in ("categories", "images", "annotations"):
        if not content[key]:
            findings.add("empty_list", key, "is empty")
    counts = Counts(classes=_classes(content["categories"], findings))
    things = {one.id: one.isthing for one in counts.classes}
    images = _by_id(content["images"], (int, str))
    annotations = _annotations(content["annotations"], images)
    _check_pictures(images.values(), findings)
    pictures = [
        _picture(images[image_id], annotation, things)
        for image_id, annotation in annotations.items()
    ]
    without = [image for image_id, image in images.items() if image_id not in annotations]
    for image in without:
        where = _file_name(image) or f"image {image['id']!r}"
        findings.add("not_annotated", where, "has no annotation, and is left out")
    for picture in pictures:
        _check_segments(picture, things, findings)
    _count(counts, images, pictures)
    missing = sum(one.area is None for picture in pictures for one in picture.segments)
    if missing:
        what = f"{missing} of {counts.segments} segments have no area"
        findings.add("missing_area", "annotations", what)
    entries = _by_id(content["categories"], (int,))
    categories = [
        {**entries[one.id], "name": one.name, "isthing": int(one.isthing)} for one in counts.classes
    ]
    names = [name for image in without if (name := _file_name(image)) is not None]
    return Content(categories, pictures, names, counts)


def _by_id(entries: Iterable[Any], types: tuple[type, ...]) -> dict[Any, Mapping[str, Any]]:
    """The entries that have an id of these types, the first of each id."""
    found: dict[Any, Mapping[str, Any]] = {}
    for entry in entries:
        if isinstance(entry, dict) and type(entry.get("id")) in types:
            found.setdefault(entry["id"], entry)
    return found


def _annotations(entries: Iterable[Any], images: Mapping[Any, Any]) -> dict[Any, Mapping[str, Any]]:
    """The first annotation of each image, by the image's id."""
    found: dict[Any, Mapping[str, Any]] = {}
    for entry in entries:
        image_id = entry.get("image_id") if isinstance(entry, dict) else None
        if type(image_id) in (int, str) and image_id in images:
            found.setdefault(image_id, entry)
    return found


def _classes(entries: Iterable[Any], findings: Findings) -> list[ClassCount]:
    """The classes, ascending by id."""
    classes = []
    for category_id, entry in sorted(_by_id(entries, (int,)).items()):
        name = class_name(entry)
        where = f"category {category_id}"
        if name != entry.get("name"):
            findings.add("unnamed_class", where, f"has no name, and is called {name!r}")
        if category_id < 0:
            findings.add("category_id_range", where, "has a negative id")
        # What is neither is a fault of its own.
        classes.append(ClassCount(category_id, name, isthing=entry.get("isthing") != 0))
    first: dict[str, int] = {}
    for one in classes:
        if one.name in first:
            what = f"has the name {one.name!r}, as category {first[one.name]}"
            findings.add("duplicate_class_name", f"category {one.id}", what)
        first.setdefault(one.name, one.id)
    stuff = sum(not one.isthing for one in classes)
    if classes and not stuff:
        findings.add("no_stuff", "categories", "all are things")
    if classes and stuff == len(classes):
        findings.add("no_things", "categories", "all are stuff")
    if stuff > MOST_STUFF:
        findings.add("too_many_stuff", "categories", f"{stuff} are stuff, at most {MOST_STUFF} can")
    return classes


def _check_pictures(images: Iterable[Mapping[str, Any]], findings: Findings) -> None:
    """Look for file names that occur twice, or leave their folder."""
    seen = set()
    for image in images:
        name = _file_name(image)
        if name is None:
            continue
        path = os.path.normpath(name)
        if path in seen:
            findings.add("duplicate_picture", name, "is the picture of two images")
        seen.add(path)
        if not is_inner_path(name):
            findings.add("picture_outside", name, "is no path below the folder of the pictures")


def _picture(
    image: Mapping[str, Any], annotation: Mapping[str, Any], things: Mapping[int, bool]
) -> Picture:
    png = annotation.get("file_name")
    entries = annotation.get("segments_info")
    usable = _by_id(entries if isinstance(entries, list) else (), (int,))
    segments = tuple(
        Segment(
            segment_id,
            _known_category(segment, things),
            segment.get("iscrowd", 0) == 1,
            segment.get("area"),
            segment.get("bbox"),
        )
        for segment_id, segment in usable.items()
    )
    return Picture(
        file_name=_file_name(image),
        size=_size(image.get("width"), image.get("height")),
        png=png if is_inner_path(png) else None,
        segments=segments,
        complete=isinstance(entries, list)
        and all(isinstance(one, dict) and type(one.get("id")) is int for one in entries),
    )


def _size(width: Any, height: Any) -> tuple[int, int] | None:
    usable = type(width) is int and type(height) is int and min(width, height) > 0
    return (width, height) if usable else None


def _known_category(segment: Mapping[str, Any], things: Mapping[int, bool]) -> int | None:
    category_id = segment.get("category_id")
    return category_id if type(category_id) is int and category_id in things else None


def _file_name(entry: Mapping[str, Any]) -> str | None:
    name = entry.get("file_name")
    return name if isinstance(name, str) else None


def _check_segments(picture: Picture, things: Mapping[int, bool], findings: Findings) -> None:
    """What the JSON alone tells of a picture's segments."""
    where = picture.name
    if picture.complete and not picture.segments:
        findings.add("no_segments", where, "has no segments")
    stuff: Counter[int] = Counter()
    for segment in picture.segments:
        if not 0 < segment.id <= LARGEST_SEGMENT_ID:
            what = "0 is void" if segment.id == VOID_ID else f"{LARGEST_SEGMENT_ID} is the last"
            findings.add("segment_id_range", where, f"has a segment of id {segment.id}; {what}")
        if segment.category_id is None or things[segment.category_id]:
            continue
        if segment.crowd:
            what = f"segment {segment.id} of category {segment.category_id} (stuff) is a crowd"
            findings.add("crowd_stuff", where, what)
        else:
            stuff[segment.category_id] += 1
    for category_id, number in stuff.items():
        if number > 1:
            what = f"has {number} segments of category {category_id}, which is stuff"
            findings.add("split_stuff", where, what)


def _count(counts: Counts, images: Mapping[Any, Any], pictures: Sequence[Picture]) -> None:
    by_id = {one.id: one for one in counts.classes}
    for picture in pictures:
        for category_id in {one.category_id for one in picture.segments}:
            if category_id is not None:
                by_id[category_id].pictures += 1
        for segment in picture.segments:
            counts.crowds += segment.crowd
            if segment.category_id is not None:
                by_id[segment.category_id].segments += 1
                by_id[segment.category_id].crowds += segment.crowd
    counts.pictures = len(images)
    counts.annotated = len(pictures)
    counts.segments = sum(len(picture.segments) for picture in pictures)
    counts.category_ids = id_range(by_id)
    counts.segment_ids = id_range(one.id for picture in pictures for one in picture.segments)
    counts.image_ids = id_range(images)
