"""Pictures of what a classifier answers to the first pictures of a set."""

from __future__ import annotations

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import Tensor, nn

from rpanoptic.pathfinder.pictures import cell_grid, predicted_samples
from rpanoptic.visualization.classification import draw_answer


def answer_grid(cfg: CfgNode, model: nn.Module, dataset_name: str, *, limit: int) -> np.ndarray:
    """Draw a set's first pictures as the model sees them, three a row, with its answers.

    Args:
        cfg: the config that built the model; ``RPANOPTIC.CLASSIFICATION`` and ``INPUT.FORMAT``
            say how pictures are cut.
        model: gives "classification", ``(K,)`` logits, and may give those of several readouts (see
            :class:`rpanoptic.evaluation.classification.ClassificationEvaluator`).
        dataset_name: a registered set of pictures with one label.
        limit: how many pictures at most.

    Returns:
        ``(H, W, 3)`` uint8, RGB; see :func:`rpanoptic.visualization.classification.draw_answer`.
    """
    classes = MetadataCatalog.get(dataset_name).classes
    cells = []
    for sample, output in predicted_samples(cfg, model, dataset_name, limit):
        image = sample["image"].permute(1, 2, 0).numpy()
        steps = output.get("readout_steps", (1,))
        answer = output["classification"]
        readouts = output.get("classification_steps", answer[None])
        cells.append(
            draw_answer(
                image[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else image,
                _probabilities(readouts),
                classes,
                sample["label"],
                answer=_probabilities(answer),
                steps=steps,
            )
        )
    return cell_grid(cells)


def _probabilities(logits: Tensor) -> np.ndarray:
    return logits.double().softmax(dim=-1).cpu().numpy()
