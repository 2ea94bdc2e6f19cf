"""Writes labelme's JSON files of a panoptic dataset."""

from __future__ import annotations

import base64
import io
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

import cv2
import numpy as np
from PIL import Image

from rpanoptic.data.convert.export import (
    AnnotatedPicture,
    ExportReport,
    export_panoptic,
    new_file,
)
from rpanoptic.data.convert.labelme import VOID_LABELS
from rpanoptic.data.convert.labelme_shapes import CROWD_FLAG, draw_shape, parse_shape
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.errors import DatasetError

# A version that knows masks.
_VERSION = "5.5.0"


def panoptic_to_labelme(
    image_root: Path,
    panoptic_json: Path,
    panoptic_root: Path,
    output: Path,
    *,
    polygons: bool = False,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> ExportReport:
    """Write a JSON of labelme for each picture of a panoptic dataset.

    A segment becomes a mask, which keeps each pixel, or the outlines of its parts as polygons. A
    part comes before those that lie in its holes, so that these are seen; a void hole is lost, and
    the report counts such pixels. Crowds get the flag "iscrowd". Segments of one stuff class in a
    picture are one when they are read again.

    Args:
        image_root: folder of the pictures, to which the JSONs point.
        panoptic_json: annotations in the COCO panoptic format.
        panoptic_root: folder of the PNGs that the JSON names.
        output: folder to write to; also gets "classes.csv".
        polygons: write polygons, which can be edited, and not masks.
        workers: number of processes.
        overwrite: replace files of the same names.
        progress: whether to show a progress bar.

    Raises:
        DatasetError: the dataset has a fault, two classes have one name, or the output cannot be
            written.
    """
    if not image_root.is_dir():
        raise DatasetError(f"{image_root}: no such folder.")
    return export_panoptic(
        panoptic_json,
        panoptic_root,
        output,
        partial(_writer, image_root=image_root, output=output, polygons=polygons),
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )


def _writer(classes: ClassTable, *, image_root: Path, output: Path, polygons: bool) -> _Writer:
    names = {one.id: one.name for one in classes.classes}
    for name, number in Counter(names.values()).items():
        if number > 1 or name in VOID_LABELS:
            fault = "means void" if number == 1 else f"is that of {number} classes"
            raise DatasetError(
                f"the name {name!r} {fault}; labelme tells classes apart by their names."
            )
    things = frozenset(one.id for one in classes.things)
    return _Writer(names, things, image_root.resolve(), output.resolve(), polygons)


@dataclass(frozen=True)
class _Writer:
    """Writes the JSON of a picture."""

    names: Mapping[int, str]
    things: frozenset[int]
    image_root: Path
    output: Path
    polygons: bool

    def __call__(self, picture: AnnotatedPicture, folder: Path) -> Counter[str]:
        place = picture.key.parent / f"{picture.key.name}.json"
        image = self.image_root.joinpath(*PureWindowsPath(picture.image["file_name"]).parts)
        try:
            relative = os.path.relpath(image, (self.output / place).parent)
        except ValueError as error:  # another drive
            raise DatasetError(f"{image}: no path leads there from {self.output}.") from error
        content = {
            "version": _VERSION,
            "flags": {},
            "shapes": self._polygons(picture) if self.polygons else self._masks(picture),
            "imagePath": Path(relative).as_posix(),
            "imageData": None,
            "imageHeight": picture.image["height"],
            "imageWidth": picture.image["width"],
        }
        text = json.dumps(content, ensure_ascii=False, indent=2)
        new_file(folder, place).write_text(text, encoding="utf-8")
        return self._notes(picture, content["shapes"])

    def _masks(self, picture: AnnotatedPicture) -> list[dict[str, Any]]:
        shapes = []
        for segment in picture.segments:
            mask = picture.ids == segment["id"]
            rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
            x, y = int(columns[0]), int(rows[0])
            patch = mask[y : rows[-1] + 1, x : columns[-1] + 1].astype(np.uint8)
            encoded = io.BytesIO()
            Image.fromarray(patch).save(encoded, format="PNG")
            corners = [[x, y], [x + patch.shape[1] - 1, y + patch.shape[0] - 1]]
            text = base64.b64encode(encoded.getvalue()).decode("ascii")
            shapes.append(self._shape(segment, "mask", corners) | {"mask": text})
        return shapes

    def _polygons(self, picture: AnnotatedPicture) -> list[dict[str, Any]]:
        parts = []
        for segment in picture.segments:
            mask = (picture.ids == segment["id"]).astype(np.uint8)
            # RETR_EXTERNAL would leave out a part that lies in a hole of another of its segment.
            found, levels = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
            parents = levels[0, :, 3].tolist()
            outlines = [one for one, parent in zip(found, parents, strict=True) if parent < 0]
            # Things of several parts are held together by the number of the group.
            group = segment["id"] if len(outlines) > 1 else None
            for outline in outlines:
                points = outline.reshape(-1, 2).tolist()
                points += points[-1:] * (3 - len(points))  # a polygon has three points at least
                shape = self._shape(segment, "polygon", points) | {"group_id": group}
                parts.append((cv2.contourArea(outline), shape))
        # What lies in a hole of a part has a smaller outline than that part.
        return [shape for _, shape in sorted(parts, key=lambda part: -part[0])]

    def _shape(
        self, segment: Mapping[str, Any], kind: str, points: list[list[int]]
    ) -> dict[str, Any]:
        return {
            "label": self.names[segment["category_id"]],
            "points": [[float(x), float(y)] for x, y in points],
            "group_id": None,
            "description": "",
            "shape_type": kind,
            "flags": {CROWD_FLAG: True} if segment.get("iscrowd", 0) else {},
            "mask": None,
        }

    def _notes(self, picture: AnnotatedPicture, shapes: list[dict[str, Any]]) -> Counter[str]:
        notes: Counter[str] = Counter()
        stuff: Counter[tuple[int, bool]] = Counter(
            (one["category_id"], bool(one.get("iscrowd", 0)))
            for one in picture.segments
            if one["category_id"] not in self.things
        )
        if merged := sum(stuff.values()) - len(stuff):
            notes["segments of stuff that are one with another of their class"] += merged
        if self.polygons and (changed := _changed_pixels(picture, self.names, shapes)):
            notes["pixels that polygons give to another class or to none"] += changed
        return notes


def _changed_pixels(
    picture: AnnotatedPicture, names: Mapping[int, str], shapes: list[dict[str, Any]]
) -> int:
    """How many pixels have another class, or void, when the shapes are drawn again."""
    numbers = {name: number for number, name in enumerate(names.values(), start=1)}
    expected = np.zeros(picture.ids.shape, dtype=np.int32)
    for segment in picture.segments:
        expected[picture.ids == segment["id"]] = numbers[names[segment["category_id"]]]
    drawn = np.zeros_like(expected)
    height, width = drawn.shape
    for shape in shapes:
        drawn[draw_shape(parse_shape(0, shape), (width, height))] = numbers[shape["label"]]
    return int(np.count_nonzero(drawn != expected))
