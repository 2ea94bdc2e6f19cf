"""The panoptic ground truth of an evaluation, as a COCO panoptic JSON and its PNGs hold it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.panoptic_format import read_panoptic_png
from rpanoptic.data.panoptic_json import load_panoptic_json, read_lists
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.errors import DatasetError

ImageId = int | str
#: "image_id", "file_name" of the PNG, and "segments_info" with "id", "category_id", "iscrowd" (0 or
#: 1) and "area", the JSON's own, or None.
Annotation = dict[str, Any]


class PanopticTruth:
    """Classes, pictures and annotations of a panoptic dataset; PNGs are read when asked for.

    A JSON without annotations is that of a test set whose ground truth nobody has.

    Args:
        source: where the files are.

    Attributes:
        source: as given.
        classes: of the JSON.
        images: the JSON's entries of pictures by their ids, in its order.
        annotations: by the ids of their pictures, in the JSON's order. ``iscrowd`` that is absent
            is 0.

    Raises:
        DatasetError: see :func:`rpanoptic.data.panoptic_json.load_panoptic_json`.
    """

    def __init__(self, source: PanopticSource) -> None:
        self.source = source
        content = _content(source.panoptic_json)
        self.classes = ClassTable.from_categories(content["categories"])
        self.images: dict[ImageId, Mapping[str, Any]] = {
            image["id"]: image for image in content["images"]
        }
        self.annotations: dict[ImageId, Annotation] = {
            one["image_id"]: _normalised(one) for one in content["annotations"]
        }

    def annotation(self, image_id: ImageId) -> Annotation | None:
        """The annotation of a picture; None if it has none.

        Raises:
            DatasetError: the JSON has the same id in another form, as "007" for 7.
        """
        found = self.annotations.get(image_id)
        if found is not None or image_id in self.images:
            return found
        same = [other for other in self.annotations if _number(other) == _number(image_id)]
        if same:
            raise DatasetError(
                f"{self.source.panoptic_json}: the picture that the dataset's records give the "
                f"image_id {image_id!r} has {same[0]!r} there; the records must keep it as it is."
            )
        return None

    def read(self, annotation: Annotation) -> npt.NDArray[np.uint32]:
        """The segment ids of an annotation's PNG, (H, W), 0 where void.

        Raises:
            DatasetError: see :func:`rpanoptic.data.panoptic_format.read_panoptic_png`.
        """
        return read_panoptic_png(self.source.panoptic_root / annotation["file_name"])


def _content(path: Path) -> dict[str, Any]:
    try:
        return load_panoptic_json(path)
    except DatasetError:
        # The files of COCO's test pictures have no list of annotations at all.
        with contextlib.suppress(DatasetError):
            content = read_lists(path, "COCO JSON of pictures", ("categories", "images"))
            if "annotations" not in content:
                return {**content, "annotations": []}
        raise


def _normalised(annotation: Mapping[str, Any]) -> Annotation:
    segments = [
        {
            "id": segment["id"],
            "category_id": segment["category_id"],
            "iscrowd": int(segment.get("iscrowd", 0)),
            "area": segment.get("area"),
        }
        for segment in annotation["segments_info"]
    ]
    kept = {key: annotation[key] for key in ("image_id", "file_name")}
    return {**kept, "segments_info": segments}


def _number(image_id: ImageId) -> str:
    return str(image_id).lstrip("0")
