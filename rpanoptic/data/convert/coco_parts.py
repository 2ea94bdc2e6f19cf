"""COCO's instances and stuff, in files of their own -> the COCO panoptic format.

Masks of COCO's instances overlap; in a panoptic segmentation each pixel belongs to one segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from rpanoptic.data.convert.coco_annotations import (
    CocoAnnotations,
    annotation_name,
    decoded_mask,
    read_coco_annotations,
)
from rpanoptic.data.convert.label_files import (
    files_by_key,
    only_file,
    read_label_image,
    shown_size,
)
from rpanoptic.data.convert.label_images import LabelSuffixes, paired_files
from rpanoptic.data.convert.label_segments import USUAL_VOID, LabelRules
from rpanoptic.data.convert.outputs import png_names
from rpanoptic.data.convert.write import (
    ConversionReport,
    Segment,
    SegmentedPicture,
    write_panoptic,
)
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.errors import DatasetError
from rpanoptic.recurrent.checks import check_choice

#: Which of two instances that overlap is on top.
ORDERS = ("area", "file")


@dataclass(frozen=True)
class Stuff:
    """Where the stuff of pictures is told.

    Attributes:
        path: COCO JSON of stuff segments; or folder of label images, which are greyscale PNGs or
            TIFFs of 8 or 16 bits, named as the pictures but for the extension.
        void: category ids in the JSON, or values in label images, that stand for void or for all
            things. None: in label images 0, 255 and 65535, unless they are classes.
        offset: what is added to a value of a label image to get the category id.
    """

    path: Path
    void: tuple[int, ...] | None = None
    offset: int = 0


def convert_coco_parts(
    panoptic_json: Path,
    panoptic_root: Path,
    *,
    instances: Path | None = None,
    stuff: Stuff | None = None,
    classes: ClassTable | None = None,
    images: Path | None = None,
    order: str = "area",
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> ConversionReport:
    """Make panoptic annotations of COCO's instances, stuff, or both.

    Things lie above stuff. The stuff of a class is one segment of the picture; where stuff of a
    JSON overlaps, the later in the file is above. Of instances that overlap, a smaller one lies
    above a larger one, crowds below all others, and of two with equal areas the later in the file
    above; or, with ``order`` "file", each above those before it. A segment that others hide
    completely is left out and counted. What nothing covers is void.

    Args:
        panoptic_json: the JSON to write.
        panoptic_root: folder for its PNGs.
        instances: COCO JSON of instances, with polygons or RLE.
        stuff: COCO JSON of stuff segments, or label images. Where these show a thing without an
            instance they are void, since nothing tells one thing from another.
        classes: all classes. None takes those of the JSON files: of the instances as things and of
            the stuff as stuff, unless an entry has "isthing". Label images need them.
        images: folder of the pictures; names them where no JSON does, else not looked at. Those
            without a label image are left out and counted.
        order: "area" or "file".
        workers: number of processes.
        overwrite: replace the JSON, and PNGs of the same names.
        progress: whether to show a progress bar.

    Raises:
        DatasetError: a file is missing, damaged or contradicts another, nothing tells the classes
            or the pictures, or an output is there already; the message names it.
        ValueError: ``order`` is none of the two.
    """
    check_choice("order", order, ORDERS)
    maps = stuff if stuff is not None and stuff.path.is_dir() else None
    files = [] if instances is None else [_File(read_coco_annotations(instances), isthing=1)]
    if stuff is not None and maps is None:
        files.append(_File(read_coco_annotations(stuff.path), isthing=0, void=stuff.void or ()))
    categories = _categories(files, classes, maps)
    is_thing = {entry["id"]: bool(entry["isthing"]) for entry in categories}
    rules = None if maps is None else _rules(maps, ClassTable.from_categories(categories))
    entries: Sequence[Mapping[str, Any]]
    stuff_files: Sequence[Path | None]
    notes: Mapping[str, int] = {}
    if maps is not None and not files:
        if images is None:
            raise DatasetError(
                "label images do not tell the names of the pictures. Give their folder (--images)."
            )
        pairs, notes = paired_files(images, maps.path, LabelSuffixes())
        entries = [{"id": number, "file_name": one[1]} for number, one in enumerate(pairs, 1)]
        stuff_files = [path for _, _, path in pairs]
    else:
        entries = _merged_images(files)
        stuff_files = [None] * len(entries) if maps is None else _stuff_files(maps.path, entries)
    pictures = [
        (
            entry["file_name"],
            _Parts(
                entry,
                _annotations_of(entry["id"], files, is_thing),
                stuff_file,
                None if files or images is None else images / entry["file_name"],
            ),
        )
        for entry, stuff_file in zip(entries, stuff_files, strict=True)
    ]
    notes = {**notes, **_other_names(files, classes)}
    return write_panoptic(
        panoptic_json,
        panoptic_root,
        partial(
            _combine,
            is_thing=is_thing,
            by_area=order == "area",
            rules=rules,
            offset=0 if maps is None else maps.offset,
        ),
        pictures,
        categories,
        inputs=[path for path in (instances, stuff and stuff.path, images) if path],
        notes=notes,
        header=files[0].read.header if files else {},
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )


class _File(NamedTuple):
    """A JSON, whether its classes are things if it does not say, and which of them are void."""

    read: CocoAnnotations
    isthing: int
    void: tuple[int, ...] = ()


class _Parts(NamedTuple):
    """What a picture is made from.

    Attributes:
        image: its entry in a JSON, or its name alone.
        annotations: its annotations with masks, and the file that each is from.
        stuff_file: its label image.
        picture_file: the picture, where its size has to be compared.
    """

    image: Mapping[str, Any]
    annotations: Sequence[tuple[Mapping[str, Any], Path]]
    stuff_file: Path | None
    picture_file: Path | None


def _categories(
    files: Sequence[_File], classes: ClassTable | None, maps: Stuff | None
) -> list[dict[str, Any]]:
    if not files and maps is None:
        raise DatasetError("neither instances nor stuff are given; there is nothing to convert.")
    if classes is not None:
        return classes.categories()
    if maps is not None:
        raise DatasetError(
            f"{maps.path}: label images do not tell what their classes are called. Give the "
            "classes too."
        )
    found: dict[int, dict[str, Any]] = {}
    for file in files:
        for number, entry in file.read.categories.items():
            if number in file.void:
                continue
            category = {**entry, "isthing": int(entry.get("isthing", file.isthing))}
            other = found.setdefault(number, category)
            if other["isthing"] != category["isthing"]:
                raise DatasetError(
                    f"{file.read.path}: category {number} is stuff here and a thing in the other "
                    "file. Give the classes too."
                )
    return list(found.values())


def _other_names(files: Iterable[_File], classes: ClassTable | None) -> dict[str, int]:
    """How many classes of the files have another name in ``classes``, as a note."""
    names = {} if classes is None else {one.id: one.name for one in classes.classes}
    others = sum(
        (entry.get("name") or names[number]) != names[number]
        for file in files
        for number, entry in file.read.categories.items()
        if number in names and number not in file.void
    )
    return {"classes by another name than in their JSON": others} if others else {}


def _merged_images(files: Iterable[_File]) -> list[Mapping[str, Any]]:
    """The images of all files, each once."""
    merged: dict[int | str, Mapping[str, Any]] = {}
    for file in files:
        for image_id, image in file.read.images.items():
            other = merged.setdefault(image_id, image)
            for key in ("file_name", "width", "height"):
                if image[key] != other[key]:
                    raise DatasetError(
                        f"{file.read.path}: image {image_id} has {key} {image[key]!r}, in the "
                        f"other file {other[key]!r}."
                    )
    return list(merged.values())


def _stuff_files(folder: Path, entries: Sequence[Mapping[str, Any]]) -> list[Path | None]:
    files = files_by_key(folder)
    keys = [
        PurePosixPath(name).with_suffix("").as_posix()
        for name in png_names(entry["file_name"] for entry in entries)
    ]
    return [only_file(files, key, "stuff map", folder) for key in keys]


def _annotations_of(
    image_id: int | str, files: Iterable[_File], is_thing: Mapping[int, bool]
) -> list[tuple[Mapping[str, Any], Path]]:
    found = []
    for file in files:
        for annotation in file.read.annotations.get(image_id, ()):
            category_id = annotation["category_id"]
            if category_id in file.void:
                continue
            if category_id not in is_thing:
                raise DatasetError(
                    f"{file.read.path}: {annotation_name(annotation)} has category {category_id}, "
                    "which is not among the classes."
                )
            found.append((annotation, file.read.path))
    return found


def _combine(
    parts: _Parts,
    *,
    is_thing: Mapping[int, bool],
    by_area: bool,
    rules: LabelRules | None,
    offset: int,
) -> SegmentedPicture:
    """The panoptic segmentation of a picture."""
    if parts.picture_file is None:
        height, width = parts.image["height"], parts.image["width"]
    else:
        width, height = shown_size(parts.picture_file)
    stuff = np.zeros((height, width), dtype=np.int64)
    # Where a label image shows a thing.
    bare = np.zeros((height, width), dtype=bool)
    segments: dict[int, Segment] = {}
    if rules is not None and parts.stuff_file is not None:
        values = read_label_image(parts.stuff_file)
        if values.shape != stuff.shape:
            raise DatasetError(
                f"{parts.stuff_file}: is {values.shape[1]} x {values.shape[0]} pixels, the picture "
                f"{width} x {height}."
            )
        values += offset
        of_map = rules.segmented(values, _without_instance, parts.stuff_file)
        stuff, segments = of_map.label_map, dict(of_map.segments)
        shown = [one.id for one in rules.classes.things if one.id not in rules.void]
        bare = np.isin(values, shown)
    stuff_numbers = {segment.category_id: number for number, segment in segments.items()}
    things = np.zeros_like(stuff)
    # How far below the top each pixel's thing lies, by its area; crowds are below all others.
    depths = np.full((height, width), np.inf)
    for annotation, path in parts.annotations:
        category_id, name = annotation["category_id"], annotation_name(annotation)
        try:
            mask = decoded_mask(annotation["segmentation"], height, width)
        except ValueError as error:
            raise DatasetError(f"{path}: {name}: {error}.") from None
        number = len(segments) + 1
        if not is_thing[category_id]:
            number = stuff_numbers.setdefault(category_id, number)
            segments.setdefault(number, Segment(category_id, origin=name))
            stuff[mask] = number
            continue
        crowd = bool(annotation.get("iscrowd", 0))
        segments[number] = Segment(category_id, crowd, name)
        if by_area:
            depth = np.count_nonzero(mask) + (height * width if crowd else 0)
            mask &= depths >= depth
            depths[mask] = depth
        things[mask] = number
    bare &= things == 0
    return SegmentedPicture(
        np.where(things > 0, things, stuff),
        segments,
        parts.image,
        {"pixels of things without an instance, taken for void": int(bare.sum())}
        if bare.any()
        else {},
    )


def _rules(maps: Stuff, classes: ClassTable) -> LabelRules:
    """What the values of label images mean, once the offset is added."""
    ids = {one.id for one in classes.classes}
    values = USUAL_VOID if maps.void is None else maps.void
    void = {value + maps.offset for value in values}
    if maps.void is None:
        void -= ids
    return LabelRules(classes, frozenset(void), without_instance="void")


def _without_instance(label: int) -> tuple[int, None]:
    return label, None
