"""The feed-forward baseline of the Pathfinder experiments as a Detectron2 backbone."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from rpanoptic.pathfinder.models.recurrent import FEATURE
from rpanoptic.pathfinder.models.settings import check_pathfinder_node, refuse_step_loss
from rpanoptic.recurrent.convolution import Convolution


class FeedForwardContourBackbone(Backbone):
    """As many layers as a recurrent model has steps, each with weights of its own::

        picture (N, C_in, H, W) -> conv, BN -> layers of [conv, BN, ReLU] -> "contour" (N, C, H, W)

    With 25 channels, a first layer of 7 x 7 and six of 15 x 15 it is FF-6 of Linsley et al.
    (NeurIPS 2020): 845,527 parameters with two logits behind it and no further norm, which is
    ``MODEL.PATHFINDER.OUTPUT_NORM: ""``. Its norms are batch norms: in training their statistics
    are those of the batch.

    Args:
        in_channels: channels of the picture.
        channels: C.
        layers: layers after the first.
        stem_size: side of the first layer's kernels in pixels, odd.
        kernel_size: side of the others', odd.

    Raises:
        ValueError: an even kernel.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        layers: int = 6,
        stem_size: int = 7,
        kernel_size: int = 15,
    ) -> None:
        super().__init__()
        parts: list[nn.Module] = [
            Convolution(in_channels, channels, stem_size),
            nn.BatchNorm2d(channels),
        ]
        for _ in range(layers):
            parts += [
                Convolution(channels, channels, kernel_size, bias=True),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*parts)
        self._out_features = [FEATURE]
        self._out_feature_channels = {FEATURE: channels}
        self._out_feature_strides = {FEATURE: 1}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """ "contour", ``(N, C, H, W)``, of pictures ``(N, C_in, H, W)``."""
        return {FEATURE: self.layers(image)}


@BACKBONE_REGISTRY.register()
def build_pathfinder_feedforward_backbone(
    cfg: CfgNode, input_shape: ShapeSpec
) -> FeedForwardContourBackbone:
    """The feed-forward model that ``MODEL.PATHFINDER`` describes.

    Raises:
        ConfigError: a key has an impossible value, or STEP_LOSS is set.
    """
    node = cfg.MODEL.PATHFINDER
    check_pathfinder_node(node)
    refuse_step_loss(node, "a feed-forward network")
    return FeedForwardContourBackbone(
        input_shape.channels,
        node.CHANNELS,
        layers=node.LAYERS,
        stem_size=node.STEM_SIZE,
        kernel_size=node.KERNEL_SIZE,
    )
