"""Turns what labelme's JSON files show into a panoptic dataset."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import numpy as np

from rpanoptic.data.convert.label_files import shown_size, visible_files
from rpanoptic.data.convert.labelme_shapes import LabelmeFile, draw_shape, read_labelme
from rpanoptic.data.convert.write import (
    ConversionReport,
    Segment,
    SegmentedPicture,
    write_panoptic,
)
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.panoptic_format import VOID_ID
from rpanoptic.data.parallel import map_in_processes
from rpanoptic.errors import DatasetError, listed

#: Labels that labelme's own converters take for void.
VOID_LABELS = ("__ignore__", "_background_")


class _Source(NamedTuple):
    """The files of a picture."""

    image_id: str
    picture: Path
    annotations: Path


class _Seen(NamedTuple):
    """What the first reading of a file is for."""

    image_path: str
    labels: frozenset[str]


def labelme_to_panoptic(
    image_root: Path,
    label_root: Path,
    panoptic_json: Path,
    panoptic_root: Path,
    *,
    classes: ClassTable | None = None,
    stuff: Collection[str] = (),
    void: Collection[str] = VOID_LABELS,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> ConversionReport:
    """Convert labelme's JSON files to a panoptic dataset.

    A shape lies on those before it in its file, as labelme draws them. A shape of a thing is a
    segment by itself, or with the shapes of its label that share its "group_id"; all shapes of a
    stuff class are one segment. Pixels without a shape are void. Lines and points have no area
    and are left out. A shape with the flag "iscrowd" is a crowd.

    A picture lies at its "imagePath", seen from the JSON or, where this is outside
    ``image_root`` or no file, from the JSON's place below ``label_root`` carried over to
    ``image_root``. Its path below ``image_root``, without the extension, is its id.

    Args:
        image_root: folder of the pictures.
        label_root: folder of the JSON files, searched with its subfolders.
        panoptic_json: the JSON to write.
        panoptic_root: folder for the PNGs.
        classes: whose names are the labels. Without them, the labels that are there, in their
            order, with the ids 1, 2, ...
        stuff: names of the stuff, without ``classes``.
        void: labels that mean void, if they are no names of ``classes``.
        workers: number of processes.
        overwrite: replace the JSON, and PNGs of the same names.
        progress: whether to show a progress bar.

    Raises:
        DatasetError: a JSON, a mask or a picture is missing, damaged or outside its folder, two
            JSONs are of one picture, a label is unknown, or an output cannot be written; the
            message names file and value.
        ValueError: both ``classes`` and ``stuff`` are given.
    """
    if classes is not None and stuff:
        raise ValueError("a table of classes says itself which of them are stuff")
    paths = _json_files(image_root, label_root)
    seen = map_in_processes(
        _look, paths, workers=workers, description=label_root.name, unit="files", progress=progress
    )
    labels: dict[str, Path] = {}
    for path, one in zip(paths, seen, strict=True):
        for label in one.labels:
            labels.setdefault(label, path)
    if classes is None:
        classes = _classes_found(label_root, labels, stuff, void)
    names = _ids_by_name(classes)
    known = dict.fromkeys(void) | names
    for label, path in sorted(labels.items()):
        if label not in known:
            near = difflib.get_close_matches(label, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise DatasetError(f"{path}: has the label {label!r}, which is no class.{hint}")
    jobs: list[tuple[str, _Source]] = []
    users: dict[str, Path] = {}
    for path, one in zip(paths, seen, strict=True):
        name = _picture_name(path, one.image_path, image_root, label_root)
        other = users.setdefault(name, path)
        if other != path:
            raise DatasetError(f"{path}: is of the picture {name}, as is {other}.")
        image_id = PurePosixPath(name).with_suffix("").as_posix()
        jobs.append((name, _Source(image_id, image_root / name, path)))
    return write_panoptic(
        panoptic_json,
        panoptic_root,
        partial(_segmented, names=known, things=frozenset(one.id for one in classes.things)),
        jobs,
        classes.categories(),
        inputs=[image_root, label_root, *paths],
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )


def _json_files(image_root: Path, label_root: Path) -> list[Path]:
    if not image_root.is_dir():
        raise DatasetError(f"{image_root}: no such folder.")
    paths = [path for path in visible_files(label_root) if path.suffix.lower() == ".json"]
    if not paths:
        raise DatasetError(f"{label_root}: holds no JSON file.")
    return paths


def _look(path: Path) -> _Seen:
    content = read_labelme(path)
    return _Seen(content.image_path, frozenset(shape.label for shape in content.shapes))


def _classes_found(
    label_root: Path, labels: Collection[str], stuff: Collection[str], void: Collection[str]
) -> ClassTable:
    names = sorted(set(labels) - set(void))
    if unknown := sorted(set(stuff) - set(names)):
        raise DatasetError(
            f"{label_root}: no shape has the label {listed(unknown, most=5)} of the stuff; labels "
            f"that are there: {listed(names, most=20)}."
        )
    if not names:
        raise DatasetError(f"{label_root}: no shape has a label that is not void.")
    return ClassTable.from_categories(
        {"id": number, "name": name, "isthing": name not in stuff}
        for number, name in enumerate(names, start=1)
    )


def _ids_by_name(classes: ClassTable) -> dict[str, int | None]:
    names = Counter(one.name for one in classes.classes)
    if twice := [name for name, number in names.items() if number > 1]:
        raise DatasetError(f"several classes have the name {listed(twice, most=5)}.")
    return {one.name: one.id for one in classes.classes}


def _picture_name(path: Path, image_path: str, image_root: Path, label_root: Path) -> str:
    """The path of a JSON's picture below ``image_root``, with "/" between folders."""
    given = PureWindowsPath(image_path)  # takes both kinds of slash for separators
    fault = "is no relative path"
    if not given.anchor:
        root = image_root.resolve()
        fault = f"leads out of the folder of the pictures, {image_root}"
        mirrored = root / path.parent.relative_to(label_root)
        for folder in (path.parent.resolve(), mirrored):
            place = Path(os.path.normpath(folder.joinpath(*given.parts)))
            if place.is_relative_to(root):
                if place.is_file():
                    return place.relative_to(root).as_posix()
                fault = f"is not there, below the folder of the pictures, {image_root}"
    raise DatasetError(f"{path}: its picture {image_path!r} {fault}.")


def _segmented(
    source: _Source, *, names: Mapping[str, int | None], things: frozenset[int]
) -> SegmentedPicture:
    content = read_labelme(source.annotations)
    size = _checked_size(source, content)
    label_map = np.full(size[::-1], VOID_ID, dtype=np.int32)
    numbers: dict[Sequence[object], int] = {}
    segments: dict[int, Segment] = {}
    for shape in content.shapes:
        category_id = names[shape.label]
        try:
            mask = draw_shape(shape, size)
        except ValueError as error:
            raise DatasetError(f"{source.annotations}: shapes[{shape.place}] {error}.") from None
        number = VOID_ID
        if category_id is not None:
            key: tuple[object, ...] = (category_id, shape.iscrowd)
            if category_id in things:
                key += ("shape", shape.place) if shape.group is None else ("group", shape.group)
            number = numbers.setdefault(key, 1 + len(numbers))
            origin = f"shapes[{shape.place}] ({shape.label})"
            segments.setdefault(number, Segment(category_id, shape.iscrowd, origin))
        label_map[mask] = number
    return SegmentedPicture(label_map, segments, {"id": source.image_id}, content.notes)


def _checked_size(source: _Source, content: LabelmeFile) -> tuple[int, int]:
    """Width and height of the picture, which the JSON must not contradict."""
    size = shown_size(source.picture)
    for side, given in zip(size, content.size, strict=True):
        if given not in (None, side):
            raise DatasetError(
                f"{source.annotations}: is of a picture of {content.size[0]} x {content.size[1]} "
                f"pixels, {source.picture} has {size[0]} x {size[1]}."
            )
    return size
