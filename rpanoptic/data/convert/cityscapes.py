"""Cityscapes-style instance images, to and from panoptic.

An image "<city>/<city>_<sequence>_<frame>_gtFine_instanceIds.png" of 16 bits holds label * 1000 +
number for each instance, numbered from 0, and the label alone for stuff and for groups of things
that nobody could tell apart (Cordts et al., "The Cityscapes Dataset", CVPR 2016).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from rpanoptic.data.convert.cityscapes_labels import CITYSCAPES_CLASSES, CITYSCAPES_IGNORED
from rpanoptic.data.convert.export import (
    AnnotatedPicture,
    ExportReport,
    export_panoptic,
    new_file,
)
from rpanoptic.data.convert.label_files import check_picture_size, read_label_image
from rpanoptic.data.convert.label_images import LabelSuffixes, paired_files
from rpanoptic.data.convert.label_segments import LabelRules
from rpanoptic.data.convert.write import ConversionReport, SegmentedPicture, write_panoptic
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.panoptic_format import VOID_ID
from rpanoptic.errors import DatasetError

#: Instances of one class in a picture have numbers below this.
DIVISOR = 1000
CITYSCAPES_RULES = LabelRules(CITYSCAPES_CLASSES, CITYSCAPES_IGNORED)
CITYSCAPES_SUFFIXES = LabelSuffixes(picture="_leftImg8bit", classes="_gtFine_instanceIds")

_MOST = 2**16 - 1


class _Frame(NamedTuple):
    """The files of a picture, and its id."""

    image_id: str
    picture: Path
    labels: Path


def cityscapes_to_panoptic(
    image_root: Path,
    label_root: Path,
    panoptic_json: Path,
    panoptic_root: Path,
    *,
    rules: LabelRules = CITYSCAPES_RULES,
    suffixes: LabelSuffixes = CITYSCAPES_SUFFIXES,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> ConversionReport:
    """Convert instance images to a panoptic dataset, as Cityscapes' own conversion does.

    Ids of pictures are "<city>_<sequence>_<frame>". Categories have the ids of the label images.
    Groups of things are crowds, labels that the evaluation ignores are void.

    Args:
        image_root: folder of the pictures, as "leftImg8bit/val", with a folder for each city.
        label_root: folder of the instance images, as "gtFine/val".
        panoptic_json: the JSON to write.
        panoptic_root: folder for the PNGs.
        rules: the classes, what is void, and what becomes of groups.
        suffixes: of the files.
        workers: number of processes.
        overwrite: replace the JSON, and PNGs of the same names.
        progress: whether to show a progress bar.

    Raises:
        DatasetError: a file is missing, damaged, ambiguous or of another size than its picture, a
            label is unknown, or an output cannot be written; the message names file and value.
    """
    pairs, notes = paired_files(image_root, label_root, suffixes)
    jobs = [
        (name, _Frame(PurePosixPath(key).name, image_root / name, labels))
        for key, name, labels in pairs
    ]
    return write_panoptic(
        panoptic_json,
        panoptic_root,
        partial(_segmented, rules=rules),
        jobs,
        rules.classes.categories(),
        inputs=[image_root, label_root],
        notes=notes,
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )


def _segmented(frame: _Frame, *, rules: LabelRules) -> SegmentedPicture:
    values = read_label_image(frame.labels)
    check_picture_size(frame.labels, values, frame.picture)
    return rules.segmented(values, _split, frame.labels)._replace(image={"id": frame.image_id})


def _split(value: int) -> tuple[int, int | None]:
    return (value, None) if value < DIVISOR else divmod(value, DIVISOR)


def panoptic_to_cityscapes(
    panoptic_json: Path,
    panoptic_root: Path,
    output: Path,
    *,
    void: int = 0,
    suffixes: LabelSuffixes = CITYSCAPES_SUFFIXES,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> ExportReport:
    """Write instance images of a panoptic dataset, whose category ids are taken for labels.

    A picture in a folder gives an image in a folder of the same name, else the folder is called as
    the picture's name begins, up to the first "_". The format cannot tell segments of one stuff
    class from each other, nor crowds of one class, nor mark stuff as crowd; the report counts
    these.

    Args:
        panoptic_json: annotations in the COCO panoptic format.
        panoptic_root: folder of the PNGs that the JSON names.
        output: folder to write to; also gets "classes.csv".
        void: label of void; Cityscapes' 0 is "unlabeled".
        suffixes: of the files; that of the pictures, where they have it, is taken away.
        workers: number of processes.
        overwrite: replace files of the same names.
        progress: whether to show a progress bar.

    Raises:
        DatasetError: the dataset has a fault, a class or an instance has no place in the format,
            two pictures would share an image, or the output cannot be written.
    """
    return export_panoptic(
        panoptic_json,
        panoptic_root,
        output,
        partial(_writer, void=void, suffixes=suffixes),
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )


def _writer(classes: ClassTable, *, void: int, suffixes: LabelSuffixes) -> _Writer:
    if not 0 <= void < DIVISOR or void in {one.id for one in classes.classes}:
        raise DatasetError(
            f"void cannot be {void}: it must be from 0 to {DIVISOR - 1}, and no class."
        )
    for one in classes.classes:
        least, most = (1, _MOST // DIVISOR - 1) if one.isthing else (0, DIVISOR - 1)
        if not least <= one.id <= most:
            raise DatasetError(
                f"class {one.id} ({one.name}) has no place in instance images of 16 bits, which "
                f"take {'things' if one.isthing else 'stuff'} from {least} to {most}."
            )
    things = frozenset(one.id for one in classes.things)
    return _Writer(things, void, suffixes)


@dataclass(frozen=True)
class _Writer:
    """Writes the instance image of a picture."""

    things: frozenset[int]
    void: int
    suffixes: LabelSuffixes

    def __call__(self, picture: AnnotatedPicture, folder: Path) -> Counter[str]:
        values = {VOID_ID: self.void}
        instances: Counter[int] = Counter()
        notes: Counter[str] = Counter()
        for segment in picture.segments:
            label, crowd = segment["category_id"], bool(segment.get("iscrowd", 0))
            value = label
            if label in self.things and not crowd:
                value = label * DIVISOR + instances[label]
                instances[label] += 1
            elif label in values.values():
                notes["segments merged with another of their stuff class or crowd"] += 1
            if crowd and label not in self.things:
                notes["crowd flags of stuff lost"] += 1
            values[segment["id"]] = value
        label, most = max(instances.items(), key=lambda item: item[1], default=(0, 0))
        if most > DIVISOR:
            raise DatasetError(
                f"{picture.image['file_name']}: has {most} things of class {label}; instance "
                f"images tell {DIVISOR} of a class apart."
            )
        ids, places = np.unique(picture.ids, return_inverse=True)
        pixels = np.array([values[one] for one in ids.tolist()], dtype=np.uint16)
        Image.fromarray(pixels[places.reshape(picture.ids.shape)]).save(
            new_file(folder, self._place(picture.key))
        )
        return notes

    def _place(self, key: PurePosixPath) -> PurePosixPath:
        # Cityscapes' own conversion lists pictures as "..._gtFine_leftImg8bit.png".
        name = key.name.removesuffix(self.suffixes.picture).removesuffix("_gtFine") or key.name
        city = key.parent if key.parent.parts else PurePosixPath(name.split("_")[0])
        return city / f"{name}{self.suffixes.classes}.png"
