"""Random pictures with ground truth, and regions whose number does not follow from the picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor, nn

from rpanoptic.evaluation.computed_once import replaced

# Objects of a random picture: one in each quarter.
OBJECTS = 4
# Side of a proposal on the background, as a share of the picture's: it overlaps with none.
_BACKGROUND_SIDE = 1 / 64


def picture_size(cfg: CfgNode) -> tuple[int, int]:
    """Height and width of the largest picture at test time, in pixels."""
    least = cfg.INPUT.MIN_SIZE_TEST
    return least, max(least, cfg.INPUT.MAX_SIZE_TEST)


def random_batch(cfg: CfgNode, size: tuple[int, int], count: int = 1) -> list[dict[str, Any]]:
    """Pictures of noise with ground truth for every kind of model, the same at each call.

    Args:
        cfg: config of the model; gives the number of semantic classes.
        size: height and width in pixels, at least 32 each.
        count: how many.
    """
    height, width = size
    generator = torch.Generator().manual_seed(0)
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    batch = []
    for _ in range(count):
        truth = Instances(size)
        truth.gt_boxes = Boxes(_objects(size))
        truth.gt_classes = torch.zeros(OBJECTS, dtype=torch.int64)
        masks = torch.zeros(OBJECTS, height, width, dtype=torch.bool)
        for mask, box in zip(masks, truth.gt_boxes.tensor.int().tolist(), strict=True):
            mask[box[1] : box[3], box[0] : box[2]] = True
        truth.gt_masks = BitMasks(masks)
        batch.append(
            {
                "image": torch.rand(3, height, width, generator=generator) * 255,
                "height": height,
                "width": width,
                "instances": truth,
                "sem_seg": torch.randint(classes, (height, width), generator=generator),
            }
        )
    return batch


@contextmanager
def fixed_regions(model: nn.Module, *, proposals: int, detections: int) -> Iterator[None]:
    """Meanwhile, let each picture have so many regions, whatever the weights say.

    At inference it has ``proposals`` proposals and ``detections`` detections. In training it has
    ``proposals`` on objects of :func:`random_batch` and as many on its background, so that the
    heads draw their full share of either. The network that proposes runs all the same. Parts that
    a model lacks are left out; a cascade of box heads keeps its own number of detections.

    Args:
        model: a detector.
        proposals: a picture, at least 1.
        detections: a picture.
    """
    # Any: a detector's parts are not declared on nn.Module.
    proposing: Any = getattr(model, "proposal_generator", None)
    predictor: Any = getattr(getattr(model, "roi_heads", None), "box_predictor", None)

    def propose(
        anchors: Any, logits: list[Tensor], deltas: list[Tensor], sizes: Any
    ) -> list[Instances]:
        found = []
        nothing = _nothing(*logits, *deltas)
        for size in sizes:
            boxes = _many(_objects(size), proposals)
            if proposing.training:
                boxes = torch.cat([boxes, _many(_background(size), proposals)])
            one = Instances(size)
            one.proposal_boxes = Boxes(boxes.to(nothing.device) + nothing)
            one.objectness_logits = nothing.expand(len(boxes))
            found.append(one)
        return found

    def detect(predictions: Sequence[Tensor], given: list[Instances]) -> Any:
        found = []
        nothing = _nothing(*predictions)
        for picture in given:
            one = Instances(picture.image_size)
            boxes = _many(_objects(picture.image_size), detections)
            one.pred_boxes = Boxes(boxes.to(nothing.device) + nothing)
            one.scores = nothing.expand(detections) + 1
            one.pred_classes = torch.zeros(detections, dtype=torch.int64, device=nothing.device)
            found.append(one)
        return found, [torch.arange(detections) for _ in found]

    with ExitStack() as stack:
        if hasattr(proposing, "predict_proposals"):
            stack.enter_context(replaced(proposing, "predict_proposals", propose))
        if hasattr(predictor, "inference"):
            stack.enter_context(replaced(predictor, "inference", detect))
        yield


def _nothing(*tensors: Tensor) -> Tensor:
    """Zero, without gradient, on which a trace lets the tensors act: else it would drop them."""
    return sum((torch.zeros_like(t).sum() for t in tensors), torch.zeros_like(tensors[0].sum()))


def _objects(size: tuple[int, int]) -> Tensor:
    height, width = (float(side) for side in size)
    quarter = torch.tensor([width / 16, height / 16, width * 7 / 16, height * 7 / 16])
    shifts = [[x, y, x, y] for y in (0.0, height / 2) for x in (0.0, width / 2)]
    return (quarter + torch.tensor(shifts)).round()


def _background(size: tuple[int, int]) -> Tensor:
    height, width = size
    return torch.tensor([[0.0, 0.0, width * _BACKGROUND_SIDE, height * _BACKGROUND_SIDE]])


def _many(boxes: Tensor, count: int) -> Tensor:
    return boxes.repeat(math.ceil(count / len(boxes)), 1)[:count]
