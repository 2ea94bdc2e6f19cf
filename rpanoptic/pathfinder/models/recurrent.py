"""The recurrent contour tracer of the C-RBP paper as a Detectron2 backbone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor

from rpanoptic.errors import naming
from rpanoptic.modeling.build import build_recurrent_block, check_keeps_size
from rpanoptic.modeling.penalty import PenaltySource
from rpanoptic.pathfinder.models.settings import CONFIG_KEY, check_pathfinder_node
from rpanoptic.pathfinder.models.stem import Stem
from rpanoptic.recurrent import RecurrentBlock
from rpanoptic.recurrent.state import State

BLOCK_KEY = "MODEL.RECURRENT.PATHFINDER"
PENALTY_NAME = "loss_lipschitz_pathfinder"
#: The only feature of the backbones of Pathfinder.
FEATURE = "contour"


class RecurrentContourBackbone(PenaltySource, Backbone):
    """A picture drives a recurrent block at its full resolution (Linsley et al., NeurIPS 2020)::

        picture (N, C_in, H, W) -> stem -> recurrence -> "contour" (N, C, H, W)

    With the stem of 7 x 7 and a norm and two logits behind it, as :class:`ContourHead` has them,
    the paper's hGRU of 25 channels has 14,127 parameters with kernels of 3 x 3, 34,127 with 5 x 5,
    104,127 with 9 x 9 and 284,127 with 15 x 15. The released code's counts are each 100 higher: it
    makes two norms that it never uses.

    Its penalty is "loss_lipschitz_pathfinder"; see :class:`PenaltySource` for how it reaches the
    losses.

    Args:
        stem: makes the drive.
        recurrence: the recurrent block, of a state as high and wide as its drive.
        all_steps: in training give what is read out after every step and not after the last alone:
            T batches one after another, ``(T * N, C, H, W)``.

    Raises:
        ValueError: the block takes another number of channels than the stem gives, changes the
            size, or, with ``all_steps``, has a gradient method that does not keep the steps.
    """

    def __init__(self, *, stem: Stem, recurrence: RecurrentBlock, all_steps: bool = False) -> None:
        super().__init__()
        cell = recurrence.cell
        if cell.drive_channels != stem.channels:
            raise ValueError(
                f"the recurrent block takes {cell.drive_channels} channels; "
                f"the stem gives {stem.channels}"
            )
        check_keeps_size("tracing a contour", cell)
        if all_steps:
            recurrence.check_stepwise("reading out every step")
        self.stem = stem
        self.recurrence = recurrence
        self.all_steps = all_steps
        self._out_features = [FEATURE]
        self._out_feature_channels = {FEATURE: cell.channels}
        self._out_feature_strides = {FEATURE: 1}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Run the recurrence on pictures ``(N, C_in, H, W)``.

        Returns:
            "contour", ``(N, C, H, W)``; see ``all_steps``.
        """
        self.clear_penalties()
        drive = self.stem(image)
        if self.all_steps and self.training:
            outputs = [result.output for result in self.recurrence.run_stepwise(drive)]
            return {FEATURE: torch.cat(outputs)}
        result = self.recurrence(drive)
        self.put_penalty(PENALTY_NAME, result.penalty)
        return {FEATURE: result.output}

    def states(self, image: Tensor) -> Iterator[State]:
        """The states after step 1, 2, 3, ... on pictures, without end and without gradient."""
        with torch.no_grad():
            drive = self.stem(image)
        yield from self.recurrence.iterate(drive)


@BACKBONE_REGISTRY.register()
def build_pathfinder_recurrent_backbone(
    cfg: CfgNode, input_shape: ShapeSpec
) -> RecurrentContourBackbone:
    """The recurrent model that ``MODEL.PATHFINDER`` and ``MODEL.RECURRENT.PATHFINDER`` describe.

    Raises:
        ConfigError: a key has an impossible value; or ``MODEL.PATHFINDER.STEP_LOSS`` is set with a
            gradient method, or a tolerance, that does not keep all steps.
    """
    node = cfg.MODEL.PATHFINDER
    check_pathfinder_node(node)
    # Of what the stem refuses, only a size too small for Gabor filters has not been checked.
    with naming(f"{CONFIG_KEY}.STEM_SIZE"):
        stem = Stem(
            input_shape.channels,
            node.CHANNELS,
            size=node.STEM_SIZE,
            kernels=node.STEM,
            activation=node.STEM_ACTIVATION,
        )
    block = build_recurrent_block(cfg.MODEL.RECURRENT.PATHFINDER, node.CHANNELS, key=BLOCK_KEY)
    # Of what the backbone refuses, only this has not been checked before.
    with naming(f"{CONFIG_KEY}.STEP_LOSS"):
        return RecurrentContourBackbone(stem=stem, recurrence=block, all_steps=node.STEP_LOSS)
