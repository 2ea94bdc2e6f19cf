"""Pairs of label images (class map and instance map) or single ones, to and from panoptic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from rpanoptic.data.convert.export import (
    AnnotatedPicture,
    ExportReport,
    export_panoptic,
    new_file,
)
from rpanoptic.data.convert.label_files import (
    PICTURE_EXTENSIONS,
    check_picture_size,
    files_by_key,
    only_file,
    read_label_image,
)
from rpanoptic.data.convert.label_segments import USUAL_VOID, LabelRules
from rpanoptic.data.convert.write import ConversionReport, SegmentedPicture, write_panoptic
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.panoptic_format import panoptic_rgb
from rpanoptic.errors import DatasetError

# More than any label image can hold; joins a class and an instance to one number.
_JOINT = 2**32
_MOST_16_BITS = 2**16 - 1
_MOST_RGB = 2**24 - 1
_MOST_32_BITS = 2**31 - 1

#: Folders that :func:`panoptic_to_label_images` writes.
CLASSES, INSTANCES, COMBINED = "classes", "instances", "combined"


@dataclass(frozen=True)
class LabelSuffixes:
    """Ends of file names, before the extension: "_labels" of "000001_labels.png"."""

    picture: str = ""
    classes: str = ""
    instances: str = ""


class _Labels(NamedTuple):
    """The files of a picture."""

    key: str
    picture: Path
    classes: Path
    instances: Path | None


def label_images_to_panoptic(
    image_root: Path,
    label_root: Path,
    panoptic_json: Path,
    panoptic_root: Path,
    rules: LabelRules,
    *,
    instance_root: Path | None = None,
    divisor: int | None = None,
    suffixes: LabelSuffixes = LabelSuffixes(),
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> ConversionReport:
    """Convert label images to a panoptic dataset.

    Files that belong together have the same path below their folders, but for suffix and
    extension; that path is the picture's id. In an instance map, 0 is no instance, and the same
    number may stand for things of several classes. Pictures without label image are left out
    and counted.

    Args:
        image_root: folder of the pictures.
        label_root: folder of the class maps, or of the images that hold both.
        panoptic_json: the JSON to write.
        panoptic_root: folder for the PNGs.
        rules: the classes, and what is void.
        instance_root: folder of the instance maps. With neither this nor ``divisor``, no thing has
            an instance.
        divisor: label images hold class * divisor + instance.
        suffixes: of the files.
        workers: number of processes.
        overwrite: replace the JSON, and PNGs of the same names.
        progress: whether to show a progress bar.

    Raises:
        DatasetError: a file is missing, damaged, ambiguous or of another size than its picture, a
            class is unknown, or an output cannot be written; the message names file and value.
        ValueError: both ``instance_root`` and ``divisor`` are given, or ``divisor`` is below 2.
    """
    if divisor is not None and (instance_root is not None or divisor < 2):
        raise ValueError(f"a divisor is at least 2 and without instance maps, got {divisor}")
    instances = None
    if instance_root is not None:
        instances = files_by_key(instance_root, suffix=suffixes.instances)
    jobs = []
    pairs, notes = paired_files(image_root, label_root, suffixes)
    for key, name, labels in pairs:
        instance = None
        if instances is not None and instance_root is not None:
            instance = only_file(instances, key, "instance map", instance_root)
        jobs.append((name, _Labels(key, image_root / name, labels, instance)))
    return write_panoptic(
        panoptic_json,
        panoptic_root,
        partial(_segmented, rules=rules, divisor=divisor),
        jobs,
        rules.classes.categories(),
        inputs=[path for path in (image_root, label_root, instance_root) if path],
        notes=notes,
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )


def paired_files(
    image_root: Path, label_root: Path, suffixes: LabelSuffixes
) -> tuple[list[tuple[str, str, Path]], dict[str, int]]:
    """Find the pictures of label images.

    Returns:
        for each label image its key, its picture's name below ``image_root``, and its path; and
        how many pictures have no label image, as a note.

    Raises:
        DatasetError: there are none, or one has no picture or several.
    """
    labels = files_by_key(label_root, suffix=suffixes.classes)
    if not labels:
        raise DatasetError(f"{label_root}: holds no PNG or TIFF named '*{suffixes.classes}.*'.")
    pictures = files_by_key(image_root, suffix=suffixes.picture, extensions=PICTURE_EXTENSIONS)
    pairs = []
    for key in labels:
        picture = only_file(pictures, key, "picture", image_root)
        label = only_file(labels, key, "label image", label_root)
        pairs.append((key, picture.relative_to(image_root).as_posix(), label))
    bare = len(pictures.keys() - labels.keys())
    return pairs, {"pictures without a label image left out": bare} if bare else {}


def _segmented(labels: _Labels, *, rules: LabelRules, divisor: int | None) -> SegmentedPicture:
    values = read_label_image(labels.classes, rgb=divisor is not None)
    check_picture_size(labels.classes, values, labels.picture)
    if divisor is None:
        values = values * _JOINT
    if labels.instances is not None:
        numbers = read_label_image(labels.instances, rgb=True)
        check_picture_size(labels.instances, numbers, labels.picture)
        values += numbers
    split = partial(_split, divisor=divisor or _JOINT)
    return rules.segmented(values, split, labels.classes)._replace(image={"id": labels.key})


def _split(value: int, *, divisor: int) -> tuple[int, int | None]:
    label, instance = divmod(value, divisor)
    return label, instance or None


def panoptic_to_label_images(
    panoptic_json: Path,
    panoptic_root: Path,
    output: Path,
    *,
    void: int | None = None,
    divisor: int | None = None,
    extension: str = ".png",
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[int, ExportReport]:
    """Write label images of a panoptic dataset.

    ``output`` gets "classes.csv" and the folders "classes" (8 bits, or 16 if the classes need
    them) and "instances" (16 bits: things from 1, crowds and stuff 0), or with ``divisor`` the
    folder "combined" (16 bits; what does not fit, as R + 256 G + 256**2 B in PNGs and in 32 bits
    in TIFFs). They cannot tell segments of one stuff class from each other, nor crowds of one
    class, nor mark stuff as crowd; the report counts these.

    Args:
        panoptic_json: annotations in the COCO panoptic format.
        panoptic_root: folder of the PNGs that the JSON names.
        output: folder to write to.
        void: the class of void; by default the first of 0, 255 and 65535 that no class has.
        divisor: write one image with class * divisor + instance.
        extension: ".png" or ".tif".
        workers: number of processes.
        overwrite: replace files of the same names.
        progress: whether to show a progress bar.

    Returns:
        the class of void, and what was written.

    Raises:
        DatasetError: the dataset has a fault, a class or an instance has no place in the format,
            or the output cannot be written.
        ValueError: ``divisor`` is below 2, or ``extension`` is another.
    """
    if divisor is not None and divisor < 2:
        raise ValueError(f"a divisor is at least 2, got {divisor}")
    if extension not in (".png", ".tif"):
        raise ValueError(f"label images end in .png or .tif, got {extension!r}")
    writers: list[_Writer] = []

    def prepare(classes: ClassTable) -> _Writer:
        writers.append(_writer(classes, void, divisor, extension))
        return writers[0]

    report = export_panoptic(
        panoptic_json,
        panoptic_root,
        output,
        prepare,
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )
    return writers[0].void, report


def _writer(classes: ClassTable, void: int | None, divisor: int | None, extension: str) -> _Writer:
    ids = {one.id for one in classes.classes}
    if void is None:
        void = next((one for one in USUAL_VOID if one not in ids), max(ids) + 1)
    if void in ids:
        raise DatasetError(f"void cannot be {void}, which is a class.")
    if min(ids | {void}) < 0:
        raise DatasetError(f"label images cannot hold the class {min(ids | {void})}.")
    largest = max(ids | {void})
    most = _MOST_16_BITS
    if divisor is not None:
        largest = largest * divisor + divisor - 1
        most = _MOST_RGB if extension == ".png" else _MOST_32_BITS
    if largest > most:
        raise DatasetError(
            f"the class {max(ids | {void})} has no place in label images, which would hold "
            f"numbers up to {largest}; these hold {most}."
        )
    isthing = {one.id: one.isthing for one in classes.classes}
    return _Writer(isthing, void, divisor, extension, largest)


@dataclass(frozen=True)
class _Writer:
    """Writes the label images of a picture.

    Attributes:
        isthing: class id -> whether it is a thing.
        void: class id of void.
        divisor: of combined images, or None for pairs.
        extension: of the files.
        largest: number that an image of classes, or a combined one, may hold.
    """

    isthing: Mapping[int, bool]
    void: int
    divisor: int | None
    extension: str
    largest: int

    def __call__(self, picture: AnnotatedPicture, folder: Path) -> Counter[str]:
        ids, places = np.unique(picture.ids, return_inverse=True)
        places = places.reshape(picture.ids.shape)
        labels, numbers, notes = self._numbers(picture)
        classes = np.array([labels.get(one, self.void) for one in ids.tolist()], dtype=np.int64)
        instances = np.array([numbers.get(one, 0) for one in ids.tolist()], dtype=np.int64)
        most = _MOST_16_BITS if self.divisor is None else self.divisor - 1
        if instances.max(initial=0) > most:
            raise DatasetError(
                f"{picture.image['file_name']}: has {instances.max()} things; label images tell "
                f"{most} apart."
            )
        if self.divisor is None:
            self._save(classes[places], self.largest, folder / CLASSES, picture.key)
            self._save(instances[places], _MOST_16_BITS, folder / INSTANCES, picture.key)
        else:
            values = (classes * self.divisor + instances)[places]
            self._save(values, self.largest, folder / COMBINED, picture.key)
        return notes

    def _numbers(
        self, picture: AnnotatedPicture
    ) -> tuple[dict[int, int], dict[int, int], Counter[str]]:
        """Segment id -> class, and -> instance where it is one; and what is lost."""
        labels: dict[int, int] = {}
        numbers: dict[int, int] = {}
        notes: Counter[str] = Counter()
        for segment in picture.segments:
            label, crowd = segment["category_id"], bool(segment.get("iscrowd", 0))
            if self.isthing[label] and not crowd:
                numbers[segment["id"]] = 1 + len(numbers)
            elif any(labels[one] == label and one not in numbers for one in labels):
                notes["segments merged with another of their stuff class or crowd"] += 1
            if crowd and not self.isthing[label]:
                notes["crowd flags of stuff lost"] += 1
            labels[segment["id"]] = label
        return labels, numbers, notes

    def _save(self, values: np.ndarray, largest: int, folder: Path, key: PurePosixPath) -> None:
        path = new_file(folder, key.parent / (key.name + self.extension))
        if largest <= 255:
            pixels = values.astype(np.uint8)
        elif largest <= _MOST_16_BITS:
            pixels = values.astype(np.uint16)
        elif self.extension == ".png":
            pixels = panoptic_rgb(values)
        else:
            pixels = values.astype(np.int32)
        options = {"compression": "tiff_lzw"} if self.extension == ".tif" else {}
        Image.fromarray(pixels).save(path, **options)
