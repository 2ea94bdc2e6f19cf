"""Detectron2's dataset mapper, with errors that name the damaged file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import SizeMismatchError

from rpanoptic.data.panoptic_format import read_picture
from rpanoptic.errors import DatasetError


class PanopticDatasetMapper(DatasetMapper):
    """As :class:`detectron2.data.DatasetMapper`; a file that cannot be read is named.

    Built from a config as its parent is: ``PanopticDatasetMapper(cfg, is_train=True)``.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map a record to the model's input, as Detectron2's mapper does.

        Raises:
            DatasetError: the picture or its semantic PNG is missing or damaged, or has another
                size than the annotations say. It has a single text, so that a data loader's
                worker process hands it on with its type.
        """
        try:
            return super().__call__(dataset_dict)
        except SizeMismatchError as error:
            raise DatasetError(str(error)) from None
        # Pillow reports damage by errors of many types, most of which name no file.
        except Exception:
            _diagnose(dataset_dict)
            raise


def _diagnose(dataset_dict: dict[str, Any]) -> None:
    """Raise a DatasetError if a file of the record is at fault; else return."""
    read_picture(Path(dataset_dict["file_name"]))
    if "sem_seg_file_name" not in dataset_dict:
        return
    path = Path(dataset_dict["sem_seg_file_name"])
    height, width = read_picture(path).shape[:2]
    expected = dataset_dict.get("height", height), dataset_dict.get("width", width)
    if (height, width) != expected:
        raise DatasetError(
            f"{path}: is {width} x {height} pixels, but its picture is {expected[1]} x "
            f"{expected[0]}."
        )
