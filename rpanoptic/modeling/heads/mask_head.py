"""The recurrent mask head of the C-RBP panoptic model (Linsley et al., NeurIPS 2020)."""

from __future__ import annotations

from typing import Any

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling.roi_heads.mask_head import (
    ROI_MASK_HEAD_REGISTRY,
    BaseMaskRCNNHead,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from rpanoptic.errors import ConfigError
from rpanoptic.modeling.build import build_recurrent_block, check_keeps_size, output_norm_of
from rpanoptic.recurrent import RecurrentBlock

CONFIG_KEY = "MODEL.RECURRENT.MASK_HEAD"


@ROI_MASK_HEAD_REGISTRY.register()
class RecurrentMaskRCNNHead(BaseMaskRCNNHead):
    """A mask head whose convolutions are replaced by one recurrent block.

    The pooled features of a region drive the block at every step. Its equilibrium is normalised,
    doubled in size by a transposed convolution, and read out as one mask a class::

        RoI features (R, C, P, P) -> recurrence -> norm -> deconv, ReLU -> logits (R, K, 2P, 2P)

    With C = 256, a 3 x 3 hGRU with GALA and K = 80 it has 783,552 parameters fewer than
    Detectron2's head with four convolutions.

    Args:
        input_shape: shape of the pooled features; ``channels`` is C.
        recurrence: the recurrent block, of C channels.
        num_classes: K, 1 for class-agnostic masks.
        output_norm: normalisation of the equilibrium, as :func:`detectron2.layers.get_norm` takes
            it; outside the recurrence, so batch statistics do no harm here.
        loss_weight: factor of the mask loss; the penalty has its own, inside the block.
        vis_period: how often, in iterations, Detectron2 draws masks for TensorBoard; 0 never.

    Raises:
        ValueError: the recurrent block has not C channels, or a cell that changes the size.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        recurrence: RecurrentBlock,
        num_classes: int,
        output_norm: str = "SyncBN",
        loss_weight: float = 1.0,
        vis_period: int = 0,
    ) -> None:
        super().__init__(loss_weight=loss_weight, vis_period=vis_period)
        channels = recurrence.cell.channels
        if input_shape.channels != recurrence.cell.drive_channels:
            raise ValueError(
                f"the drive of the recurrent block has {recurrence.cell.drive_channels} channels, "
                f"the pooled features have {input_shape.channels}"
            )
        check_keeps_size("the mask head", recurrence.cell)
        self.recurrence = recurrence
        self.output_norm = get_norm(output_norm, channels) or nn.Identity()
        self.deconv = nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)
        self.predictor = nn.Conv2d(channels, num_classes, kernel_size=1)
        weight_init.c2_msra_fill(self.deconv)
        nn.init.normal_(self.predictor.weight, std=0.001)
        assert self.predictor.bias is not None
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Map a config to constructor arguments.

        Raises:
            ConfigError: a key has an impossible value.
        """
        channels = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM
        if input_shape.channels != channels:
            raise ConfigError(
                f"MODEL.ROI_MASK_HEAD.CONV_DIM is {channels}, but the features that drive the "
                f"recurrent mask head have {input_shape.channels} channels "
                "(MODEL.FPN.OUT_CHANNELS); they must be equal"
            )
        node = cfg.MODEL.RECURRENT.MASK_HEAD
        agnostic = cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK
        return {
            "input_shape": input_shape,
            "recurrence": build_recurrent_block(node, channels, key=CONFIG_KEY),
            "num_classes": 1 if agnostic else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "output_norm": output_norm_of(node, channels, key=CONFIG_KEY),
            "vis_period": cfg.VIS_PERIOD,
        }

    def forward(self, x: Tensor, instances: list[Instances]) -> dict[str, Tensor] | list[Instances]:
        """Compute the losses in training, or add ``pred_masks`` to the instances at inference.

        Without foreground regions the losses are zeros that stay connected to every parameter, as
        distributed training needs.

        Args:
            x: pooled features ``(R, C, P, P)`` of all regions, image by image.
            instances: the images' regions; in training with ``proposal_boxes``, ``gt_classes``
                and ``gt_masks``, at inference with ``pred_classes``.

        Returns:
            In training ``loss_mask``, and ``loss_lipschitz_mask`` if the gradient method has a
            penalty of weight above 0; otherwise the instances. Where the block halts they have
            ``mask_steps`` too, ``(R,)`` int64: the steps that each mask took.
        """
        output = self.recurrence(x)
        logits = self.read_out(output.output)
        if not self.training:
            mask_rcnn_inference(logits, instances)
            if self.recurrence.halt_tol > 0:
                _add_steps(output.diagnostics.steps, instances)
            return instances
        loss_mask = mask_rcnn_loss(logits, instances, self.vis_period)
        losses = {"loss_mask": self.loss_weight * loss_mask}
        if output.penalty is not None:
            losses["loss_lipschitz_mask"] = output.penalty
        return losses

    def layers(self, x: Tensor) -> Tensor:
        """Mask logits ``(R, K, 2P, 2P)`` of pooled features ``(R, C, P, P)``."""
        return self.read_out(self.recurrence(x).output)

    def read_out(self, output: Tensor) -> Tensor:
        """Mask logits ``(R, K, 2P, 2P)`` of what the cell reads out, ``(R, C, P, P)``."""
        return self.predictor(F.relu(self.deconv(self.output_norm(output))))


def _add_steps(steps: Tensor, instances: list[Instances]) -> None:
    counts = [len(found) for found in instances]
    for taken, found in zip(steps.split(counts), instances, strict=True):
        found.mask_steps = taken
