"""Residual networks with a recurrent cell after their stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any, cast

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.backbone.resnet import ResNet, build_resnet_backbone
from torch import Tensor, nn
from torch.nn import functional as F

from rpanoptic.errors import ConfigError, naming
from rpanoptic.modeling.backbone.hierarchy import build_feedback
from rpanoptic.modeling.backbone.pyramid import build_fpn_on, last_level_p6p7
from rpanoptic.modeling.backbone.stage_hierarchy import StageHierarchy
from rpanoptic.modeling.build import (
    build_block_of,
    build_recurrent_cell,
    check_keeps_size,
    output_norm_of,
)
from rpanoptic.modeling.penalty import PenaltySource
from rpanoptic.recurrent import RecurrentBlock, RecurrentCell

CONFIG_KEY = "MODEL.RECURRENT.RESNET"
PENALTY_NAME = "loss_lipschitz_resnet"
STAGES = ("res2", "res3", "res4", "res5")


class RecurrentResNet(PenaltySource, Backbone):
    """A residual network in which chosen stages end in a recurrence.

    Without feedback each has an equilibrium of its own, in the order of the stages::

        stage -> recurrence -> output norm -> ReLU -> next stage

    With feedback the recurrent stages, which must be neighbours, share one: in a step activity
    goes up through stages and cells and down through gated top-down cells, see
    :class:`StageHierarchy`. The stages up to the first recurrent one run once, those after the
    last too; a step costs a pass through those between.

    Both are of Linsley et al. (NeurIPS 2020), whose code has them beside the recurrent mask head.
    The network's own weights keep their names (``stem.*``, ``res2.*``), so that ImageNet weights
    fill them, and stay frozen where they were; cells are always trained. The penalties of the
    stages are added, under "loss_lipschitz_resnet"; see :class:`PenaltySource` for how they reach
    the losses.

    A cell has as many channels as its stage, and those of a ResNet-50 are many: hGRUs of 3 x 3
    after res3, res4 and res5 have 132,168,064 parameters, of 1 x 1 they have 22,053,248.

    Args:
        resnet: Detectron2's network, without a classifier; its modules are taken over.
        cells: by the names of the stages that they follow, with the stages' channels.
        feedback: None, or the cell that acts on each recurrent stage but the last, such as
            :class:`rpanoptic.recurrent.cells.TopDown`.
        make_block: puts a cell into a recurrent block: steps, gradient method, penalty.
        output_norm: normalisation of the equilibria, as :func:`detectron2.layers.get_norm` takes
            it; "" for none.

    Raises:
        ValueError: the network has a classifier; no cell, or one for a stage that it lacks, or
            one that does not fit; with feedback, stages that are no neighbours, do not halve the
            size, or use statistics of batches.
    """

    def __init__(
        self,
        *,
        resnet: ResNet,
        cells: Mapping[str, RecurrentCell],
        feedback: Mapping[str, RecurrentCell] | None = None,
        make_block: Callable[[RecurrentCell], RecurrentBlock] = RecurrentBlock,
        output_norm: str = "GN",
    ) -> None:
        super().__init__()
        if resnet.num_classes is not None:
            raise ValueError("the network must have no classifier (num_classes None)")
        channels, strides = resnet._out_feature_channels, resnet._out_feature_strides
        self._out_features = list(resnet._out_features)
        self._out_feature_channels, self._out_feature_strides = channels, strides
        names = self.stage_names = resnet.stage_names
        recurrent = _check_cells(cells, {name: channels[name] for name in names})
        self.stem = resnet.stem
        for name in names:
            self.add_module(name, getattr(resnet, name))
        norms = {name: get_norm(output_norm, channels[name]) or nn.Identity() for name in recurrent}
        cells = {name: cells[name] for name in recurrent}
        self.recurrence: nn.ModuleDict | RecurrentBlock
        if feedback is None:
            self.recurrence = nn.ModuleDict({name: make_block(c) for name, c in cells.items()})
            self.output_norm = nn.ModuleDict(norms)
        else:
            _check_neighbours(recurrent, names, strides)
            between = {name: getattr(self, name) for name in recurrent[1:]}
            self.recurrence = make_block(StageHierarchy(between, cells, feedback, norms))
        self.recurrent_stages = recurrent

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features of images ``(N, C, H, W)`` by name, as :class:`ResNet` returns them."""
        self.clear_penalties()
        x = self.stem(x)
        outputs = {"stem": x}
        joint: dict[str, Tensor] = {}
        for name in self.stage_names:
            if name not in self.recurrent_stages:
                x = getattr(self, name)(x)
            elif isinstance(self.recurrence, RecurrentBlock):
                # The stages of the others are a part of the step.
                joint = joint or self._settle_jointly(getattr(self, name)(x))
                x = joint[name]
            else:
                x = self._settle(name, getattr(self, name)(x))
            outputs[name] = x
        return {name: outputs[name] for name in self._out_features}

    def _settle(self, name: str, drive: Tensor) -> Tensor:
        """What a stage with an equilibrium of its own hands on."""
        result = cast(nn.ModuleDict, self.recurrence)[name](drive)
        self.put_penalty(PENALTY_NAME, result.penalty)
        return F.relu(self.output_norm[name](result.output))

    def _settle_jointly(self, drive: Tensor) -> dict[str, Tensor]:
        """What the recurrent stages hand on at their joint equilibrium, by name."""
        block = cast(RecurrentBlock, self.recurrence)
        result = block(drive)
        self.put_penalty(PENALTY_NAME, result.penalty)
        return cast(StageHierarchy, block.cell).features(result.state)


def _check_cells(cells: Mapping[str, RecurrentCell], channels: dict[str, int]) -> list[str]:
    """The recurrent stages in order; ``channels`` are those of all stages by name."""
    unknown = [name for name in cells if name not in channels]
    if unknown or not cells:
        raise ValueError(
            f"cells must be given for one stage or more of {list(channels)}; got {list(cells)}"
        )
    for name, cell in cells.items():
        if (cell.channels, cell.drive_channels) != (channels[name], channels[name]):
            raise ValueError(
                f"stage {name} needs a cell of {channels[name]} channels with a drive of as many; "
                f"got one of {cell.channels} with a drive of {cell.drive_channels}"
            )
        check_keeps_size(f"level {name}", cell)
    return [name for name in channels if name in cells]


def _check_neighbours(
    recurrent: list[str], names: tuple[str, ...], strides: dict[str, int]
) -> None:
    first = names.index(recurrent[0])
    if list(names[first : first + len(recurrent)]) != recurrent:
        raise ValueError(f"with feedback the recurrent stages must be neighbours; got {recurrent}")
    for below, above in pairwise(recurrent):
        if strides[above] != 2 * strides[below]:
            raise ValueError(
                f"feedback from {above} to {below} needs half the size there; their strides are "
                f"{strides[above]} and {strides[below]}"
            )


@BACKBONE_REGISTRY.register()
def build_recurrent_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> RecurrentResNet:
    """The recurrent ResNet of ``MODEL.RESNETS`` and ``MODEL.RECURRENT.RESNET``.

    Raises:
        ConfigError: a value is impossible, or stages and recurrence do not go together.
    """
    node = cfg.MODEL.RECURRENT.RESNET
    resnet = build_resnet_backbone(cfg, input_shape)
    stages = _check_stages(cfg, resnet.stage_names)
    shapes = {name: resnet._out_feature_channels[name] for name in stages}
    for channels in shapes.values():
        output_norm_of(node, channels, key=CONFIG_KEY)
    cells = {
        name: build_recurrent_cell(node, channels, key=CONFIG_KEY)
        for name, channels in shapes.items()
    }
    options: dict[str, Any] = {}
    if node.FEEDBACK:
        _check_feedback(cfg)
        key = f"{CONFIG_KEY}.FEEDBACK_KERNEL_SIZE"
        options["feedback"] = build_feedback(node, cells, node.FEEDBACK_KERNEL_SIZE, key=key)
    with naming(CONFIG_KEY):
        return RecurrentResNet(
            resnet=resnet,
            cells=cells,
            make_block=partial(build_block_of, node=node, key=CONFIG_KEY),
            output_norm=node.OUTPUT_NORM,
            **options,
        )


def _check_stages(cfg: CfgNode, built: tuple[str, ...]) -> list[str]:
    """The recurrent stages in order.

    Raises:
        ConfigError: there is none, or one is unknown, named twice or not built.
    """
    named = list(cfg.MODEL.RECURRENT.RESNET.STAGES)
    if not named or len(set(named)) < len(named) or not set(named) <= set(STAGES):
        raise ConfigError(
            f"{CONFIG_KEY}.STAGES must name stages of {', '.join(STAGES)}, at least one and each "
            f"once; got {named}"
        )
    absent = [name for name in named if name not in built]
    if absent:
        raise ConfigError(
            f"{CONFIG_KEY}.STAGES names {', '.join(absent)}, but a network that ends with "
            f"MODEL.RESNETS.OUT_FEATURES {list(cfg.MODEL.RESNETS.OUT_FEATURES)} has "
            f"{', '.join(built) or 'no stage'} only"
        )
    return sorted(named)


def _check_feedback(cfg: CfgNode) -> None:
    """Check the keys that matter where stages are a part of the recurrent step.

    Raises:
        ConfigError: the stages are no neighbours, or cannot be a part of the step.
    """
    node, resnets = cfg.MODEL.RECURRENT.RESNET, cfg.MODEL.RESNETS
    stages = sorted(node.STAGES)
    key = f"{CONFIG_KEY}.FEEDBACK"
    first = STAGES.index(stages[0])
    if tuple(stages) != STAGES[first : first + len(stages)]:
        raise ConfigError(
            f"{key} needs neighbours in {CONFIG_KEY}.STAGES, without a gap; got {stages}"
        )
    if len(stages) < 2:
        raise ConfigError(f"{key} needs two {CONFIG_KEY}.STAGES or more; got {stages}")
    if "BN" in resnets.NORM and resnets.NORM != "FrozenBN":
        raise ConfigError(
            f"{key} makes stages a part of the recurrent step, where statistics of batches would "
            f"couple the samples: MODEL.RESNETS.NORM must be 'FrozenBN' or 'GN', not "
            f"{resnets.NORM!r}"
        )
    if "BN" in node.OUTPUT_NORM and node.OUTPUT_NORM != "FrozenBN":
        raise ConfigError(
            f"{key} makes the output norm a part of the recurrent step, where statistics of "
            f"batches would couple the samples: {CONFIG_KEY}.OUTPUT_NORM must be 'FrozenBN', 'GN' "
            f"or '', not {node.OUTPUT_NORM!r}"
        )
    if "res5" in stages and resnets.RES5_DILATION != 1:
        raise ConfigError(
            f"{key} needs each stage to halve the size, but MODEL.RESNETS.RES5_DILATION is "
            f"{resnets.RES5_DILATION}: set it to 1 or leave res5 out of {CONFIG_KEY}.STAGES"
        )
    deformable = [name for name in stages[1:] if resnets.DEFORM_ON_PER_STAGE[STAGES.index(name)]]
    if deformable:
        raise ConfigError(
            f"{key}: MODEL.RESNETS.DEFORM_ON_PER_STAGE must be False for {', '.join(deformable)}; "
            "deformable convolutions have no second derivative, which the penalty needs"
        )


@BACKBONE_REGISTRY.register()
def build_recurrent_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A recurrent ResNet under Detectron2's FPN with p6."""
    return build_fpn_on(build_recurrent_resnet_backbone(cfg, input_shape), cfg, LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_recurrent_retinanet_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A recurrent ResNet under Detectron2's FPN with RetinaNet's p6 and p7."""
    bottom_up = build_recurrent_resnet_backbone(cfg, input_shape)
    return build_fpn_on(bottom_up, cfg, last_level_p6p7(cfg, bottom_up))
