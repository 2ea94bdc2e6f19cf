"""Parts the annotations of one panoptic dataset into those to train on and held-out ones."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rpanoptic.data.coco_splits import DEFAULT_SEED, reduced_ids
from rpanoptic.data.convert.outputs import check_outputs, write_json, written_file
from rpanoptic.data.panoptic_classes import class_name
from rpanoptic.data.panoptic_json import load_panoptic_json
from rpanoptic.errors import DatasetError


class HoldOutReport(NamedTuple):
    """What :func:`hold_out` did.

    Attributes:
        train: number of pictures to train on.
        held_out: number of held-out pictures.
        without_annotation: number of pictures that are in neither part.
        missing_classes: names of classes of which the pictures to train on have no segment, but
            the held-out ones have.
    """

    train: int
    held_out: int
    without_annotation: int
    missing_classes: tuple[str, ...]

    def __str__(self) -> str:
        """One line for the user."""
        text = f"{self.train} pictures to train on, {self.held_out} held out"
        if self.without_annotation:
            text += f"; {self.without_annotation} without annotation left out"
        if self.missing_classes:
            text += f"; only the held-out ones have {', '.join(self.missing_classes)}"
        return text


def hold_out(
    panoptic_json: Path,
    train_json: Path,
    held_out_json: Path,
    *,
    percent: int = 10,
    seed: int = DEFAULT_SEED,
    overwrite: bool = False,
) -> HoldOutReport:
    """Write two panoptic JSONs with all classes, and each annotated picture in one of them.

    Pictures and PNGs stay where they are: both parts share their folders. Which pictures are held
    out depends on their ids and the seed alone, neither on their order nor on a random generator.

    Args:
        panoptic_json: annotations in the COCO panoptic format.
        train_json: file for those to train on.
        held_out_json: file for the others.
        percent: of the pictures that are held out, 1 to 99.
        seed: another one makes another choice.
        overwrite: replace files that are there.

    Raises:
        DatasetError: the JSON is missing or damaged, one of the parts would be empty, both would be
            one file, a file is there already, or cannot be written.
    """
    if train_json.resolve() == held_out_json.resolve():
        raise DatasetError(f"{train_json}: the two parts need a file each.")
    outputs = (train_json, held_out_json)
    check_outputs(files=outputs, inputs=[panoptic_json], overwrite=overwrite)
    content = load_panoptic_json(panoptic_json)
    ids = {annotation["image_id"] for annotation in content["annotations"]}
    held_out = reduced_ids(ids, percent, seed)
    train = ids - held_out
    if not train:
        raise DatasetError(f"{panoptic_json}: {percent} % of {len(ids)} pictures are all of them.")
    parts = [
        [one for one in content["annotations"] if one["image_id"] in chosen]
        for chosen in (train, held_out)
    ]
    # Both are whole before either appears.
    with written_file(train_json) as first, written_file(held_out_json) as second:
        for path, chosen, annotations in zip(
            (first, second), (train, held_out), parts, strict=True
        ):
            images = [image for image in content["images"] if image["id"] in chosen]
            write_json(path, {**content, "images": images, "annotations": annotations})
    used, of_held_out = (
        {segment["category_id"] for one in part for segment in one["segments_info"]}
        for part in parts
    )
    missing = of_held_out - used
    names = tuple(class_name(one) for one in content["categories"] if one["id"] in missing)
    return HoldOutReport(len(train), len(held_out), len(content["images"]) - len(ids), names)
