"""The picture that a run ends with: input, ground truth and prediction side by side."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from torch import nn

from rpanoptic.engine.predictor import Predictor
from rpanoptic.pathfinder.imagenet.pictures import answer_grid
from rpanoptic.pathfinder.pictures import class_grid, contour_grid
from rpanoptic.visualization import draw_output, draw_record, picture_grid, save_png

logger = logging.getLogger(__name__)


def draw_predictions(cfg: CfgNode, model: nn.Module) -> Path | None:
    """Draw the first ``RPANOPTIC.PICTURES`` pictures of the first test set.

    Args:
        cfg: config of the run.
        model: the trained model, not wrapped for several processes.

    Returns:
        the file, ``OUTPUT_DIR/predictions.png``; None when no picture is asked for or there is
        no test set.
    """
    if not cfg.DATASETS.TEST or cfg.RPANOPTIC.PICTURES < 1:
        return None
    grid = dataset_grid(cfg, model, cfg.DATASETS.TEST[0], limit=cfg.RPANOPTIC.PICTURES)
    file = save_png(Path(cfg.OUTPUT_DIR) / "predictions.png", grid)
    logger.info("Wrote input, ground truth and prediction to %s", file)
    return file


def dataset_grid(cfg: CfgNode, model: nn.Module, dataset_name: str, *, limit: int) -> np.ndarray:
    """Draw input, ground truth and prediction of a dataset's first pictures.

    Args:
        cfg: the config that built the model.
        model: the model.
        dataset_name: a registered dataset; its ``evaluator_type`` says what is drawn.
        limit: how many pictures at most.

    Returns:
        ``(H, W, 3)`` uint8, RGB.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    return _GRIDS.get(kind, _segment_grid)(cfg, model, dataset_name, limit=limit)


def _segment_grid(cfg: CfgNode, model: nn.Module, dataset_name: str, *, limit: int) -> np.ndarray:
    metadata = MetadataCatalog.get(dataset_name)
    predict = Predictor(cfg, model)
    rows = []
    for record in DatasetCatalog.get(dataset_name)[:limit]:
        image = np.ascontiguousarray(read_image(record["file_name"], format="RGB"))
        truth = draw_record(image, record, metadata)
        rows.append([image, truth, draw_output(image, predict(image), metadata)])
    return picture_grid(rows, headings=["input", "ground truth", "prediction"])


# By evaluator_type; all others are drawn as segments.
_GRIDS: dict[str, Callable[..., np.ndarray]] = {
    "pathfinder_segmentation": contour_grid,
    "pathfinder_classification": class_grid,
    "image_classification": answer_grid,
}
