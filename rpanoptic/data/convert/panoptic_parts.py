"""The COCO panoptic format -> COCO instances, and -> semantic label images.

Detectron2's separated form, in which all things have the label 0, is made by
:func:`rpanoptic.data.coco_panoptic.prepare_coco_panoptic`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rpanoptic.data.coco_panoptic import instances_content, read_segment_ids, thing_annotations
from rpanoptic.data.convert.export import (
    AnnotatedPicture,
    ExportReport,
    export_panoptic,
    new_file,
)
from rpanoptic.data.convert.label_segments import USUAL_VOID
from rpanoptic.data.convert.outputs import check_outputs, write_json, written_file
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.panoptic_json import load_panoptic_json
from rpanoptic.data.parallel import map_in_processes
from rpanoptic.errors import DatasetError
from rpanoptic.recurrent.checks import check_choice

#: How semantic label images number the classes.
NUMBERINGS = ("contiguous", "categories")
_MOST_8_BITS, _MOST_16_BITS = 2**8 - 1, 2**16 - 1


def panoptic_to_instances(
    panoptic_json: Path,
    panoptic_root: Path,
    instances_json: Path,
    *,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> int:
    """Write the things of a panoptic dataset as COCO instances, numbered from 1, with RLE masks.

    Pictures without annotation are left out, since nobody knows what they show.

    Args:
        panoptic_json: annotations in the COCO panoptic format.
        panoptic_root: folder of the PNGs that the JSON names.
        instances_json: the JSON to write.
        workers: number of processes.
        overwrite: replace the JSON.
        progress: whether to show a progress bar.

    Returns:
        the number of instances, crowds among them.

    Raises:
        DatasetError: a file is missing, damaged or contradicts another, there are no things, or
            the output is there already; the message names it.
    """
    check_outputs(
        files=[instances_json], inputs=[panoptic_json, panoptic_root], overwrite=overwrite
    )
    content = load_panoptic_json(panoptic_json)
    thing_ids = {entry["id"] for entry in content["categories"] if entry["isthing"]}
    if not thing_ids:
        raise DatasetError(f"{panoptic_json}: has no class of things.")
    annotated = {annotation["image_id"] for annotation in content["annotations"]}
    content["images"] = [image for image in content["images"] if image["id"] in annotated]
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    with written_file(instances_json) as unfinished:
        things = map_in_processes(
            partial(_things, panoptic_root=panoptic_root, sizes=sizes, thing_ids=thing_ids),
            content["annotations"],
            workers=workers,
            description=instances_json.name,
            progress=progress,
        )
        made = instances_content(content, [one for of_picture in things for one in of_picture])
        write_json(unfinished, made)
    return len(made["annotations"])


def _things(
    annotation: Mapping[str, Any],
    *,
    panoptic_root: Path,
    sizes: Mapping[int | str, tuple[int, int]],
    thing_ids: set[int],
) -> list[dict[str, Any]]:
    ids = read_segment_ids(panoptic_root, annotation, sizes[annotation["image_id"]])
    return thing_annotations(ids, annotation, thing_ids)


def panoptic_to_semantic(
    panoptic_json: Path,
    panoptic_root: Path,
    output: Path,
    *,
    numbering: str = "contiguous",
    things: bool = True,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[int, ExportReport]:
    """Write a greyscale PNG of labels for each picture, named as the picture; and the classes.

    The PNGs have 8 bits, or 16 if a label is above 255. "classes.csv" lists the classes in the
    order of their category ids, with their labels as ids.

    Args:
        panoptic_json: annotations in the COCO panoptic format.
        panoptic_root: folder of the PNGs that the JSON names.
        output: folder to write to.
        numbering: "contiguous" labels the classes 1, 2, ... in the order of "classes.csv", and void
            0, as ADE20K does. "categories" labels them by their category ids, and void by the first
            of 0, 255 and 65535 that is none.
        things: whether things have their labels, or are void too.
        workers: number of processes.
        overwrite: replace files of the same names.
        progress: whether to show a progress bar.

    Returns:
        the label of void, and what was written.

    Raises:
        DatasetError: the dataset has a fault, a label does not fit into 16 bits, or the output
            cannot be written.
        ValueError: ``numbering`` is another.
    """
    check_choice("numbering", numbering, NUMBERINGS)
    writers: list[_SemanticWriter] = []

    def prepare(classes: ClassTable) -> _SemanticWriter:
        writers.append(_writer(classes, numbering, things))
        return writers[0]

    report = export_panoptic(
        panoptic_json,
        panoptic_root,
        output,
        prepare,
        renumbered=_contiguous if numbering == "contiguous" else None,
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )
    return writers[0].void, report


def _writer(classes: ClassTable, numbering: str, things: bool) -> _SemanticWriter:
    void, labelled = 0, _contiguous(classes)
    if numbering == "categories":
        labelled = classes
        ids = {one.id for one in classes.classes}
        void = next((value for value in USUAL_VOID if value not in ids), -1)
    labels = [one.id for one in labelled.classes]
    if wrong := [label for label in (void, *labels) if not 0 <= label <= _MOST_16_BITS]:
        raise DatasetError(
            f"the label {wrong[0]} does not fit into a PNG of 16 bits. Number the "
            "classes contiguously."
        )
    pairs = zip(classes.classes, labels, strict=True)
    kept = {one.id: label for one, label in pairs if things or not one.isthing}
    return _SemanticWriter(kept, void, max((void, *labels)))


def _contiguous(classes: ClassTable) -> ClassTable:
    """The classes with the ids 1, 2, ... in their order."""
    numbered = enumerate(classes.classes, start=1)
    return ClassTable(tuple(one._replace(id=label) for label, one in numbered))


@dataclass(frozen=True)
class _SemanticWriter:
    """Writes the label image of a picture.

    Attributes:
        labels: category id -> label; others are void.
        void: label of void.
        largest: label that a PNG may hold.
    """

    labels: Mapping[int, int]
    void: int
    largest: int

    def __call__(self, picture: AnnotatedPicture, folder: Path) -> Counter[str]:
        ids, places = np.unique(picture.ids, return_inverse=True)
        label_of = {
            segment["id"]: self.labels.get(segment["category_id"], self.void)
            for segment in picture.segments
        }
        bits = np.uint8 if self.largest <= _MOST_8_BITS else np.uint16
        labels = np.array([label_of.get(one, self.void) for one in ids.tolist()], dtype=bits)
        path = new_file(folder, picture.key.parent / f"{picture.key.name}.png")
        Image.fromarray(labels[places.reshape(picture.ids.shape)]).save(path)
        return Counter()
