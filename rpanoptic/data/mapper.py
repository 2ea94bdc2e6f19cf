"""Detectron2's dataset mapper, with errors that name the damaged file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError

from rpanoptic.data.panoptic_format import read_picture
from rpanoptic.errors import DatasetError


class PanopticDatasetMapper(DatasetMapper):
    """As :class:`detectron2.data.DatasetMapper`; a file that cannot be used is named.

    Built from a config as its parent is: ``PanopticDatasetMapper(cfg, is_train=True)``.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map a record to the model's input, as Detectron2's mapper does.

        Raises:
            DatasetError: the picture or its semantic PNG is missing or damaged, has another size
                than the annotations say, or is so narrow that nothing is left of it when it is
                resized. It has a single text, so that a data loader's worker process hands it on
                with its type.
        """
        try:
            return super().__call__(dataset_dict)
        except SizeMismatchError as error:
            raise DatasetError(str(error)) from None
        # Pillow reports damage by errors of many types, most of which name no file.
        except Exception:
            _diagnose(dataset_dict, self.augmentations.augs)
            raise


def _diagnose(dataset_dict: dict[str, Any], augmentations: Sequence[T.Augmentation]) -> None:
    """Raise a DatasetError if a file of the record is at fault; else return."""
    picture = Path(dataset_dict["file_name"])
    _check_narrowness(picture, read_picture(picture).shape[:2], augmentations)
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


def _check_narrowness(
    path: Path, size: tuple[int, ...], augmentations: Sequence[T.Augmentation]
) -> None:
    """Raise a DatasetError if resizing leaves no pixel of a picture's shorter side."""
    height, width = size
    for resize in augmentations:
        if not isinstance(resize, T.ResizeShortestEdge):
            continue
        side, longest = min(resize.short_edge_length), resize.max_size
        # 0 leaves pictures as they are.
        if side and min(resize.get_output_shape(height, width, side, longest)) < 1:
            raise DatasetError(
                f"{path}: {width} x {height} pixels are too narrow: at the model's size, at most "
                f"{longest} pixels long, no pixel is left of the shorter side."
            )
