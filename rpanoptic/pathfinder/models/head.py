"""The readout of contours: norm, two logits a pixel, focal loss."""

from __future__ import annotations

import math
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from rpanoptic.errors import ConfigError
from rpanoptic.modeling.build import output_norm_of
from rpanoptic.pathfinder.models.settings import CONFIG_KEY, check_pathfinder_node

# Of batch norms, as in the paper's model.
EPS = 1e-3


@SEM_SEG_HEADS_REGISTRY.register()
class ContourHead(nn.Module):
    """Reads the contour out of a feature at full resolution (Linsley et al., NeurIPS 2020)::

        feature (N, C, H, W) -> norm -> 1 x 1 convolution -> logits (N, 2, H, W)

    Class 1 is the contour, class 0 all else. At first the bias of class 1 alone is
    ``-log((1 - p) / p)``, so that a pixel is foreground with a probability near p (the prior of
    Lin et al., ICCV 2017). In the released code it stands on both logits, where the softmax does
    not see it. ``MODEL.SEM_SEG_HEAD`` serves to choose this head and to say with IGNORE_VALUE
    which pixels do not count; its other keys have no meaning here.

    Args:
        input_shape: the only feature of the backbone by its name; its stride must be 1.
        output_norm: as :func:`detectron2.layers.get_norm` takes it; "" for none. Batch norms have
            running statistics, so that in evaluation a picture does not depend on its batch mates.
        foreground_prior: p, in (0, 1).
        gamma: exponent of :func:`focal_loss`.
        ignore_value: class of pixels that do not count.

    Raises:
        ConfigError: the backbone gives another feature than one of stride 1.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        output_norm: str = "BN",
        foreground_prior: float = 0.01,
        gamma: float = 2.0,
        ignore_value: int = 255,
    ) -> None:
        super().__init__()
        self.feature, channels = full_resolution_feature(input_shape, type(self).__name__)
        self.gamma = gamma
        self.ignore_value = ignore_value
        self.output_norm = contour_norm(output_norm, channels)
        self.predictor = nn.Conv2d(channels, 2, kernel_size=1)
        assert self.predictor.bias is not None
        nn.init.xavier_normal_(self.predictor.weight)
        with torch.no_grad():
            self.predictor.bias.copy_(
                torch.tensor([0.0, -math.log((1 - foreground_prior) / foreground_prior)])
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Map a config to constructor arguments.

        Raises:
            ConfigError: a key has an impossible value, or the backbone no fitting feature.
        """
        node = cfg.MODEL.PATHFINDER
        check_pathfinder_node(node)
        _, channels = full_resolution_feature(input_shape, cls.__name__)
        return {
            "input_shape": input_shape,
            "output_norm": output_norm_of(node, channels, key=CONFIG_KEY),
            "foreground_prior": node.FOREGROUND_PRIOR,
            "gamma": node.FOCAL_GAMMA,
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        }

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Compute the loss in training, the logits at inference.

        Args:
            features: with the feature, ``(N, C, H, W)``. In training it may hold the readouts of T
                steps, one batch after another: ``(T * N, C, H, W)``. They share the statistics of
                a batch norm, which thus is the same function at every step.
            targets: in training, classes of the pixels, ``(N, H, W)`` int64, 0 or 1.

        Returns:
            In training None and "loss_contour", summed over the steps; otherwise logits
            ``(N, 2, H, W)`` and no loss.

        Raises:
            ValueError: there are no targets in training.
        """
        logits = self.read_out(features[self.feature])
        if not self.training:
            return logits, {}
        if targets is None:
            raise ValueError("ContourHead needs the classes of the pixels in training")
        steps = len(logits) // max(len(targets), 1)
        # Every step has as many pixels that count: the mean over all is the mean over the steps.
        loss = focal_loss(
            logits,
            targets.repeat(steps, 1, 1),
            gamma=self.gamma,
            ignore_value=self.ignore_value,
        )
        return None, {"loss_contour": steps * loss}

    def read_out(self, feature: Tensor) -> Tensor:
        """Logits ``(N, 2, H, W)`` of a feature ``(N, C, H, W)``."""
        return self.predictor(self.output_norm(feature))


def focal_loss(
    logits: Tensor, targets: Tensor, *, gamma: float = 2.0, ignore_value: int = 255
) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017) of a softmax: mean over pixels of ``(1 - p)^gamma * CE``.

    p is the probability of a pixel's true class and CE its cross-entropy ``-log p``. As in the
    released C-RBP code the modulating factor is a weight: no gradient goes through it, other than
    in :func:`fvcore.nn.sigmoid_focal_loss`, which gives the same values.

    Args:
        logits: ``(N, K, H, W)``; half-precision ones are taken to float32.
        targets: ``(N, H, W)`` int64.
        gamma: 0 gives the cross-entropy.
        ignore_value: pixels of this class do not count.

    Returns:
        a scalar; 0 where no pixel counts.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    entropy = F.cross_entropy(logits, targets, reduction="none", ignore_index=ignore_value)
    # 1 - exp(-x) would be rounded to nothing where p is near 1.
    weight = (-torch.expm1(-entropy.detach())) ** gamma
    return (weight * entropy).sum() / (targets != ignore_value).sum().clamp(min=1)


def full_resolution_feature(input_shape: dict[str, ShapeSpec], part: str) -> tuple[str, int]:
    """Name and channels of a backbone's only feature, of stride 1.

    Args:
        input_shape: the features by name.
        part: what reads it out, for the message.

    Raises:
        ConfigError: there are several, or another stride.
    """
    strides = {name: shape.stride for name, shape in input_shape.items()}
    if list(strides.values()) != [1]:
        raise ConfigError(
            f"{part} reads one feature of stride 1 out, as the backbones of Pathfinder give it; "
            f"MODEL.BACKBONE.NAME gives features of strides {strides}"
        )
    (name,) = strides
    return name, input_shape[name].channels


def contour_norm(name: str, channels: int) -> nn.Module:
    """The norm before a readout, as :func:`detectron2.layers.get_norm` makes it."""
    norm = get_norm(name, channels) or nn.Identity()
    if isinstance(norm, _BatchNorm):
        norm.eps = EPS
    return norm
