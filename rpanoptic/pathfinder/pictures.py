"""Pictures of what a model makes of a Pathfinder set: contours in colour, classes in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_context
from torch import nn

from rpanoptic.data import build_mapper
from rpanoptic.data.unusable import Unusable
from rpanoptic.visualization.contours import draw_contour, draw_prediction
from rpanoptic.visualization.grid import picture_grid

_CELL_WIDTH = 440
_COLUMNS = 3
# By label.
_CLASSES = ("two contours", "one contour")


def contour_grid(cfg: CfgNode, model: nn.Module, dataset_name: str, *, limit: int) -> np.ndarray:
    """Draw input, true contour and predicted contour of a set's first pictures, a row each.

    The colours of a prediction are those of
    :func:`rpanoptic.visualization.contours.draw_prediction`: sky-blue where it is right, orange
    where it is wrong, yellow where the contour was missed.

    Args:
        cfg: the config that built the model; pictures are resized as ``INPUT`` has it.
        model: gives "sem_seg", ``(2, H, W)`` scores of background and contour.
        dataset_name: a registered set of the segmentation form.
        limit: how many pictures at most.

    Returns:
        ``(H, W, 3)`` uint8, RGB.
    """
    rows = []
    for sample, output in predicted_samples(cfg, model, dataset_name, limit):
        image, truth = _grey(sample), sample["sem_seg"].numpy()
        background, contour = output["sem_seg"].float().cpu().numpy()
        pictures = (
            cv2.cvtColor(image, cv2.COLOR_GRAY2RGB),
            draw_contour(image, truth),
            draw_prediction(image, truth, contour > background),
        )
        rows.append([_enlarged(picture) for picture in pictures])
    headings = ["input", "ground truth", "found blue, false orange, missed yellow"]
    return picture_grid(rows, headings=headings, cell_width=_CELL_WIDTH)


def class_grid(cfg: CfgNode, model: nn.Module, dataset_name: str, *, limit: int) -> np.ndarray:
    """Draw a set's first pictures, three a row, with the true class and the predicted one above.

    Args:
        cfg: as for :func:`contour_grid`.
        model: gives "classification", ``(2,)`` logits of two contours and of one.
        dataset_name: a registered set of the classification form.
        limit: how many pictures at most.

    Returns:
        ``(H, W, 3)`` uint8, RGB.
    """
    cells = []
    for sample, output in predicted_samples(cfg, model, dataset_name, limit):
        probability = output["classification"].float().cpu().softmax(dim=0)
        found = int(probability[1] > probability[0])
        text = f"{_CLASSES[sample['label']]}; found {_CLASSES[found]} {probability[found]:.0%}"
        picture = _enlarged(cv2.cvtColor(_grey(sample), cv2.COLOR_GRAY2RGB))
        cells.append(picture_grid([[picture]], headings=[text], cell_width=_CELL_WIDTH))
    return cell_grid(cells)


def cell_grid(cells: Sequence[np.ndarray]) -> np.ndarray:
    """Put pictures of one size into rows of three.

    Args:
        cells: at least one, RGB uint8.

    Returns:
        ``(H, W, 3)`` uint8, RGB.
    """
    columns = min(_COLUMNS, len(cells))
    filled = [*cells, *[np.full_like(cells[0], 255)] * (-len(cells) % columns)]
    rows = [filled[start : start + columns] for start in range(0, len(filled), columns)]
    return picture_grid(rows, cell_width=cells[0].shape[1])


def predicted_samples(
    cfg: CfgNode, model: nn.Module, dataset_name: str, limit: int
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Inputs and outputs of a set's first pictures, without those that cannot be used."""
    mapper: Callable[..., Any] = build_mapper(cfg, [dataset_name], is_train=False)
    for record in islice(DatasetCatalog.get(dataset_name), limit):
        sample = mapper(record)
        if isinstance(sample, Unusable):
            continue
        with inference_context(model), torch.no_grad():
            (output,) = model([sample])
        yield sample, output


def _grey(sample: dict[str, Any]) -> np.ndarray:
    return sample["image"][0].numpy().round().clip(0, 255).astype(np.uint8)


def _enlarged(picture: np.ndarray) -> np.ndarray:
    """A small picture with whole pixels: smoothed, it would seem to be finer than it is."""
    factor = math.ceil(_CELL_WIDTH / picture.shape[1])
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)
