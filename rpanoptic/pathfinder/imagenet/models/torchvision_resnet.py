"""torchvision's residual networks as Detectron2 backbones: references for other classifiers."""

from __future__ import annotations

import torchvision
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor
from torchvision.models.feature_extraction import create_feature_extractor

from rpanoptic.errors import naming
from rpanoptic.recurrent.checks import check_choice

#: The networks that MODEL.CLASSIFIER.TORCHVISION may name: those with four stages of a ResNet.
NETWORKS = tuple(
    torchvision.models.list_models(module=torchvision.models, include=["*resnet*", "*resnext*"])
)


class TorchvisionResNet(Backbone):
    """A residual network of torchvision without its classifier, from random weights.

    Its features are "res2" to "res5", ``(N, C, H / stride, W / stride)``, rounded up, of strides 4
    to 32: the outputs of torchvision's ``layer1`` to ``layer4``. Names of its parameters are
    torchvision's below ``body``.

    With the linear predictor of 1000 classes "resnet18" has torchvision's 11,689,512 parameters and
    "resnet34" its 21,797,672. Their norms are batch norms: in training their statistics are those
    of the batch.

    Args:
        name: one of :data:`NETWORKS`, such as "resnet18".

    Raises:
        ValueError: another name; the known ones are listed.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        check_choice("network", name, NETWORKS)
        network = torchvision.models.get_model(name, weights=None)
        expansion = network.layer1[0].expansion
        layers = {f"layer{n - 1}": f"res{n}" for n in range(2, 6)}
        self.body = create_feature_extractor(network, layers)
        self._out_features = [*layers.values()]
        self._out_feature_strides = {f"res{n}": 2**n for n in range(2, 6)}
        self._out_feature_channels = {f"res{n}": 2 ** (n + 4) * expansion for n in range(2, 6)}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """The features by name of pictures ``(N, 3, H, W)``, normalised."""
        features: dict[str, Tensor] = self.body(image)
        return features


@BACKBONE_REGISTRY.register()
def build_torchvision_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TorchvisionResNet:
    """The network that ``MODEL.CLASSIFIER.TORCHVISION`` names.

    Raises:
        ConfigError: an unknown name, or pictures of another number of channels than three.
    """
    with naming("MODEL.CLASSIFIER.TORCHVISION"):
        if input_shape.channels != 3:
            raise ValueError(
                "torchvision's networks take pictures of three channels; MODEL.PIXEL_MEAN has "
                f"{input_shape.channels}"
            )
        return TorchvisionResNet(cfg.MODEL.CLASSIFIER.TORCHVISION)
