"""Detectors with region heads: Generalized R-CNN and Panoptic FPN."""

from __future__ import annotations

from typing import Any

from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import GeneralizedRCNN, PanopticFPN
from detectron2.structures import Instances

from rpanoptic.modeling.meta_arch.recurrent_model import RecurrentModel, Steps
from rpanoptic.recurrent import steps_at_test


@META_ARCH_REGISTRY.register()
class RecurrentGeneralizedRCNN(RecurrentModel, GeneralizedRCNN):
    """Generalized R-CNN whose backbone and heads may be recurrent.

    Arguments, module names and config keys are those of
    :class:`detectron2.modeling.GeneralizedRCNN`.
    """

    ground_truth = ("instances",)

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
        *,
        steps: Steps = None,
    ) -> Any:
        """As the parent's, with the steps of :meth:`RecurrentModel.forward`.

        There may be no picture.

        Raises:
            ValueError: ``steps`` are given in training mode, name no block or are below 1.
        """
        self._check_steps(steps)
        if not batched_inputs:
            return []
        with steps_at_test(self, steps):
            return super().inference(batched_inputs, detected_instances, do_postprocess)


@META_ARCH_REGISTRY.register()
class RecurrentPanopticFPN(RecurrentModel, PanopticFPN):
    """Panoptic FPN whose backbone and heads may be recurrent (Linsley et al., NeurIPS 2020).

    Arguments, module names and config keys are those of :class:`detectron2.modeling.PanopticFPN`,
    so that checkpoints load across.
    """

    ground_truth = ("instances", "sem_seg")

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        do_postprocess: bool = True,
        *,
        steps: Steps = None,
    ) -> Any:
        """As the parent's, with the steps of :meth:`RecurrentModel.forward`.

        There may be no picture; without ``do_postprocess`` both halves of the result are empty.

        Raises:
            ValueError: ``steps`` are given in training mode, name no block or are below 1.
        """
        self._check_steps(steps)
        if not batched_inputs:
            return [] if do_postprocess else ([], [])
        with steps_at_test(self, steps):
            return super().inference(batched_inputs, do_postprocess)

    def detector(self) -> RecurrentGeneralizedRCNN:
        """The model without its semantic half, which shares all modules with it.

        For what works on instances alone, such as
        :class:`detectron2.modeling.GeneralizedRCNNWithTTA`.
        """
        # Any: a detector's parts are not declared on nn.Module.
        model: Any = self
        detector = RecurrentGeneralizedRCNN(
            backbone=model.backbone,
            proposal_generator=model.proposal_generator,
            roi_heads=model.roi_heads,
            pixel_mean=model.pixel_mean.flatten().tolist(),
            pixel_std=model.pixel_std.flatten().tolist(),
            input_format=model.input_format,
            vis_period=model.vis_period,
        )
        return detector.to(model.device).train(model.training)
