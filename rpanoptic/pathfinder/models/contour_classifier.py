"""Pathfinder as classification: are the two markers on one contour?"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.nn import functional as F

from rpanoptic.errors import DatasetError
from rpanoptic.modeling import RecurrentModel
from rpanoptic.modeling.build import output_norm_of
from rpanoptic.pathfinder.models.head import contour_norm, full_resolution_feature
from rpanoptic.pathfinder.models.settings import (
    CONFIG_KEY,
    check_pathfinder_node,
    refuse_step_loss,
)


class _Classifier(nn.Module):
    """The classifier itself, to which :class:`ContourClassifier` adds what recurrence needs."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        output_norm: str = "BN",
        pixel_mean: list[float],
        pixel_std: list[float],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.feature, channels = full_resolution_feature(
            backbone.output_shape(), type(self).__name__
        )
        self.output_norm = contour_norm(output_norm, channels)
        self.maps = nn.Conv2d(channels, 2, kernel_size=1)
        self.predictor = nn.Linear(2, 2)
        assert self.maps.bias is not None
        nn.init.xavier_normal_(self.maps.weight)
        nn.init.zeros_(self.maps.bias)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Map a config to constructor arguments.

        Raises:
            ConfigError: a key has an impossible value, or the backbone no fitting feature.
        """
        node = cfg.MODEL.PATHFINDER
        check_pathfinder_node(node)
        refuse_step_loss(node, cls.__name__)
        backbone = build_backbone(cfg)
        _, channels = full_resolution_feature(backbone.output_shape(), cls.__name__)
        return {
            "backbone": backbone,
            "output_norm": output_norm_of(node, channels, key=CONFIG_KEY),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        images = [
            (x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs
        ]
        sizes = {tuple(image.shape[1:]) for image in images}
        if len(sizes) > 1:
            # What pads the smaller ones would have a part in the maximum.
            raise DatasetError(f"pictures of a batch must have one size; got {sorted(sizes)}")
        batch = ImageList.from_tensors(images, self.backbone.size_divisibility)
        logits = self.classify(self.backbone(batch.tensor)[self.feature])
        if self.training:
            labels = torch.tensor([int(x["label"]) for x in batched_inputs], device=self.device)
            return {"loss_classification": F.cross_entropy(logits, labels)}
        return [{"classification": row} for row in logits]

    def classify(self, feature: Tensor) -> Tensor:
        """Logits ``(N, 2)`` of a feature ``(N, C, H, W)``."""
        return self.predictor(self.maps(self.output_norm(feature)).amax(dim=(2, 3)))


@META_ARCH_REGISTRY.register()
class ContourClassifier(RecurrentModel, _Classifier):
    """Says whether the two markers of a picture are on one contour::

        feature (N, C, H, W) -> norm -> 1 x 1 convolution to 2 maps -> maximum of each -> linear
        -> logits (N, 2)

    In training it takes "label", 0 or 1, with each picture, and gives "loss_classification", the
    cross-entropy, beside the penalties of its recurrent parts. Otherwise its output for a picture
    is "classification", logits ``(2,)``. For the steps see :class:`RecurrentModel`. The pictures of
    a batch must have one size.

    Args:
        backbone: with one feature of stride 1.
        output_norm: as :class:`ContourHead` takes it.
        pixel_mean, pixel_std: of each channel of the pictures.

    Raises:
        ConfigError: the backbone gives another feature than one of stride 1.
    """

    ground_truth = ("label",)
    #: See :func:`rpanoptic.modeling.outputs.outputs_of`.
    outputs: ClassVar[frozenset[str]] = frozenset({"classification"})
