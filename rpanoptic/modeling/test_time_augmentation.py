"""Test-time augmentation: what a model says of several views of a picture, as one answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode
from detectron2.layers import batched_nms
from detectron2.modeling.meta_arch import (
    GeneralizedRCNN,
    PanopticFPN,
    RetinaNet,
    SemanticSegmentor,
)
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rpanoptic.errors import ConfigError, naming
from rpanoptic.modeling.meta_arch.recurrent_model import Steps
from rpanoptic.modeling.outputs import architecture_of
from rpanoptic.modeling.test_time_views import View, Views
from rpanoptic.recurrent import steps_at_test
from rpanoptic.recurrent.checks import check_count


def with_test_time_augmentation(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The model as ``TEST.AUG`` wants it evaluated: on several views of each picture.

    Args:
        cfg: config of the model. ``TEST.AUG.MIN_SIZES``, ``MAX_SIZE`` and ``FLIP`` say which views
            there are; ``INPUT`` is not read, so hand over pictures in their own size.
        model: a Generalized R-CNN, Panoptic FPN, RetinaNet or semantic segmentor, ours or
            Detectron2's.

    Returns:
        an :class:`AugmentedModel` that shares the model; the model itself where
        ``TEST.AUG.ENABLED`` is False.

    Raises:
        ConfigError: see :func:`check_test_time_augmentation`; or the model is of another kind.
    """
    if not cfg.TEST.AUG.ENABLED:
        return model
    if isinstance(model, DistributedDataParallel):
        model = model.module
    check_test_time_augmentation(cfg)
    return _augmented_kind(type(model))(cfg, model)


def check_test_time_augmentation(cfg: CfgNode) -> None:
    """Check ``TEST.AUG``, whether it is enabled or not, before a model is built.

    Raises:
        ConfigError: a size is impossible or never reached; or the architecture cannot be augmented,
            or not as ``MODEL.KEYPOINT_ON`` or ``MODEL.LOAD_PROPOSALS`` say.
    """
    node = cfg.TEST.AUG
    if not node.MIN_SIZES:
        raise ConfigError("TEST.AUG.MIN_SIZES is empty: name at least one size.")
    for size in node.MIN_SIZES:
        with naming("TEST.AUG.MIN_SIZES"):
            check_count("a size", size, least=1)
    if max(node.MIN_SIZES) > node.MAX_SIZE:
        raise ConfigError(
            f"TEST.AUG.MAX_SIZE is {node.MAX_SIZE}: no picture would reach the size "
            f"{max(node.MIN_SIZES)} of TEST.AUG.MIN_SIZES."
        )
    architecture = architecture_of(cfg)
    # What a function builds is looked at when it is there.
    if architecture is not object:
        _augmented_kind(architecture)
    for key in ("KEYPOINT_ON", "LOAD_PROPOSALS"):
        if cfg.MODEL[key]:
            raise ConfigError(f"MODEL.{key}: TEST.AUG.ENABLED knows no way to merge those; False.")


class AugmentedModel(nn.Module):
    """A model that sees several views of each picture and gives one answer.

    It takes and gives what the model does at inference, without gradients. Views are made and seen
    one after the other, each alone, so that memory does not grow with their number. The sizes are
    those of the views, whatever ``INPUT`` says: of a picture in its own size and of the one view
    that ``INPUT`` describes it gives what the model gives, to the last bit, apart from
    "mask_steps".

    Args:
        cfg: see :func:`with_test_time_augmentation`.
        model: the model.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        super().__init__()
        # Any: the parts of Detectron2's models are not declared on nn.Module.
        self.model: Any = model
        # Evaluations put this module into the mode that it was in.
        self.training = model.training
        node = cfg.TEST.AUG
        self.views = Views(node.MIN_SIZES, node.MAX_SIZE, flip=node.FLIP)

    @torch.no_grad()
    def forward(
        self, batched_inputs: list[dict[str, Any]], *, steps: Steps = None
    ) -> list[dict[str, Any]]:
        """Predict pictures.

        Args:
            batched_inputs: as the model takes them, "image" on any device; there may be none.
            steps: of recurrent blocks, as :meth:`RecurrentModel.forward` takes them; names are
                those in the model.

        Returns:
            an output for each picture, with the keys of the model's.

        Raises:
            DatasetError: a picture is so narrow that nothing is left of it at a size.
            ValueError: the module is in training mode, or see :meth:`RecurrentModel.forward`.
        """
        if self.training:
            raise ValueError("test-time augmentation has no training mode: call eval() first")
        with steps_at_test(self.model, steps):
            return [self._predict(picture) for picture in batched_inputs]

    def _predict(self, picture: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError


class AugmentedSegmentor(AugmentedModel):
    """A semantic segmentor whose logits are averaged over the views, at the output's size.

    Logits and not probabilities: the average is then of the model's own kind, that of one view is
    the model's own answer, and a view that is unsure of a pixel counts for less there. It is the
    logarithm of the geometric mean of the views' probabilities, but for a constant of the pixel.
    """

    def _predict(self, picture: dict[str, Any]) -> dict[str, Any]:
        average = _Average()
        for view in self.views.of(picture):
            (output,) = self.model([view.inputs])
            average.add(view.unmirrored(output["sem_seg"]))
        return {"sem_seg": average.value}


class _AugmentedDetector(AugmentedModel):
    """What detectors have in common: the merging of the detections of all views."""

    #: The node of the model that has its NMS_THRESH_TEST.
    node: ClassVar[str]

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        super().__init__(cfg, model)
        self._threshold = cfg.MODEL[self.node].NMS_THRESH_TEST
        self._limit = cfg.TEST.DETECTIONS_PER_IMAGE

    def _merged(self, found: list[Instances]) -> Instances:
        """Suppress what several views have found, and keep the best.

        Args:
            found: of each view, in pixels of the output.

        Returns:
            the best, in descending order of their scores.
        """
        every = Instances.cat(found)
        # A view's own detections have been suppressed where the model made them. A second time
        # the rounding of their boxes would decide whether some overlap just too much.
        if len(found) == 1:
            return every
        kept = batched_nms(
            every.pred_boxes.tensor, every.scores, every.pred_classes, self._threshold
        )
        return every[kept[: self._limit] if self._limit >= 0 else kept]


class AugmentedRetinaNet(_AugmentedDetector):
    """A RetinaNet: the detections of all views, of overlapping ones of a class the best."""

    node = "RETINANET"

    def _predict(self, picture: dict[str, Any]) -> dict[str, Any]:
        found = []
        for view in self.views.of(picture):
            (output,) = self.model([view.inputs])
            instances = output["instances"]
            instances.pred_boxes = view.unmirrored_boxes(instances.pred_boxes)
            found.append(instances)
        return {"instances": self._merged(found)}


class AugmentedRCNN(_AugmentedDetector):
    """A Generalized R-CNN or Panoptic FPN.

    First each view is searched for boxes, which are merged as those of an
    :class:`AugmentedRetinaNet`; then each view gives a mask for every merged box, and the average
    of these probabilities is the box's mask. Semantic logits are averaged as an
    :class:`AugmentedSegmentor` does. Only then are the two merged to a panoptic segmentation, once,
    by the model's rule and thresholds.

    :class:`detectron2.modeling.GeneralizedRCNNWithTTA`, which has these two passes for instances
    alone, moves every box to every view, rounded; here a box meets the view that it was found in
    as it was found.
    """

    node = "ROI_HEADS"

    def _predict(self, picture: dict[str, Any]) -> dict[str, Any]:
        found, logits = [], _Average()
        with self._without_masks():
            for number, view in enumerate(self.views.of(picture)):
                instances, scores = self._boxes_and_scores(view)
                found.append(_in_output(view, number, instances))
                if scores is not None:
                    logits.add(view.semantic_scores(scores))
                output_size = view.output_size
        merged = self._merged(found)
        instances = Instances(
            output_size,
            pred_boxes=merged.pred_boxes,
            scores=merged.scores,
            pred_classes=merged.pred_classes,
        )
        if self._mask_on:
            instances.pred_masks = self._masks(picture, merged)
        instances = detector_postprocess(instances, *output_size)
        if not isinstance(self.model, PanopticFPN):
            return {"instances": instances}
        sem_seg = logits.value
        panoptic = combine_semantic_and_instance_outputs(
            instances,
            sem_seg.argmax(dim=0),
            self.model.combine_overlap_thresh,
            self.model.combine_stuff_area_thresh,
            self.model.combine_instances_score_thresh,
        )
        return {"sem_seg": sem_seg, "instances": instances, "panoptic_seg": panoptic}

    @property
    def _mask_on(self) -> bool:
        return getattr(self.model.roi_heads, "mask_on", False)

    @contextmanager
    def _without_masks(self) -> Iterator[None]:
        """Let the model find boxes only meanwhile."""
        mask_on = self._mask_on
        if mask_on:
            self.model.roi_heads.mask_on = False
        try:
            yield
        finally:
            if mask_on:
                self.model.roi_heads.mask_on = True

    def _boxes_and_scores(self, view: View) -> tuple[Instances, Tensor | None]:
        """Detections of a view, in its pixels, and the semantic logits of a panoptic model."""
        if isinstance(self.model, PanopticFPN):
            (instances,), (scores,) = self.model.inference([view.inputs], do_postprocess=False)
            return instances, scores
        (instances,) = self.model.inference([view.inputs], do_postprocess=False)
        return instances, None

    def _masks(self, picture: dict[str, Any], merged: Instances) -> Tensor:
        """The averages ``(N, 1, M, M)`` of the masks that the views give to the same boxes."""
        average = _Average()
        for number, view in enumerate(self.views.of(picture)):
            boxes = view.boxes_of_view(merged.pred_boxes)
            own = merged.view == number
            boxes.tensor[own] = merged.boxes_in_view.tensor[own]
            given = Instances(view.size, pred_boxes=boxes, pred_classes=merged.pred_classes)
            images = self.model.preprocess_image([view.inputs])
            features = self.model.backbone(images.tensor)
            (seen,) = self.model.roi_heads.forward_with_given_boxes(features, [given])
            average.add(view.unmirrored(seen.pred_masks))
        return average.value


class _Average:
    """The mean of tensors that come one after the other."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._number = 0

    def add(self, values: Tensor) -> None:
        if self._sum is None:
            self._sum = values
        elif self._number == 1:
            # What came first is another's.
            self._sum = self._sum + values
        else:
            # The scores of a large picture are gigabytes.
            self._sum += values
        self._number += 1

    @property
    def value(self) -> Tensor:
        assert self._sum is not None
        return self._sum / self._number


def _in_output(view: View, number: int, found: Instances) -> Instances:
    """Detections of view ``number`` in pixels of the output, with their boxes in the view."""
    boxes: Boxes = found.pred_boxes
    return Instances(
        view.output_size,
        pred_boxes=view.boxes_of_output(boxes),
        scores=found.scores,
        pred_classes=found.pred_classes,
        boxes_in_view=boxes,
        view=torch.full_like(found.pred_classes, number),
    )


_KINDS: dict[type, type[AugmentedModel]] = {
    GeneralizedRCNN: AugmentedRCNN,
    RetinaNet: AugmentedRetinaNet,
    SemanticSegmentor: AugmentedSegmentor,
}


def _augmented_kind(architecture: type) -> type[AugmentedModel]:
    for base, augmented in _KINDS.items():
        if issubclass(architecture, base):
            return augmented
    known = ", ".join(base.__name__ for base in _KINDS)
    raise ConfigError(
        f"MODEL.META_ARCHITECTURE {architecture.__name__} has no test-time augmentation, which "
        f"those have that derive from {known}: set TEST.AUG.ENABLED to False."
    )
