"""A model and its test-time transforms, applied to single pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import nn

from rpanoptic.engine.inputs import PictureError
from rpanoptic.errors import ConfigError
from rpanoptic.modeling.test_time_augmentation import (
    AugmentedModel,
    with_test_time_augmentation,
)
from rpanoptic.modeling.test_time_views import Views
from rpanoptic.recurrent import RecurrentBlock, steps_at_test


class Predictor:
    """Applies a model to pictures as evaluation does: resized, one at a time, in eval mode.

    Args:
        cfg: the config that built the model; ``INPUT`` and ``TEST.AUG`` are used.
        model: a detection or panoptic model.
        augment: whether to augment pictures where ``TEST.AUG.ENABLED`` says so.

    Raises:
        ConfigError: see :func:`with_test_time_augmentation`.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module, *, augment: bool = True) -> None:
        self.model = model
        self._augmented = with_test_time_augmentation(cfg, model) if augment else model
        self._to_bgr = cfg.INPUT.FORMAT == "BGR"
        self._resize = T.ResizeShortestEdge(
            [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST], cfg.INPUT.MAX_SIZE_TEST
        )

    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        """Predict one picture.

        Args:
            image: ``(H, W, 3)`` uint8, RGB.

        Returns:
            Detectron2's output for one picture: "instances", "sem_seg", "panoptic_seg", as far
            as the model makes them, at the picture's size.

        Raises:
            PictureError: the picture is so narrow that nothing is left of it when it is resized.
        """
        with _evaluating(self.model):
            if isinstance(self._augmented, AugmentedModel):
                given = self._whole(image, self._augmented.views)
            else:
                given = self._input(image)
            return self._augmented.eval()([given])[0]

    def masks_by_step(
        self, image: np.ndarray, steps: Sequence[int], *, threshold: float = 0.5, limit: int = 20
    ) -> dict[int, Instances]:
        """Detect once, then read the recurrent mask head after each number of steps.

        Pictures are not augmented.

        Args:
            image: ``(H, W, 3)`` uint8, RGB.
            steps: numbers of steps, at least 1 each; more than in training is possible.
            threshold: least score of a detection, 0 to 1.
            limit: at most so many detections, the best ones.

        Returns:
            for each number of steps the same detections, at the picture's size, with the masks
            ("pred_masks", boolean) that the head gives then.

        Raises:
            ConfigError: the model has no recurrent mask head.
            PictureError: as in :meth:`__call__`.
        """
        block = mask_recurrence(self.model)
        if block is None:
            raise ConfigError("MODEL.ROI_MASK_HEAD.NAME: the mask head is not recurrent.")
        # Any: a detector's parts are not declared on nn.Module.
        model: Any = self.model
        height, width = image.shape[:2]
        with _evaluating(model):
            images = model.preprocess_image([self._input(image)])
            features = model.backbone(images.tensor)
            proposals, _ = model.proposal_generator(images, features, None)
            (found,), _ = model.roi_heads(images, features, proposals, None)
            found = found[found.scores >= threshold][:limit]
            masks = {}
            for count in steps:
                with steps_at_test(block, count):
                    (seen,) = model.roi_heads.forward_with_given_boxes(features, [_copy(found)])
                masks[count] = detector_postprocess(seen, height, width).to("cpu")
        return masks

    def _input(self, image: np.ndarray) -> dict[str, Any]:
        height, width = image.shape[:2]
        resize = self._resize.get_transform(image)
        # INPUT.MIN_SIZE_TEST 0 changes no size.
        if isinstance(resize, T.ResizeTransform):
            _check_narrowness(image, (resize.new_h, resize.new_w), self._resize.max_size)
        image = resize.apply_image(image[:, :, ::-1] if self._to_bgr else image)
        pixels = torch.as_tensor(image.astype("float32").transpose(2, 0, 1))
        return {"image": pixels, "height": height, "width": width}

    def _whole(self, image: np.ndarray, views: Views) -> dict[str, Any]:
        """The picture in its own size, of which the views are made."""
        height, width = image.shape[:2]
        _check_narrowness(image, views.smallest(height, width), views.max_size)
        image = image[:, :, ::-1] if self._to_bgr else image
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return {"image": pixels, "height": height, "width": width}


def mask_recurrence(model: nn.Module) -> RecurrentBlock | None:
    """The recurrent block of a model's mask head, None if there is none."""
    head = getattr(getattr(model, "roi_heads", None), "mask_head", None)
    block = getattr(head, "recurrence", None)
    return block if isinstance(block, RecurrentBlock) else None


def _check_narrowness(image: np.ndarray, resized: tuple[int, int], longest: int) -> None:
    height, width = image.shape[:2]
    if min(resized) < 1:
        raise PictureError(
            f"{width} x {height} pixels are too narrow: at the model's size, at most "
            f"{longest} pixels long, no pixel is left of the shorter side."
        )


def _copy(found: Instances) -> Instances:
    # Post-processing scales boxes in place, and the mask head writes into the instances.
    return Instances(
        found.image_size,
        pred_boxes=Boxes(found.pred_boxes.tensor.clone()),
        pred_classes=found.pred_classes,
        scores=found.scores,
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
