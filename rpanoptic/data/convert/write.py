"""Writes a panoptic dataset: what all converters to the COCO panoptic format end in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from rpanoptic.data.convert.outputs import (
    check_outputs,
    png_names,
    write_json,
    written_together,
)
from rpanoptic.data.panoptic_classes import ClassTable, Color
from rpanoptic.data.panoptic_format import LARGEST_SEGMENT_ID, VOID_ID, drawn_segments, panoptic_rgb
from rpanoptic.data.panoptic_json import faults
from rpanoptic.data.parallel import map_in_processes
from rpanoptic.errors import DatasetError, listed

Source = TypeVar("Source")

# From one id of a class to the next: 53 in R, 29 in G, 11 in B. Odd, so that every id is reached.
_ID_STEP = 53 | 29 << 8 | 11 << 16
_MOST_EXAMPLES = 5


class Segment(NamedTuple):
    """A segment of a picture.

    Attributes:
        category_id: its class, by the id in the files.
        iscrowd: whether it holds several things that are not told apart.
        origin: how a message names it, as "annotation 17".
    """

    category_id: int
    iscrowd: bool = False
    origin: str = ""


class SegmentedPicture(NamedTuple):
    """What a converter makes of a picture.

    Attributes:
        label_map: (H, W) whole numbers: which segment a pixel belongs to; 0 is void.
        segments: the segments by their number in ``label_map``, in the order in which the JSON
            will list them. One without a pixel is left out and counted.
        image: what the JSON's "images" say of the picture besides its name and size: "id" (a
            whole number or a string; 1, 2, ... by the place of the picture, if there is none) and
            whatever else shall be kept. "width" and "height", where given, are compared.
        notes: what was left out or taken otherwise than it stands there, in words, and how often.
    """

    label_map: np.ndarray
    segments: Mapping[int, Segment]
    image: Mapping[str, Any] = {}
    notes: Mapping[str, int] = {}


@dataclass(frozen=True)
class ConversionReport:
    """What :func:`write_panoptic` wrote.

    Attributes:
        pictures: their number.
        segments: their number.
        hidden: number of segments that had no pixel, since others hide them or their mask is
            empty; they are left out.
        examples: the first few of these, in words.
        void_pixels: share of pixels without a segment, 0 to 1.
        notes: the sums of what was left out or taken otherwise, in words.
    """

    pictures: int
    segments: int
    hidden: int
    examples: tuple[str, ...]
    void_pixels: float
    notes: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        text = (
            f"{self.pictures} pictures, {self.segments} segments, "
            f"{100 * self.void_pixels:.1f} % of the pixels void"
        )
        if self.hidden:
            more = ", ..." if self.hidden > len(self.examples) else ""
            examples = f"{'; '.join(self.examples)}{more}"
            text += f"; {self.hidden} segments without a pixel left out ({examples})"
        for what, number in sorted(self.notes.items()):
            text += f"; {what}: {number}"
        return text


def write_panoptic(
    panoptic_json: Path,
    panoptic_root: Path,
    convert: Callable[[Source], SegmentedPicture],
    pictures: Sequence[tuple[str, Source]],
    categories: Iterable[Mapping[str, Any]],
    *,
    inputs: Iterable[Path] = (),
    notes: Mapping[str, int] = {},
    header: Mapping[str, Any] = {},
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> ConversionReport:
    """Convert pictures to a COCO panoptic JSON and its PNGs, with areas and boxes.

    Either all of it is there in the end, or nothing has changed. Segments get ids of their own:
    colours near that of their class, the same at every run. The PNG of ``a/b.jpg`` is
    ``a/b.png``.

    Args:
        panoptic_json: the JSON to write.
        panoptic_root: folder for the PNGs.
        convert: makes a segmentation of a source; picklable when ``workers`` is above 1.
        pictures: for each picture its "file_name", relative to the folder of the pictures, and
            what ``convert`` takes.
        categories: "id" and "isthing" of the classes, with "name", "color" and more if known.
        inputs: files and folders that ``convert`` reads, which are not written to.
        notes: what was left out before, in words, and how often; goes into the report.
        header: the JSON's "info" and "licenses", if known.
        workers: number of processes.
        overwrite: replace the JSON, and PNGs of the same names.
        progress: whether to show a progress bar.

    Raises:
        DatasetError: an output is there already or is an input, there are no pictures, two share
            a name or an id, a segmentation contradicts its picture or the categories, or
            something cannot be written. ``convert``'s own errors pass.
    """
    check_outputs(
        folders=[panoptic_root], files=[panoptic_json], inputs=inputs, overwrite=overwrite
    )
    if not pictures:
        raise DatasetError(f"{panoptic_json}: no pictures to convert.")
    entries = complete_categories(categories)
    names = png_names(file_name for file_name, _ in pictures)
    jobs = [
        _Job(number, file_name, png, source)
        for number, ((file_name, source), png) in enumerate(
            zip(pictures, names, strict=True), start=1
        )
    ]
    colors = {entry["id"]: tuple(entry["color"]) for entry in entries}
    with written_together(panoptic_root, panoptic_json) as unfinished:
        for subfolder in {(unfinished.folder / name).parent for name in names}:
            subfolder.mkdir(parents=True, exist_ok=True)
        results = map_in_processes(
            partial(_write_picture, convert=convert, colors=colors, folder=unfinished.folder),
            jobs,
            workers=workers,
            description=panoptic_root.name,
            progress=progress,
        )
        _check_image_ids(results)
        content = {
            **{"info": {}, "licenses": [], **header},
            "images": [result.image for result in results],
            "annotations": [result.annotation for result in results],
            "categories": entries,
        }
        # What no reader of the JSON would take.
        for fault in faults(content):
            raise DatasetError(f"{panoptic_json}: {fault.where} {fault.what}.")
        write_json(unfinished.file, content)
    hidden = [text for result in results for text in result.hidden]
    return ConversionReport(
        pictures=len(results),
        segments=sum(len(result.annotation["segments_info"]) for result in results),
        hidden=len(hidden),
        examples=tuple(hidden[:_MOST_EXAMPLES]),
        void_pixels=sum(result.void for result in results)
        / sum(result.image["width"] * result.image["height"] for result in results),
        notes=sum_of_notes([notes, *(result.notes for result in results)]),
    )


def sum_of_notes(notes: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """How often each of what is noted of pictures was so in all of them."""
    total: Counter[str] = Counter()
    for one in notes:
        total.update(one)
    return dict(total)


def complete_categories(categories: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The "categories" of a panoptic JSON in the order of their ids, each with all that it needs.

    Args:
        categories: "id" and "isthing"; "name" and "color" are made up where they lack; what else
            there is is kept.

    Raises:
        DatasetError: an id is no whole number or is there twice, or a class says not whether it
            is a thing.
    """
    entries = [dict(category) for category in categories]
    for entry in entries:
        if type(entry.get("id")) is not int:
            raise DatasetError(f"category {entry}: must have a whole number as 'id'.")
        if entry.get("isthing") not in (0, 1):
            raise DatasetError(f"category {entry['id']}: must have 0 or 1 as 'isthing'.")
    by_id = {entry["id"]: entry for entry in entries}
    if len(by_id) < len(entries):
        ids = [entry["id"] for entry in entries]
        twice = sorted({one for one in ids if ids.count(one) > 1})
        raise DatasetError(f"categories that are there twice: {listed(twice, most=5)}.")
    table = ClassTable.from_categories(entries)
    return [{**by_id[entry["id"]], **entry} for entry in table.categories()]


@dataclass(frozen=True)
class _Job(Generic[Source]):
    """A picture: its place from 1, its name, that of its PNG, and what it is made from."""

    number: int
    file_name: str
    png: str
    source: Source


class _Result(NamedTuple):
    """A picture's entries in the JSON, its segments without a pixel, its pixels without one, and
    its notes."""

    image: dict[str, Any]
    annotation: dict[str, Any]
    hidden: list[str]
    void: int
    notes: Mapping[str, int]


def _write_picture(
    job: _Job[Source],
    *,
    convert: Callable[[Source], SegmentedPicture],
    colors: Mapping[int, Color],
    folder: Path,
) -> _Result:
    picture = convert(job.source)
    label_map = picture.label_map
    if label_map.ndim != 2 or label_map.dtype.kind not in "iu":
        raise TypeError(f"{job.file_name}: label maps are (H, W) integers, got {label_map.dtype}")
    height, width = label_map.shape
    given = picture.image.get("width", width), picture.image.get("height", height)
    if given != (width, height):
        raise DatasetError(
            f"{job.file_name}: its segmentation is {width} x {height} pixels, its entry says "
            f"{given[0]} x {given[1]}."
        )
    drawn = drawn_segments(label_map)
    unknown = sorted(drawn.keys() - picture.segments.keys() - {VOID_ID})
    if unknown:
        raise DatasetError(
            f"{job.file_name}: its segmentation has labels that belong to no segment: "
            f"{listed(unknown, most=5)}."
        )
    shown = {number: one for number, one in picture.segments.items() if number in drawn}
    ids = dict(zip(shown, _segment_ids(job.file_name, list(shown.values()), colors), strict=True))
    image = {"id": job.number, **picture.image}
    image |= {"file_name": job.file_name, "width": width, "height": height}
    annotation = {
        "image_id": image["id"],
        "file_name": job.png,
        "segments_info": [
            {
                "id": ids[number],
                "category_id": segment.category_id,
                "iscrowd": int(segment.iscrowd),
                "area": drawn[number].area,
                "bbox": list(drawn[number].bbox),
            }
            for number, segment in shown.items()
        ],
    }
    labels = np.array(sorted(drawn))
    colored = panoptic_rgb(np.array([ids.get(int(label), VOID_ID) for label in labels]))
    Image.fromarray(colored[np.searchsorted(labels, label_map)]).save(folder / job.png)
    hidden = [
        f"{segment.origin or f'segment {number}'} of {job.file_name}"
        for number, segment in picture.segments.items()
        if number not in drawn
    ]
    void = drawn[VOID_ID].area if VOID_ID in drawn else 0
    return _Result(image, annotation, hidden, void, picture.notes)


def _segment_ids(
    file_name: str, segments: Sequence[Segment], colors: Mapping[int, Color]
) -> list[int]:
    """An id for each segment, that of its class's colour for the first of a class.

    panopticapi's ``IdGenerator`` draws the further ones at random, gives classes of one colour
    the same id, and void's id to black; files that depend on no random state need this one.
    """
    ids: list[int] = []
    latest: dict[int, int] = {}
    taken = {VOID_ID}
    for segment in segments:
        category_id = segment.category_id
        if category_id not in colors:
            raise DatasetError(
                f"{file_name}: a segment has category {category_id}, which is not among the "
                "categories."
            )
        wanted = latest.get(category_id, _id_of(colors[category_id]))
        while wanted in taken:
            wanted = (wanted + _ID_STEP) % (LARGEST_SEGMENT_ID + 1)
        latest[category_id] = wanted
        taken.add(wanted)
        ids.append(wanted)
    return ids


def _id_of(color: Color) -> int:
    red, green, blue = color
    return red | green << 8 | blue << 16


def _check_image_ids(results: Sequence[_Result]) -> None:
    """Check that the ids tell the pictures apart."""
    seen: dict[int | str, str] = {}
    for result in results:
        image_id, file_name = result.image["id"], result.image["file_name"]
        if type(image_id) not in (int, str):
            raise DatasetError(
                f"picture {file_name}: its id must be a whole number or a string, got {image_id!r}."
            )
        other = seen.setdefault(image_id, file_name)
        if other != file_name:
            raise DatasetError(f"pictures {other} and {file_name} have the same id {image_id!r}.")
