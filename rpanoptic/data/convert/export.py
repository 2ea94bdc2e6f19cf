"""Goes through a panoptic dataset and writes files of another format for each picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rpanoptic.data.coco_panoptic import read_segment_ids
from rpanoptic.data.convert.classes_file import write_classes
from rpanoptic.data.convert.outputs import check_outputs, png_names, written_together
from rpanoptic.data.convert.write import sum_of_notes
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.panoptic_json import load_panoptic_json
from rpanoptic.data.parallel import map_in_processes
from rpanoptic.errors import DatasetError

#: The file that lists the classes beside what is exported.
CLASSES_NAME = "classes.csv"


class AnnotatedPicture(NamedTuple):
    """A picture of a panoptic dataset.

    Attributes:
        image: its entry in the JSON's "images".
        key: its file name without the extension, with "/" between folders.
        ids: (H, W) segment ids; 0 where void.
        segments: its "segments_info", which are the segments in ``ids``.
    """

    image: Mapping[str, Any]
    key: PurePosixPath
    ids: npt.NDArray[np.uint32]
    segments: Sequence[Mapping[str, Any]]


#: Writes the files of a picture below a folder, and counts what the format cannot say.
PictureWriter = Callable[[AnnotatedPicture, Path], Counter[str]]


@dataclass(frozen=True)
class ExportReport:
    """What :func:`export_panoptic` wrote.

    Attributes:
        pictures: their number.
        unannotated: number of pictures left out, which have no annotation.
        notes: what the format cannot say, in words, and how often that was so.
    """

    pictures: int
    unannotated: int
    notes: Mapping[str, int]

    def __str__(self) -> str:
        parts = [f"{self.pictures} pictures"]
        if self.unannotated:
            parts.append(f"{self.unannotated} pictures without an annotation left out")
        parts += [f"{what}: {number}" for what, number in sorted(self.notes.items())]
        return "; ".join(parts)


def export_panoptic(
    panoptic_json: Path,
    panoptic_root: Path,
    output: Path,
    prepare: Callable[[ClassTable], PictureWriter],
    *,
    renumbered: Callable[[ClassTable], ClassTable] | None = None,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> ExportReport:
    """Write files of another format for each picture, and ``classes.csv``, to a folder.

    Either all of them are there in the end, or nothing has changed.

    Args:
        panoptic_json: annotations in the COCO panoptic format.
        panoptic_root: folder of the PNGs that the JSON names.
        output: folder to write to.
        prepare: takes the classes, refuses those that the format cannot tell, and returns what
            writes the files of a picture, which must be picklable when ``workers`` is above 1.
        renumbered: gives the classes the ids that they have in the files, which "classes.csv"
            lists; by default their category ids.
        workers: number of processes.
        overwrite: replace files of the same names.
        progress: whether to show a progress bar.

    Raises:
        DatasetError: the dataset has a fault, the output cannot be written or would replace an
            input; ``prepare`` refuses the classes, to whose message the JSON is added. What its
            function raises passes.
    """
    check_outputs(
        folders=[output],
        inputs=[panoptic_json, panoptic_root],
        overwrite=overwrite,
    )
    content = load_panoptic_json(panoptic_json)
    images = {image["id"]: image for image in content["images"]}
    annotated = [images[one["image_id"]] for one in content["annotations"]]
    try:
        classes = ClassTable.from_categories(content["categories"])
        writer = prepare(classes)
        pngs = png_names(image["file_name"] for image in annotated)
    except DatasetError as error:
        raise DatasetError(f"{panoptic_json}: {error}") from None
    keys = [PurePosixPath(name).with_suffix("") for name in pngs]
    if not annotated:
        raise DatasetError(f"{panoptic_json}: has no annotations to convert.")
    jobs = list(zip(annotated, keys, content["annotations"], strict=True))
    export = partial(_export, panoptic_root=panoptic_root, write=writer)
    with written_together(output, output / CLASSES_NAME) as unfinished:
        notes = map_in_processes(
            partial(export, folder=unfinished.folder),
            jobs,
            workers=workers,
            description=output.name,
            progress=progress,
        )
        write_classes(unfinished.file, renumbered(classes) if renumbered else classes)
    return ExportReport(len(jobs), len(images) - len(jobs), sum_of_notes(notes))


def new_file(folder: Path, name: PurePosixPath) -> Path:
    """Make a file below a folder, with its subfolder, and return its place.

    Raises:
        DatasetError: another picture has made it.
    """
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        raise DatasetError(f"two pictures would be written to the file {name}.") from None
    return path


def _export(
    job: tuple[Mapping[str, Any], PurePosixPath, Mapping[str, Any]],
    *,
    panoptic_root: Path,
    folder: Path,
    write: PictureWriter,
) -> Counter[str]:
    image, key, annotation = job
    ids = read_segment_ids(panoptic_root, annotation, (image["width"], image["height"]))
    return write(AnnotatedPicture(image, key, ids, annotation["segments_info"]), folder)
