"""From a record of a Pathfinder set to a model's input."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from PIL import Image

from rpanoptic.errors import ConfigError
from rpanoptic.pathfinder.sources import source_of

# Brightness of a resized contour above which a pixel is foreground, of 255 (Linsley et al.: 0.2).
_FOREGROUND = 0.2 * 255

_FLIPS = {
    "none": (),
    "horizontal": ("horizontal",),
    "vertical": ("vertical",),
    "both": ("horizontal", "vertical"),
}


class PathfinderMapper:
    """Reads a picture with its answer, resizes it as the paper does, and flips it in training.

    The answer is there in evaluations, too, for the evaluators; models must not look at it then.

    Args:
        augmentations: applied to picture and contour alike.

    Built from a config by ``PathfinderMapper(cfg, is_train=True)``. ``INPUT.MIN_SIZE_TRAIN`` (one
    number) and ``INPUT.MIN_SIZE_TEST`` are the picture's side in px, 0 for that of the set;
    ``INPUT.RANDOM_FLIP`` is "none", "horizontal", "vertical" or "both", each flip with
    probability 1/2.

    Raises:
        ConfigError: a key of ``INPUT`` has an impossible value.
    """

    @configurable
    def __init__(self, *, augmentations: list[T.Augmentation | T.Transform]) -> None:
        self._augmentations = T.AugmentationList(augmentations)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """The arguments that a config stands for; raises as the class does."""
        # Resizing gives arrays that cannot be written, of which flips would warn.
        resize = [_resize(cfg, is_train), T.ColorTransform(np.copy)]
        return {"augmentations": [*resize, *(_flips(cfg) if is_train else ())]}

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map a record of a registered Pathfinder set.

        Returns:
            "image": (1, S, S) float32 in 0 to 255; in the segmentation form "sem_seg": (S, S)
            int64, 1 on the contour; in the classification form "label": 0 or 1; and "height",
            "width" (S), "file_name", "image_id".

        Raises:
            DatasetError: the set is missing or damaged.
            ConfigError: the set is drawn when it is read, and its settings are impossible.
        """
        source = source_of(record["dataset"])
        example = source[record["index"]]
        seen = T.AugInput(example.image)
        transforms = self._augmentations(seen)
        image = _tensor(seen.image)
        size = {"height": image.shape[0], "width": image.shape[1]}
        names = {key: record[key] for key in ("file_name", "image_id")}
        mapped = {"image": image[None].float(), **size, **names}
        if source.settings.form == "classification":
            return {**mapped, "label": example.label}
        contour = transforms.apply_image(example.target * np.uint8(255))
        return {**mapped, "sem_seg": (_tensor(contour) > _FOREGROUND).long()}


def _resize(cfg: CfgNode, is_train: bool) -> T.Augmentation:
    key = "MIN_SIZE_TRAIN" if is_train else "MIN_SIZE_TEST"
    sizes = cfg.INPUT[key] if is_train else (cfg.INPUT[key],)
    if len(set(sizes)) != 1 or sizes[0] < 0:
        raise ConfigError(
            f"INPUT.{key} is {cfg.INPUT[key]}: Pathfinder pictures have one size; give one number, "
            "the side in pixels, or 0 for that of the set."
        )
    if is_train and cfg.INPUT.CROP.ENABLED:
        raise ConfigError("INPUT.CROP.ENABLED: a crop would lose parts of a contour; leave False.")
    longest = cfg.INPUT.MAX_SIZE_TRAIN if is_train else cfg.INPUT.MAX_SIZE_TEST
    return T.ResizeShortestEdge(sizes[0], longest, "choice", interp=Image.Resampling.BICUBIC)


def _flips(cfg: CfgNode) -> list[T.Augmentation]:
    wanted = cfg.INPUT.RANDOM_FLIP
    if wanted not in _FLIPS:
        raise ConfigError(f"INPUT.RANDOM_FLIP is {wanted!r}; known: {', '.join(_FLIPS)}.")
    return [
        T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical")
        for flip in _FLIPS[wanted]
    ]


def _tensor(pixels: np.ndarray) -> torch.Tensor:
    # A copy: flipped arrays have negative strides, and Pillow's are not writable.
    return torch.from_numpy(pixels.copy())
