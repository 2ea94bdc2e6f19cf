"""Models of Detectron2's kinds that look at single pixels, so that their answers are known."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling.meta_arch import PanopticFPN, RetinaNet, SemanticSegmentor
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.ops import roi_align

_BRIGHT = 200
_MASK_SIDE = 60
_PIXELS: dict[str, Any] = {"pixel_mean": (0.0, 0.0, 0.0), "pixel_std": (1.0, 1.0, 1.0)}


def pixel_segmentor() -> SemanticSegmentor:
    """Its logits of three classes are the pixels."""
    return SemanticSegmentor(backbone=_Pixels(), sem_seg_head=_AsTheyAre(), **_PIXELS).eval()


def pixel_panoptic(side: str = "both") -> Any:
    """Its logits are the pixels, its one thing is what is bright in the first channel.

    Args:
        side: "right": it is the surer of a thing, the farther on the right that is, and finds none
            on the left third. "both": it is sure of all.
    """
    return PanopticFPN(
        backbone=_Pixels(),
        proposal_generator=_NoProposals(),
        roi_heads=_BrightThings(side),
        sem_seg_head=_AsTheyAre(),
        input_format="BGR",
        **_PIXELS,
    ).eval()


def pixel_retinanet(side: str = "both") -> Any:
    """Finds what :func:`pixel_panoptic` finds, without masks."""
    return _PixelRetinaNet(side).eval()


class _Pixels(nn.Module):
    size_divisibility = 32

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"pixels": images}


class _AsTheyAre(nn.Module):
    def forward(self, features: dict[str, Tensor], targets: Any) -> tuple[Tensor, dict[str, Any]]:
        return features["pixels"], {}


class _NoProposals(nn.Module):
    def forward(self, *given: Any) -> tuple[None, dict[str, Any]]:
        return None, {}


class _BrightThings(nn.Module):
    def __init__(self, side: str) -> None:
        super().__init__()
        self.mask_on = True
        self._side = side

    def forward(self, images: Any, features: dict[str, Tensor], *given: Any) -> Any:
        found = [
            _bright(pixels, size, self._side)
            for pixels, size in zip(features["pixels"], images.image_sizes, strict=True)
        ]
        return self.forward_with_given_boxes(features, found), {}

    def forward_with_given_boxes(
        self, features: dict[str, Tensor], found: list[Instances]
    ) -> list[Instances]:
        if self.mask_on:
            bright = (features["pixels"][:, :1] > _BRIGHT).float()
            boxes = [one.pred_boxes.tensor for one in found]
            masks = roi_align(bright, boxes, _MASK_SIDE, sampling_ratio=1, aligned=True)
            parts = masks.split([len(one) for one in found])
            for one, part in zip(found, parts, strict=True):
                one.pred_masks = part
        return found


class _PixelRetinaNet(RetinaNet):
    def __init__(self, side: str) -> None:
        nn.Module.__init__(self)
        self._side = side

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        outputs = []
        for one in batched_inputs:
            image = one["image"]
            found = _bright(image, (image.shape[1], image.shape[2]), self._side)
            outputs.append({"instances": detector_postprocess(found, one["height"], one["width"])})
        return outputs


def _bright(pixels: Tensor, size: tuple[int, int], side: str) -> Instances:
    """The box of the bright pixels, if there are any."""
    rows, columns = (pixels[0] > _BRIGHT).nonzero(as_tuple=True)
    x1, x2 = int(columns.min()), int(columns.max()) + 1
    y1, y2 = int(rows.min()), int(rows.max()) + 1
    score = (x1 + x2) / 2 / size[1] if side == "right" else 1.0
    found = Instances(size)
    found.pred_boxes = Boxes(torch.tensor([[x1, y1, x2, y2]], dtype=torch.float32))
    found.scores = torch.tensor([score])
    found.pred_classes = torch.zeros(1, dtype=torch.int64)
    return found[found.scores > 1 / 3]
