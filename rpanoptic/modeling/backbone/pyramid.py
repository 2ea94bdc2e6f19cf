"""What Detectron2's pyramids, and ours, need of the backbone that they stand on."""

from __future__ import annotations

from itertools import pairwise

from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
from torch import nn

from rpanoptic.errors import ConfigError


def build_fpn_on(bottom_up: Backbone, cfg: CfgNode, top_block: nn.Module) -> FPN:
    """Put Detectron2's FPN, as ``MODEL.FPN`` describes it, on a backbone.

    Args:
        bottom_up: the backbone.
        cfg: the config.
        top_block: makes the levels above.

    Raises:
        ConfigError: the backbone lacks what the pyramid needs.
    """
    fpn = cfg.MODEL.FPN
    check_in_features(fpn.IN_FEATURES, bottom_up)
    return FPN(
        bottom_up=bottom_up,
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=top_block,
        fuse_type=fpn.FUSE_TYPE,
    )


def check_in_features(in_features: list[str], bottom_up: Backbone) -> None:
    """Check that a pyramid can stand on a backbone.

    Raises:
        ConfigError: a feature is not there, or is not twice as coarse as the one before it.
    """
    shapes = bottom_up.output_shape()
    absent = [name for name in in_features if name not in shapes]
    if absent or not in_features:
        raise ConfigError(
            f"MODEL.FPN.IN_FEATURES is {in_features}, but the backbone gives {list(shapes)} "
            "(MODEL.RESNETS.OUT_FEATURES for a ResNet)"
        )
    strides = [shapes[name].stride for name in in_features]
    if any(b != 2 * a for a, b in pairwise(strides)):
        raise ConfigError(
            f"MODEL.FPN.IN_FEATURES {in_features} have strides {strides}; each must be twice the "
            "one before it (for a ResNet MODEL.RESNETS.RES5_DILATION must be 1)"
        )


def last_level_p6p7(cfg: CfgNode, bottom_up: Backbone) -> LastLevelP6P7:
    """RetinaNet's levels p6 and p7 on the feature res5.

    Raises:
        ConfigError: the backbone does not give it.
    """
    shapes = bottom_up.output_shape()
    if "res5" not in shapes:
        raise ConfigError(
            f"the backbone's OUT_FEATURES is {list(shapes)}, but RetinaNet's p6 and p7 need res5"
        )
    return LastLevelP6P7(shapes["res5"].channels, cfg.MODEL.FPN.OUT_CHANNELS)
