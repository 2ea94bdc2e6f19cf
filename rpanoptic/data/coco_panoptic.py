"""Derives Detectron2's separated panoptic form from COCO panoptic annotations."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.panoptic_format import (
    VOID_ID,
    VOID_LABEL,
    read_panoptic_png,
    stuff_labels,
    thing_annotation,
)
from rpanoptic.data.panoptic_json import load_panoptic_json
from rpanoptic.data.parallel import map_in_processes
from rpanoptic.data.paths import write_atomically
from rpanoptic.errors import DatasetError, listed

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREYSCALE = 0  # a colour type of PNG
# The chunk that ends every PNG: no data, its name, its checksum.
_PNG_END = b"\x00\x00\x00\x00IEND\xae\x42\x60\x82"


@dataclass(frozen=True)
class PreparationReport:
    """What :func:`prepare_coco_panoptic` did.

    Attributes:
        pictures: number of pictures in the panoptic JSON, all of which now have a semantic PNG.
        written: how many of these PNGs this run wrote; the others were finished before.
        stuff_classes: number of stuff classes, "things" not counted.
        instances: number of annotations written to the instance JSON; None if it was there.
    """

    pictures: int
    written: int
    stuff_classes: int
    instances: int | None


def prepare_coco_panoptic(
    panoptic_json: Path,
    panoptic_root: Path,
    sem_seg_root: Path,
    instances_json: Path,
    *,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> PreparationReport:
    """Write the semantic PNGs of a COCO panoptic split, and its instance JSON if it is missing.

    A killed run may be started again: finished PNGs are kept, torn ones are made again.

    Args:
        panoptic_json: annotations in the COCO panoptic format.
        panoptic_root: folder of the panoptic PNGs that the JSON names.
        sem_seg_root: folder that the semantic PNGs go to: 0 for things, 1..n for the stuff
            classes in the order of their category ids, 255 for void.
        instances_json: things-only instance annotations. Written, with RLE masks from the
            panoptic PNGs and the crowd flags kept, when there is no such file; otherwise only
            checked.
        workers: number of processes.
        overwrite: make PNGs and instance JSON again although they are there.
        progress: whether to show a progress bar.

    Raises:
        DatasetError: a file is missing, damaged or contradicts another, or an output would go
            to where an input lies; the message names it.
    """
    content = load_panoptic_json(panoptic_json)
    if not panoptic_root.is_dir():
        raise DatasetError(
            f"{panoptic_root}: no such folder; the panoptic PNGs of {panoptic_json} belong there."
        )
    _refuse_own_input(panoptic_root, sem_seg_root, "the semantic PNGs", "the panoptic PNGs")
    _refuse_own_input(panoptic_json, instances_json, "the instance JSON", "the panoptic JSON")
    try:
        thing_ids = {one.id for one in ClassTable.from_categories(content["categories"]).things}
    except DatasetError as error:
        raise DatasetError(f"{panoptic_json}: {error}") from None
    need_instances = overwrite or not instances_json.exists()
    if not need_instances:
        check_things_only(instances_json, thing_ids)
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    jobs = [
        _Job(annotation, sizes[annotation["image_id"]]) for annotation in content["annotations"]
    ]
    convert = partial(
        _convert,
        panoptic_root=panoptic_root,
        sem_seg_root=sem_seg_root,
        labels=stuff_labels(content["categories"]),
        thing_ids=thing_ids if need_instances else None,
        overwrite=overwrite,
    )
    try:
        sem_seg_root.mkdir(parents=True, exist_ok=True)
        instances_json.parent.mkdir(parents=True, exist_ok=True)
        results = map_in_processes(
            convert, jobs, workers=workers, description=sem_seg_root.name, progress=progress
        )
        things = [annotation for _, annotations in results for annotation in annotations]
        if need_instances:
            write_atomically(
                instances_json, json.dumps(instances_content(content, things)).encode()
            )
    except OSError as error:
        # A full disk is told without a name.
        where = error.filename or sem_seg_root.parent
        raise DatasetError(f"cannot write to {where}: {error.strerror}.") from error
    _verify(sem_seg_root, jobs)
    return PreparationReport(
        pictures=len(jobs),
        written=sum(written for written, _ in results),
        stuff_classes=len(content["categories"]) - len(thing_ids),
        instances=len(things) if need_instances else None,
    )


def _refuse_own_input(source: Path, target: Path, made: str, read: str) -> None:
    """Keep an output from taking the place of an input, which is there."""
    if target.exists() and target.samefile(source):
        raise DatasetError(f"{target}: {made} would overwrite {read}. Name another place for them.")


def check_things_only(path: Path, thing_ids: set[int]) -> None:
    """Check that an instance JSON lists exactly the thing categories.

    Detectron2 numbers the classes of that file from 0, so a stuff category in it would shift
    them all.

    Raises:
        DatasetError: the file is no instance JSON, or lists other categories.
    """
    try:
        found = {item["id"] for item in json.loads(path.read_text())["categories"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: no COCO instance JSON ({error}).") from None
    if found != thing_ids:
        raise DatasetError(
            f"{path}: its categories must be the {len(thing_ids)} thing categories; superfluous: "
            f"{sorted(found - thing_ids, key=str)}, missing: {sorted(thing_ids - found)}. "
            "Move the file away to have it made from the panoptic PNGs."
        )


def check_segments(path: Path, ids: np.ndarray, segments: Sequence[Mapping[str, Any]]) -> None:
    """Check that a panoptic PNG holds the segments that its JSON lists, and no other.

    Args:
        path: the PNG, for the message.
        ids: its segment ids, (H, W).
        segments: the "segments_info" of its annotation.

    Raises:
        DatasetError: a segment is in one of them alone.
    """
    drawn = {int(segment_id) for segment_id in np.unique(ids)} - {VOID_ID}
    listed = {segment["id"] for segment in segments}
    if drawn != listed:
        faults = []
        if drawn - listed:
            faults.append(f"the PNG has segments that the JSON lacks: {_some(drawn - listed)}")
        if listed - drawn:
            faults.append(f"the JSON has segments that the PNG lacks: {_some(listed - drawn)}")
        raise DatasetError(f"{path}: {'; '.join(faults)}.")


def read_segment_ids(
    panoptic_root: Path, annotation: Mapping[str, Any], size: tuple[int, int]
) -> npt.NDArray[np.uint32]:
    """The segment ids of a picture, (H, W), which are those that its annotation lists.

    Args:
        panoptic_root: folder of the panoptic PNGs.
        annotation: of the picture, in the panoptic JSON.
        size: (width, height) of the picture by the JSON.

    Raises:
        DatasetError: the PNG is missing, damaged, of another size, or has other segments.
    """
    path = panoptic_root / annotation["file_name"]
    ids = read_panoptic_png(path)
    if ids.shape[::-1] != size:
        raise DatasetError(
            f"{path}: is {ids.shape[1]} x {ids.shape[0]} pixels, its JSON says "
            f"{size[0]} x {size[1]}."
        )
    check_segments(path, ids, annotation["segments_info"])
    return ids


def thing_annotations(
    ids: np.ndarray, annotation: Mapping[str, Any], thing_ids: Collection[int]
) -> list[dict[str, Any]]:
    """The instance annotations of a picture, without their ids.

    Args:
        ids: its segment ids, (H, W).
        annotation: of the picture, in the panoptic JSON.
        thing_ids: categories that are things.
    """
    return [
        {
            "image_id": annotation["image_id"],
            "category_id": segment["category_id"],
            "iscrowd": int(segment.get("iscrowd", 0)),
            **thing_annotation(ids == segment["id"]),
        }
        for segment in annotation["segments_info"]
        if segment["category_id"] in thing_ids
    ]


def instances_content(
    content: Mapping[str, Any], things: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """A COCO instance JSON.

    Args:
        content: of the panoptic JSON.
        things: annotations of all pictures, as :func:`thing_annotations` gives them. They are
            numbered from 1: pycocotools takes an annotation id of 0 for "no match".
    """
    names = {one.id: one.name for one in ClassTable.from_categories(content["categories"]).things}
    return {
        "info": content.get("info", {}),
        "licenses": content.get("licenses", []),
        "images": content["images"],
        "categories": [
            # Detectron2 needs names.
            {**item, "isthing": 1, "name": names[item["id"]]}
            for item in content["categories"]
            if item["isthing"]
        ],
        "annotations": [{"id": number, **thing} for number, thing in enumerate(things, start=1)],
    }


def _some(ids: set[int]) -> str:
    return listed(sorted(ids), most=5)


@dataclass(frozen=True)
class _Job:
    """One picture: its panoptic annotation, and its (width, height) by the JSON."""

    annotation: Mapping[str, Any]
    size: tuple[int, int]


def _convert(
    job: _Job,
    *,
    panoptic_root: Path,
    sem_seg_root: Path,
    labels: Mapping[int, int],
    thing_ids: set[int] | None,
    overwrite: bool,
) -> tuple[bool, list[dict[str, Any]]]:
    """Make one semantic PNG, and the thing annotations if ``thing_ids`` is given."""
    file_name = job.annotation["file_name"]
    target = sem_seg_root / file_name
    finished = not overwrite and _is_whole_png(target, job.size)
    if finished and thing_ids is None:
        return False, []
    ids = read_segment_ids(panoptic_root, job.annotation, job.size)
    segments = job.annotation["segments_info"]
    if not finished:
        semantic = np.full(ids.shape, VOID_LABEL, dtype=np.uint8)
        for segment in segments:
            semantic[ids == segment["id"]] = labels[segment["category_id"]]
        encoded = io.BytesIO()
        Image.fromarray(semantic).save(encoded, format="PNG")
        target.parent.mkdir(parents=True, exist_ok=True)
        # A hundred thousand pictures; the next call would tell one that is not whole.
        write_atomically(target, encoded.getvalue(), sync=False)
    return not finished, thing_annotations(ids, job.annotation, thing_ids or set())


def _is_whole_png(path: Path, size: tuple[int, int]) -> bool:
    """Whether a semantic PNG of this (width, height) is there to its last byte.

    Told without decoding, from its header (8-bit greyscale, as we write them) and its end.
    """
    header = struct.pack(">IIBB", *size, 8, _GREYSCALE)
    expected = _PNG_SIGNATURE + struct.pack(">I4s", 13, b"IHDR") + header
    try:
        with path.open("rb") as file:
            head = file.read(len(expected))
            file.seek(-len(_PNG_END), io.SEEK_END)
            tail = file.read()
    except OSError:
        return False
    return head == expected and tail == _PNG_END


def _verify(sem_seg_root: Path, jobs: Sequence[_Job]) -> None:
    """Count what is on the disk: one whole PNG for each annotation."""
    torn = [
        job.annotation["file_name"]
        for job in jobs
        if not _is_whole_png(sem_seg_root / job.annotation["file_name"], job.size)
    ]
    if torn:
        raise DatasetError(
            f"{sem_seg_root}: {len(torn)} of {len(jobs)} semantic PNGs are missing or torn, "
            f"{torn[0]} among them. Did something else change the folder meanwhile?"
        )
