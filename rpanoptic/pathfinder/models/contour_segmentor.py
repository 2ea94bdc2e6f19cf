"""Contour tracing as semantic segmentation of two classes, with the trace step by step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor

from rpanoptic.errors import ConfigError
from rpanoptic.modeling import RecurrentSemanticSegmentor
from rpanoptic.pathfinder.models.head import ContourHead
from rpanoptic.pathfinder.models.recurrent import RecurrentContourBackbone
from rpanoptic.recurrent.state import State


@META_ARCH_REGISTRY.register()
class ContourSegmentor(RecurrentSemanticSegmentor):
    """Marks the pixels of the contour that begins at the marker.

    A semantic segmentor, see :class:`RecurrentSemanticSegmentor` for arguments, inputs and steps,
    whose backbone is one of Pathfinder's and whose head is :class:`ContourHead`. Its output for a
    picture is "sem_seg", logits ``(2, H, W)`` of background and contour. A recurrent model can also
    be watched step by step.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Map a config to constructor arguments.

        Raises:
            ConfigError: ``MODEL.SEM_SEG_HEAD.NAME`` is no :class:`ContourHead`; or see
                :meth:`ContourHead.from_config`.
        """
        name = cfg.MODEL.SEM_SEG_HEAD.NAME
        head = SEM_SEG_HEADS_REGISTRY.get(name)
        if not (isinstance(head, type) and issubclass(head, ContourHead)):
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.NAME {name}: a {cls.__name__} takes {ContourHead.__name__}"
            )
        return super().from_config(cfg)

    def trace(self, batched_inputs: list[dict[str, Any]], steps: int) -> Iterator[Tensor]:
        """The readout after step 1, 2, ..., steps, of one run.

        Steps are plain: whether the model, otherwise, would stop early or accelerate its steps
        (HALT_TOL, FORWARD) does not count here.

        Args:
            batched_inputs: pictures as :meth:`forward` takes them; only "image" is read. Pictures
                of unequal sizes are padded to the right and below.
            steps: at least 1.

        Yields:
            logits ``(N, 2, H, W)`` without gradient; where the model's own steps are plain, the
            last are those of the model run for ``steps`` steps.

        Raises:
            ValueError: the model has no recurrence, is in training mode, or ``steps`` are too few.
        """
        return map(self.read_out, self.states(batched_inputs, steps))

    def states(self, batched_inputs: list[dict[str, Any]], steps: int) -> Iterator[State]:
        """The state of the recurrence after step 1, 2, ..., steps; see :meth:`trace`.

        Yields:
            the state as the cell has it, without gradient: ``(N, C, H, W)``, or a tuple.
        """
        backbone = self.backbone
        if not isinstance(backbone, RecurrentContourBackbone):
            raise ValueError(
                f"there is no recurrence in {type(backbone).__name__} whose steps could be seen"
            )
        if self.training:
            raise ValueError("a trace needs the model in evaluation mode: call eval() first")
        steps = backbone.recurrence.check_steps("steps", steps)
        images = [
            (x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs
        ]
        batch = ImageList.from_tensors(images, backbone.size_divisibility)
        return islice(backbone.states(batch.tensor), steps)

    @torch.no_grad()
    def read_out(self, state: State) -> Tensor:
        """Logits ``(N, 2, H, W)`` of a state of :meth:`states`, without gradient."""
        backbone = cast(RecurrentContourBackbone, self.backbone)
        head = cast(ContourHead, self.sem_seg_head)
        return head.read_out(backbone.recurrence.cell.output(state))
