"""Feature pyramids with recurrent levels, the variants that C-RBP's authors explored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.backbone.resnet import build_resnet_backbone
from torch import Tensor, nn
from torch.nn import functional as F

from rpanoptic.errors import ConfigError, naming
from rpanoptic.modeling.backbone.hierarchy import (
    Hierarchy,
    build_feedback,
    check_names,
)
from rpanoptic.modeling.backbone.pyramid import check_in_features, last_level_p6p7
from rpanoptic.modeling.build import (
    build_block_of,
    build_recurrent_cell,
    check_keeps_size,
    output_norm_of,
)
from rpanoptic.modeling.penalty import PenaltySource
from rpanoptic.recurrent import RecurrentBlock, RecurrentCell

CONFIG_KEY = "MODEL.RECURRENT.FPN"
PENALTY_NAME = "loss_lipschitz_fpn"
PLACES = ("lateral", "output", "topdown")


class RecurrentFPN(PenaltySource, FPN):
    """A feature pyramid with a recurrent cell a level.

    With backbone features c_l of levels fine to coarse, cells, output norms N and the usual
    lateral (1 x 1) and output (3 x 3) convolutions, the levels of the pyramid are::

        lateral   m_l = N_l(h_l),  h_l = cell_l(c_l, h_l)                    in place of 1 x 1
        output    m_l = N_l(h_l),  h_l = cell_l(lateral_l(c_l), h_l)
        both      p_l = output_l(m_l + up(m_{l+1} + up(...)))
        topdown   p_l = output_l(N_l(h_l)),  h = Hierarchy(lateral_1(c_1) ... lateral_L(c_L), h)

    so that feedback from above is added after the recurrence, or (topdown) is a part of it: one
    equilibrium of all levels, see :class:`Hierarchy`. At "output" a state of a single tensor
    starts at the lateral, else at the cell's own first state.

    They follow Linsley et al. (NeurIPS 2020), whose code has them beside the recurrent mask head.
    What is not recurrent keeps the names that it has in Detectron2's :class:`FPN`, so that weights
    of its models fill it. The penalties of the levels are added, under "loss_lipschitz_fpn"; see
    :class:`PenaltySource` for how they reach the losses.

    On a ResNet-50 with 256 channels the recurrence of "output" has 6,305,024 parameters with hGRUs
    of 3 x 3, that of "topdown" 7,493,888; low-dimensional hGRUs at "lateral" have 84,430,656.

    Args:
        bottom_up, in_features, out_channels, norm, top_block, fuse_type: as in :class:`FPN`;
            ``fuse_type`` has no meaning at "topdown".
        place: "lateral", "output" or "topdown".
        cells: by the level's name, "p3" for the feature of stride 8, with ``out_channels``
            channels; their drive has as many, or at "lateral" those of the backbone's feature.
        feedback: at "topdown" the cell that acts on each level but the coarsest, such as
            :class:`rpanoptic.recurrent.cells.TopDown`.
        make_block: puts a cell into a recurrent block: steps, gradient method, penalty.
        output_norm: normalisation of the equilibria, as :func:`detectron2.layers.get_norm` takes
            it; "" for none.

    Raises:
        ValueError: an unknown place; a level without a cell, or with one that does not
            fit; feedback at another place.
    """

    def __init__(
        self,
        *,
        bottom_up: Backbone,
        in_features: list[str],
        out_channels: int,
        cells: Mapping[str, RecurrentCell],
        place: str = "output",
        feedback: Mapping[str, RecurrentCell] | None = None,
        make_block: Callable[[RecurrentCell], RecurrentBlock] = RecurrentBlock,
        output_norm: str = "GN",
        norm: str = "",
        top_block: nn.Module | None = None,
        fuse_type: str = "sum",
    ) -> None:
        super().__init__(bottom_up, in_features, out_channels, norm, top_block, fuse_type)
        if place not in PLACES:
            raise ValueError(f"place must be one of {', '.join(map(repr, PLACES))}; got {place!r}")
        if (feedback is not None) != (place == "topdown"):
            raise ValueError("feedback must be given at place 'topdown', and only there")
        self.place = place
        drives = level_channels(bottom_up, in_features)
        self.levels = list(drives)
        if place == "lateral":
            for level in self.levels:
                delattr(self, level.replace("p", "fpn_lateral"))
            self.lateral_convs: list[nn.Module] = []
        else:
            drives = dict.fromkeys(drives, out_channels)
        check_names("cells", cells, self.levels)
        for level, channels in drives.items():
            _check_cell(level, cells[level], out_channels, channels)
        cells = {level: cells[level] for level in self.levels}
        self.recurrence: nn.ModuleDict | RecurrentBlock
        if feedback is None:
            self.recurrence = nn.ModuleDict({name: make_block(c) for name, c in cells.items()})
        else:
            self.recurrence = make_block(Hierarchy(cells, feedback))
        self.output_norm = nn.ModuleDict(
            {level: get_norm(output_norm, out_channels) or nn.Identity() for level in self.levels}
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features of images ``(N, C, H, W)``, H and W multiples of :attr:`size_divisibility`.

        Returns:
            ``(N, out_channels, H / s, W / s)`` by level names "p<log2 s>", fine to coarse.
        """
        self.clear_penalties()
        bottom_up = self.bottom_up(x)
        drives = {n: bottom_up[f] for n, f in zip(self.levels, self.in_features, strict=True)}
        if self.place != "lateral":
            convolutions = zip(self.levels, reversed(self.lateral_convs), strict=True)
            drives = {level: conv(drives[level]) for level, conv in convolutions}
        states = self._settle(drives)
        levels = [self.output_norm[name](state) for name, state in states.items()]
        if self.place != "topdown":
            self._add_from_above(levels)
        results = [
            conv(level) for conv, level in zip(reversed(self.output_convs), levels, strict=True)
        ]
        if self.top_block is not None:
            source = self.top_block.in_feature
            if source in bottom_up:
                results += self.top_block(bottom_up[source])
            else:
                results += self.top_block(results[self._out_features.index(source)])
        return dict(zip(self._out_features, results, strict=True))

    def _settle(self, drives: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is read out of the levels' equilibria."""
        if isinstance(self.recurrence, RecurrentBlock):
            joint = self.recurrence(tuple(drives.values()))
            self.put_penalty(PENALTY_NAME, joint.penalty)
            return cast(Hierarchy, self.recurrence.cell).outputs(joint.state)
        outputs = {}
        for level, drive in drives.items():
            block = cast(RecurrentBlock, self.recurrence[level])
            at_drive = self.place == "output" and block.cell.state_tensors == 1
            result = block(drive, drive if at_drive else None)
            self.put_penalty(PENALTY_NAME, result.penalty)
            outputs[level] = result.output
        return outputs

    def _add_from_above(self, levels: list[Tensor]) -> None:
        """Add to each level, coarse to fine, the upsampled one above it; in place of the list."""
        for index in reversed(range(len(levels) - 1)):
            above = F.interpolate(levels[index + 1], scale_factor=2.0, mode="nearest")
            merged = levels[index] + above
            levels[index] = merged / 2 if self._fuse_type == "avg" else merged


def level_channels(bottom_up: Backbone, in_features: list[str]) -> dict[str, int]:
    """Channels of the backbone's features by the names of the pyramid's levels, "p<log2 stride>".

    Raises:
        KeyError: the backbone has no such feature.
    """
    shapes = bottom_up.output_shape()
    return {f"p{int(math.log2(shapes[f].stride))}": shapes[f].channels for f in in_features}


def _check_cell(level: str, cell: RecurrentCell, channels: int, drive_channels: int) -> None:
    if (cell.channels, cell.drive_channels) != (channels, drive_channels):
        raise ValueError(
            f"level {level} needs a cell of {channels} channels with a drive of {drive_channels}; "
            f"got one of {cell.channels} with a drive of {cell.drive_channels}"
        )
    check_keeps_size(f"level {level}", cell)


def build_fpn_from(cfg: CfgNode, bottom_up: Backbone, top_block: nn.Module) -> RecurrentFPN:
    """Put the recurrent pyramid of ``MODEL.RECURRENT.FPN`` on a backbone.

    Raises:
        ConfigError: a value is impossible, or the pyramid does not fit the backbone.
    """
    node, fpn = cfg.MODEL.RECURRENT.FPN, cfg.MODEL.FPN
    if node.PLACE not in PLACES:
        raise ConfigError(
            f"{CONFIG_KEY}.PLACE must be one of {', '.join(map(repr, PLACES))}; got {node.PLACE!r}"
        )
    channels = fpn.OUT_CHANNELS
    check_in_features(fpn.IN_FEATURES, bottom_up)
    cells = {
        level: build_recurrent_cell(
            node,
            channels,
            key=CONFIG_KEY,
            drive_channels=drive if node.PLACE == "lateral" else channels,
        )
        for level, drive in level_channels(bottom_up, fpn.IN_FEATURES).items()
    }
    options: dict[str, Any] = {}
    if node.PLACE == "topdown":
        key = f"{CONFIG_KEY}.TOP_DOWN_KERNEL_SIZE"
        options["feedback"] = build_feedback(node, cells, node.TOP_DOWN_KERNEL_SIZE, key=key)
    with naming(CONFIG_KEY):
        return RecurrentFPN(
            bottom_up=bottom_up,
            in_features=fpn.IN_FEATURES,
            out_channels=channels,
            cells=cells,
            place=node.PLACE,
            make_block=partial(build_block_of, node=node, key=CONFIG_KEY),
            output_norm=output_norm_of(node, channels, key=CONFIG_KEY),
            norm=fpn.NORM,
            top_block=top_block,
            fuse_type=fpn.FUSE_TYPE,
            **options,
        )


@BACKBONE_REGISTRY.register()
def build_recurrent_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> RecurrentFPN:
    """A ResNet under a :class:`RecurrentFPN` with p6, for Mask R-CNN and panoptic models."""
    return build_fpn_from(cfg, build_resnet_backbone(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_recurrent_retinanet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> RecurrentFPN:
    """A ResNet under a :class:`RecurrentFPN` with p6 and p7 of res5, for RetinaNet."""
    bottom_up = build_resnet_backbone(cfg, input_shape)
    return build_fpn_from(cfg, bottom_up, last_level_p6p7(cfg, bottom_up))
