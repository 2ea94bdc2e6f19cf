"""A strip of what a recurrent mask head sees after 1, 2, ... steps."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances

from rpanoptic.visualization.grid import picture_grid
from rpanoptic.visualization.panoptic import draw_instances

# The numbers of steps that a strip shows unless others are asked for.
STEPS = (1, 2, 5, 10, 20)


def draw_steps(
    image: np.ndarray,
    masks: Mapping[int, Instances],
    metadata: Metadata,
    *,
    cell_width: int = 440,
) -> np.ndarray:
    """Draw the masks of the same detections after different numbers of steps, side by side.

    The picture itself is shown in grey.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        masks: number of steps -> detections with "pred_classes", "scores" and boolean
            "pred_masks" ``(N, H, W)``, as :meth:`rpanoptic.engine.Predictor.masks_by_step` makes
            them.
        metadata: class names and colours.
        cell_width: width of one picture in the strip, pixels.

    Returns:
        ``(H, W, 3)`` uint8, RGB; a heading over each picture.
    """
    headings = ["1 step" if count == 1 else f"{count} steps" for count in masks]
    # On grey the masks alone carry colour, so that small changes between steps are seen.
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    pictures = [draw_instances(grey, instances, metadata) for instances in masks.values()]
    return picture_grid([pictures], headings=headings, cell_width=cell_width)
