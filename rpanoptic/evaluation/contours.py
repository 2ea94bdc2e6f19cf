"""Figures of the two forms of Pathfinder: contours that are traced, dots that are on one contour.

As Linsley et al. (NeurIPS 2020) judge them: the foreground is the class that counts, and figures
are taken for each batch and averaged. Figures of the whole set, which depend on no batches, stand
beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from rpanoptic.errors import ConfigError
from rpanoptic.evaluation.samples import SampleEvaluator, Samples, sample_name


class ContourEvaluator(SampleEvaluator):
    """Foreground F1, IoU, precision, recall and balanced accuracy of traced contours.

    It reads ``outputs[i]["sem_seg"]``, ``(2, H, W)`` scores of background and foreground (a tie is
    background), and ``inputs[i]["sem_seg"]``, ``(H, W)``: 1 is foreground, 0 background, and pixels
    of other values count nowhere. Samples are told apart by ``inputs[i]["image_id"]``.

    Its result, ``{"contour": {...}}``, holds all in per cent: ``F1``, ``IoU``, ``precision``,
    ``recall`` and ``balanced_accuracy`` (the mean of the recalls of foreground and background) over
    all pixels of the set; and the same with ``batch_`` before the name, the paper's way: the mean
    of what consecutive batches of the set give, each over its pixels. A batch's IoU is F1/(2 - F1)
    of its F1. What is 0/0 is NaN: all but balanced accuracy where neither ground truth nor
    prediction has any foreground; precision where nothing is predicted; recall where there is
    nothing to find; balanced accuracy where foreground or background is absent. Such batches are
    left out of a mean.

    Args:
        batch_size: samples of a batch of the mean, in the order of the set, whatever batches the
            model runs; the last may be smaller. The paper's is 128.

    Raises:
        ValueError: the batch size is below 1.
    """

    def __init__(self, *, batch_size: int = 128) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._batch_size = batch_size
        super().__init__()

    def _judged(self, inputs: Samples, outputs: Samples) -> Tensor:
        pairs = []
        for sample, output in zip(inputs, outputs, strict=True):
            truth, scores = sample["sem_seg"], output["sem_seg"]
            if scores.shape != (2, *truth.shape):
                raise ConfigError(
                    f"{sample_name(sample)}: sem_seg is {tuple(scores.shape)} in the prediction; "
                    f"the ground truth is {tuple(truth.shape)}, which asks for "
                    f"{(2, *truth.shape)}: background and foreground."
                )
            pairs.append((truth, scores))
        # Pictures of one size are counted together: on a GPU their number costs, not their size.
        counts = [
            _counts(torch.stack([truth for truth, _ in group]), torch.stack([s for _, s in group]))
            for group in (list(run) for _, run in groupby(pairs, lambda pair: pair[0].shape))
        ]
        return torch.cat(counts)

    def _figures(self, rows: Tensor) -> dict[str, dict[str, float]]:
        counts = rows.numpy().astype(np.int64).reshape(-1, 4)
        starts = range(0, len(counts), self._batch_size)
        batches = [figures(counts[s : s + self._batch_size].sum(axis=0)) for s in starts]
        whole = figures(counts.sum(axis=0))
        return {"contour": whole | {f"batch_{key}": _mean(batches, key) for key in whole}}


class ContourClassificationEvaluator(SampleEvaluator):
    """The share of samples whose class is right.

    It reads ``outputs[i]["classification"]``, ``(2,)`` scores of "two contours" and "one contour"
    (a tie is "two contours"), and ``inputs[i]["label"]``, 0 or 1. Samples are told apart by
    ``inputs[i]["image_id"]``.

    Its result is ``{"classification": {"accuracy": per cent}}``; NaN without any sample.
    """

    def _judged(self, inputs: Samples, outputs: Samples) -> Tensor:
        labels, scores = [], []
        for sample, output in zip(inputs, outputs, strict=True):
            labels.append(int(sample["label"]))
            scores.append(output["classification"])
            if scores[-1].shape != (2,):
                raise ConfigError(
                    f"{sample_name(sample)}: classification is {tuple(scores[-1].shape)} in the "
                    "prediction; expected (2,)."
                )
        stacked = torch.stack(scores)
        right = (stacked[:, 1] > stacked[:, 0]) == torch.tensor(
            labels, device=stacked.device
        ).bool()
        return right.long()[:, None]

    def _figures(self, rows: Tensor) -> dict[str, dict[str, float]]:
        return {"classification": {"accuracy": _percent(int(rows.sum()), len(rows))}}


def figures(counts: Sequence[int]) -> dict[str, float]:
    """The figures of pixels, in per cent; NaN for 0/0.

    Args:
        counts: how many are true positive, false positive, false negative and true negative.

    Returns:
        "F1", "IoU", "precision", "recall" and "balanced_accuracy".
    """
    tp, fp, fn, tn = map(int, counts)
    recall = _percent(tp, tp + fn)
    return {
        "F1": _percent(2 * tp, 2 * tp + fp + fn),
        # F1/(2 - F1).
        "IoU": _percent(tp, tp + fp + fn),
        "precision": _percent(tp, tp + fp),
        "recall": recall,
        "balanced_accuracy": (recall + _percent(tn, tn + fp)) / 2,
    }


def _counts(truth: Tensor, scores: Tensor) -> Tensor:
    """``(N, 4)`` true and false positives, false and true negatives of ``(N, 2, H, W)`` scores."""
    foreground, background = ((truth == value).to(scores.device) for value in (1, 0))
    predicted = scores[:, 1] > scores[:, 0]
    masks = (
        predicted & foreground,
        predicted & background,
        ~predicted & foreground,
        ~predicted & background,
    )
    return torch.stack([mask.sum(dim=(1, 2)) for mask in masks], dim=1)


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else float("nan")


def _mean(batches: Sequence[Mapping[str, float]], key: str) -> float:
    values = [batch[key] for batch in batches if not np.isnan(batch[key])]
    return float(np.mean(values)) if values else float("nan")
