"""From a record of pictures with one label to a classifier's input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from PIL import Image
from torchvision.transforms import v2

from rpanoptic.data.unusable import Unusable
from rpanoptic.errors import ConfigError, DatasetError, naming
from rpanoptic.pathfinder.imagenet.data.pictures import read_record
from rpanoptic.recurrent.checks import check_choice, check_count

_NODE = "RPANOPTIC.CLASSIFICATION"
_FLIPS = ("none", "horizontal")
_UNREADABLE = ("raise", "skip")
# Places of red, green and blue.
_FORMATS = {"RGB": [0, 1, 2], "BGR": [2, 1, 0]}
_AUGMENTATIONS: dict[str, type[v2.Transform]] = {
    "rand_augment": v2.RandAugment,
    "trivial_augment": v2.TrivialAugmentWide,
    "auto_augment": v2.AutoAugment,
}


class ClassificationMapper:
    """Reads a picture and cuts a square out of it: at random in training, else its middle.

    Pictures are resized bilinearly, with antialiasing, by Pillow, whose results do not depend on
    the machine. Random numbers are PyTorch's alone.

    Args:
        transforms: from an RGB picture of Pillow's to one of the model's size.
        channels: the order in which the model gets red (0), green (1) and blue (2).
        skip_unreadable: return :class:`rpanoptic.data.unusable.Unusable` for a picture that cannot
            be read, and do not raise.

    Built from a config by ``ClassificationMapper(cfg, is_train=True)``. What counts is
    ``RPANOPTIC.CLASSIFICATION``, ``INPUT.FORMAT`` ("RGB" or "BGR") and ``INPUT.RANDOM_FLIP``
    ("none" or "horizontal").

    Raises:
        ConfigError: one of these keys has an impossible value.
    """

    @configurable
    def __init__(
        self,
        *,
        transforms: Sequence[v2.Transform],
        channels: Sequence[int] = (0, 1, 2),
        skip_unreadable: bool = False,
    ) -> None:
        self._transforms = v2.Compose([*transforms, v2.PILToTensor()])
        self._channels = list(channels)
        self._skip_unreadable = skip_unreadable

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """The arguments that a config stands for; raises as the class does."""
        node = cfg.RPANOPTIC.CLASSIFICATION
        for place, value, known in (
            (f"{_NODE}.UNREADABLE", node.UNREADABLE, _UNREADABLE),
            (f"{_NODE}.AUGMENTATION", node.AUGMENTATION, ("", *_AUGMENTATIONS)),
            ("INPUT.FORMAT", cfg.INPUT.FORMAT, tuple(_FORMATS)),
            ("INPUT.RANDOM_FLIP", cfg.INPUT.RANDOM_FLIP, _FLIPS),
        ):
            with naming("INPUT" if place.startswith("INPUT") else _NODE):
                check_choice(place.rpartition(".")[2], value, known)
        if is_train and cfg.INPUT.CROP.ENABLED:
            raise ConfigError(
                f"INPUT.CROP.ENABLED: pictures with one label are cropped by {_NODE}.SCALE and "
                "RATIO; leave False."
            )
        whole = _whole(node)
        random = _random(cfg, whole)
        return {
            "transforms": random if is_train else whole,
            "channels": _FORMATS[cfg.INPUT.FORMAT],
            "skip_unreadable": node.UNREADABLE == "skip",
        }

    def __call__(self, record: dict[str, Any]) -> dict[str, Any] | Unusable:
        """Map a record of a registered set.

        Returns:
            "image": (3, S, S) uint8; "label": int; "height", "width": of the picture before it was
            resized, px; "file_name", "image_id". Or what stands for an unreadable picture.

        Raises:
            DatasetError: the picture cannot be read, and it shall not be skipped.
        """
        try:
            picture: Image.Image = read_record(record)
        except DatasetError as error:
            if not self._skip_unreadable:
                raise
            return Unusable(str(record["file_name"]), str(error))
        image: torch.Tensor = self._transforms(picture)
        return {
            "image": image[self._channels],
            "height": picture.height,
            "width": picture.width,
            **{key: record[key] for key in ("label", "file_name", "image_id")},
        }


def _whole(node: CfgNode) -> list[v2.Transform]:
    """The transforms of evaluations."""
    with naming(_NODE):
        size = check_count("SIZE", node.SIZE, least=1)
        shorter = check_count("RESIZE", node.RESIZE, least=0) or size
    if shorter < size:
        raise ConfigError(
            f"{_NODE}.RESIZE is {shorter}: squares of SIZE {size} cannot be cut out of pictures "
            "whose shorter side is less; give at least SIZE, or 0 for SIZE."
        )
    return [v2.Resize(shorter, antialias=True), v2.CenterCrop(size)]


def _random(cfg: CfgNode, whole: list[v2.Transform]) -> list[v2.Transform]:
    """The transforms of trainings."""
    node = cfg.RPANOPTIC.CLASSIFICATION
    scale = _range("SCALE", node.SCALE, most=1)
    ratio = _range("RATIO", node.RATIO, most=math.inf)
    crop = [v2.RandomResizedCrop(node.SIZE, scale=scale, ratio=ratio, antialias=True)]
    flip = [v2.RandomHorizontalFlip()] if cfg.INPUT.RANDOM_FLIP == "horizontal" else []
    further = [_AUGMENTATIONS[node.AUGMENTATION]()] if node.AUGMENTATION else []
    return [*(whole if scale == (1, 1) else crop), *flip, *further]


def _range(key: str, values: Sequence[float], *, most: float) -> tuple[float, float]:
    numbers = [one for one in values if isinstance(one, (int, float)) and math.isfinite(one)]
    if len(values) != 2 or len(numbers) != 2 or not 0 < numbers[0] <= numbers[1] <= most:
        limit = "" if most == math.inf else f", at most {most:g}"
        raise ConfigError(
            f"{_NODE}.{key} is {values}, expected two numbers above 0{limit}, the lesser first."
        )
    return numbers[0], numbers[1]
