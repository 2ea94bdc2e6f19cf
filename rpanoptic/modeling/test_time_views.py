"""The views of a picture that test-time augmentation makes, and the way to and from each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.data import transforms as T
from detectron2.modeling import DatasetMapperTTA
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import Boxes
from fvcore.transforms import HFlipTransform
from torch import Tensor

from rpanoptic.errors import DatasetError


@dataclass(frozen=True)
class View:
    """A picture resized, and mirrored or not.

    Attributes:
        inputs: what a model takes: "image", ``(C, h, w)``, and the size of its output, which is
            that of the picture: "height" H and "width" W.
        mirrored: whether left and right are exchanged.
    """

    inputs: dict[str, Any]
    mirrored: bool

    @property
    def size(self) -> tuple[int, int]:
        """Height h and width w that the model sees."""
        height, width = self.inputs["image"].shape[-2:]
        return height, width

    @property
    def output_size(self) -> tuple[int, int]:
        """Height H and width W of the output."""
        return self.inputs["height"], self.inputs["width"]

    def semantic_scores(self, scores: Tensor) -> Tensor:
        """Bring ``(K, h', w')`` scores of the view, padded to the right and below or not, back.

        Returns:
            ``(K, H, W)``, resized as :func:`detectron2.modeling.postprocessing.sem_seg_postprocess`
            does, and unmirrored.
        """
        # The padding is on the right of what the model saw, so it goes before the mirroring does.
        return self.unmirrored(sem_seg_postprocess(scores, self.size, *self.output_size))

    def boxes_of_output(self, boxes: Boxes) -> Boxes:
        """Bring boxes of the view to the pixels of the output, unmirrored."""
        (height, width), (wanted_height, wanted_width) = self.size, self.output_size
        moved = boxes.clone()
        moved.scale(wanted_width / width, wanted_height / height)
        return self.unmirrored_boxes(moved)

    def boxes_of_view(self, boxes: Boxes) -> Boxes:
        """Bring boxes of the output to the pixels of the view, mirrored as it is."""
        (height, width), (given_height, given_width) = self.size, self.output_size
        moved = self.unmirrored_boxes(boxes)
        moved.scale(width / given_width, height / given_height)
        return moved

    def unmirrored_boxes(self, boxes: Boxes) -> Boxes:
        """A copy of boxes in pixels of the output, mirrored if the view is."""
        if not self.mirrored:
            return boxes.clone()
        x1, y1, x2, y2 = boxes.tensor.unbind(dim=1)
        width = self.output_size[1]
        return Boxes(torch.stack([width - x2, y1, width - x1, y2], dim=1))

    def unmirrored(self, maps: Tensor) -> Tensor:
        """``(..., H, W)`` of the view with left and right as in the picture."""
        return maps.flip(-1) if self.mirrored else maps


class Views:
    """Makes the views of pictures, one after the other: of each size, plain and mirrored.

    Args:
        min_sizes: lengths of the shorter side, in px; at least one.
        max_size: at most so long is the longer side, in px.
        flip: whether there is a mirrored view of each size.
    """

    def __init__(self, min_sizes: Sequence[int], max_size: int, *, flip: bool) -> None:
        self.max_size = max_size
        self._least = min(min_sizes)
        # A mapper makes all its views at once: one for each size holds fewer pictures at a time.
        self._mappers = [DatasetMapperTTA([size], max_size, flip) for size in min_sizes]

    def of(self, picture: dict[str, Any]) -> Iterator[View]:
        """Yield the views of a picture.

        Args:
            picture: as a dataset mapper gives it: "image", ``(C, H', W')``; where "height" and
                "width" are missing, the output is as large as the image. The rest is not read.

        Raises:
            DatasetError: the picture is so narrow that nothing is left of it at a size.
        """
        image = picture["image"].cpu()
        height, width = image.shape[-2:]
        if min(self.smallest(height, width)) < 1:
            name = picture.get("file_name", "a picture")
            raise DatasetError(
                f"{name}: {width} x {height} pixels are too narrow for TEST.AUG.MIN_SIZES: at most "
                f"{self.max_size} pixels long, no pixel is left of the shorter side."
            )
        given = {
            "image": image,
            "height": picture.get("height", height),
            "width": picture.get("width", width),
        }
        for mapper in self._mappers:
            for inputs in mapper(given):
                transforms = inputs.pop("transforms").transforms
                yield View(inputs, any(isinstance(one, HFlipTransform) for one in transforms))

    def smallest(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the smallest views of a picture of ``height`` and ``width`` px."""
        return T.ResizeShortestEdge.get_output_shape(height, width, self._least, self.max_size)
