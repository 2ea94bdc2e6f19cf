"""A U-Net for reference, as a Detectron2 backbone."""

from __future__ import annotations

from itertools import pairwise

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from rpanoptic.pathfinder.models.recurrent import FEATURE
from rpanoptic.pathfinder.models.settings import check_pathfinder_node, refuse_step_loss
from rpanoptic.recurrent.checks import check_count


class UNetContourBackbone(Backbone):
    """U-Net (Ronneberger et al., MICCAI 2015): down by halves, up again with shortcuts.

    As published, but that convolutions keep the size and have batch norms, and that pictures may
    have any size: halves are rounded up, and what comes up again is cut to the shortcut's size.

    Args:
        in_channels: channels of the picture.
        channels: C, of the first level and of the output; each level below has twice as many.
        depth: how often the size is halved; 4 as published, with 64 channels.

    Raises:
        ValueError: a depth below 1.
    """

    def __init__(self, in_channels: int, channels: int, *, depth: int = 4) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(check_count("depth", depth, least=1) + 1)]
        self.down = nn.ModuleList(_level(a, b) for a, b in pairwise([in_channels, *widths]))
        widths.reverse()
        pairs = list(pairwise(widths))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.up = nn.ModuleList(_level(a, b) for a, b in pairs)
        self._out_features = [FEATURE]
        self._out_feature_channels = {FEATURE: channels}
        self._out_feature_strides = {FEATURE: 1}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """ "contour", ``(N, C, H, W)``, of pictures ``(N, C_in, H, W)``."""
        first, *deeper = self.down
        levels = [first(image)]
        for level in deeper:
            levels.append(level(F.max_pool2d(levels[-1], 2, ceil_mode=True)))
        x = levels.pop()
        for grow, level in zip(self.grow, self.up, strict=True):
            shortcut = levels.pop()
            height, width = shortcut.shape[2:]
            x = level(torch.cat([shortcut, grow(x)[..., :height, :width]], dim=1))
        return {FEATURE: x}


def _level(in_channels: int, channels: int) -> nn.Sequential:
    """Two convolutions of 3 x 3, each with norm and ReLU."""
    parts: list[nn.Module] = []
    for inputs in (in_channels, channels):
        # The norm would take a bias off.
        parts += [
            nn.Conv2d(inputs, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*parts)


@BACKBONE_REGISTRY.register()
def build_pathfinder_unet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> UNetContourBackbone:
    """The U-Net of ``MODEL.PATHFINDER.CHANNELS`` channels.

    Raises:
        ConfigError: a key has an impossible value, or STEP_LOSS is set.
    """
    node = cfg.MODEL.PATHFINDER
    check_pathfinder_node(node)
    refuse_step_loss(node, "a U-Net")
    return UNetContourBackbone(input_shape.channels, node.CHANNELS)
