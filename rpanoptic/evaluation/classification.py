"""How often a classifier of pictures is right, how sure it is, and how both grow with time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from rpanoptic.data.paths import write_atomically
from rpanoptic.errors import ConfigError, DatasetError, NonFiniteError
from rpanoptic.evaluation.samples import SampleEvaluator, Samples, sample_name
from rpanoptic.visualization.classification import draw_accuracy_over_steps
from rpanoptic.visualization.style import save_figure

#: Bins of equal width into which confidences are sorted for the calibration error.
CALIBRATION_BINS = 15
# Of a row, after the label: what is known of the answer, then of each readout.
_STEP, _RANK, _LOSS, _CONFIDENCE = range(4)
_WIDTH = 4
# The answer is read out at no single step.
_ANSWER = 0


class ClassificationEvaluator(SampleEvaluator):
    """Top-1 and top-5 accuracy, cross-entropy and calibration of pictures with one label.

    It reads ``outputs[i]["classification"]``, ``(K,)`` logits of the answer, and
    ``inputs[i]["label"]``, 0 to K - 1. Where an output also has ``"classification_steps"``,
    ``(R, K)`` logits of R > 1 readouts, and ``"readout_steps"``, the steps after which they were
    taken, accuracy is given for each of them too. Samples are told apart by
    ``inputs[i]["image_id"]``.

    The result is ``{"classification": {...}}``:

    * ``top1``, and ``top5`` where there are more than 5 classes: per cent of samples whose label is
      the class, or among the 5 classes, of the largest logits. Of equal logits the class of the
      smaller number counts as the larger, so that no order is left to chance;
    * ``loss``: mean cross-entropy, nats;
    * ``calibration_error``: per cent; the mean difference between confidence (the largest
      probability) and accuracy in 15 bins of equal width (the expected calibration error of Guo et
      al., ICML 2017);
    * ``top1_step_<k>``: ``top1`` of the readout after step k.

    All are NaN without any sample. The main process also writes into ``folder``
    ``<dataset>_classification.json``, the same figures with lists over the readouts, and, of
    several readouts, ``<dataset>_accuracy_over_steps.png``.

    Only the rank of the label, loss and confidence are kept of a readout, whatever K.

    Args:
        num_classes: K, of the dataset.
        dataset: its name, for messages and files.
        folder: where the files go, made if need be; None writes none.
    """

    def __init__(self, num_classes: int, *, dataset: str, folder: Path | None = None) -> None:
        self._num_classes = num_classes
        self._dataset = dataset
        self._folder = folder
        super().__init__()

    def reset(self) -> None:
        """Forget all samples; copies that were made before keep theirs."""
        super().reset()
        self._steps: tuple[int, ...] | None = None

    def process(self, inputs: Samples, outputs: Samples) -> None:
        """Judge a batch.

        Raises:
            ConfigError: logits are of another number of classes than the dataset, or the readouts
                of a picture are others than those of the pictures before.
            DatasetError: a label is out of range.
            NonFiniteError: logits are not finite.
        """
        if inputs:
            super().process(inputs, outputs)

    def _judged(self, inputs: Samples, outputs: Samples) -> Tensor:
        labels = torch.tensor([self._label(sample) for sample in inputs])
        pairs = zip(inputs, outputs, strict=True)
        logits = torch.stack([self._logits(sample, output) for sample, output in pairs]).double()
        assert self._steps is not None
        finite = logits.isfinite().flatten(1).all(dim=1).tolist()
        if not all(finite):
            name = sample_name(inputs[finite.index(False)])
            raise NonFiniteError(f"{self._dataset}: the logits of {name} are not finite.")
        rows = _rows(logits, labels.to(logits.device), (_ANSWER, *self._steps))
        return rows.cpu()

    def _label(self, sample: Mapping[str, Any]) -> int:
        label = int(sample["label"])
        if not 0 <= label < self._num_classes:
            raise DatasetError(
                f"{self._dataset}: the label of {sample_name(sample)} is {label}; with "
                f"{self._num_classes} classes it must be 0 to {self._num_classes - 1}."
            )
        return label

    def _logits(self, sample: Mapping[str, Any], output: Mapping[str, Any]) -> Tensor:
        """``(1 + R, K)``: of the answer, and of the readouts where there are several."""
        answer = output["classification"]
        steps = tuple(output.get("readout_steps", ()))
        several = len(steps) > 1
        found = {"classification": answer}
        wanted: dict[str, tuple[int, ...]] = {"classification": (self._num_classes,)}
        if several:
            found["classification_steps"] = output["classification_steps"]
            wanted["classification_steps"] = (len(steps), self._num_classes)
        for key, shape in wanted.items():
            if found[key].shape != shape:
                raise ConfigError(
                    f"{sample_name(sample)}: {key} is {tuple(found[key].shape)} in the prediction; "
                    f"expected {shape}: dataset {self._dataset} has {self._num_classes} classes, "
                    "and so must MODEL.CLASSIFIER.NUM_CLASSES."
                )
        if self._steps is None:
            self._steps = steps if several else ()
        if self._steps != (steps if several else ()):
            raise ConfigError(
                f"{sample_name(sample)}: read out after steps {list(steps)}, and the pictures "
                f"before it after {list(self._steps)}."
            )
        return torch.cat([answer[None], found["classification_steps"]]) if several else answer[None]

    def _same(self, row: Tensor, other: Tensor) -> bool:
        # Logits of a picture differ in their last digits with its batch.
        return bool(row[0] == other[0])

    def _figures(self, rows: Tensor) -> dict[str, dict[str, float]]:
        count, top5 = len(rows), self._num_classes > 5
        readouts = rows[:, 1:].reshape(count, -1, _WIDTH) if count else rows.new_empty(0, 1, _WIDTH)
        answer, *others = (_taken(readouts[:, place], top5) for place in range(readouts.shape[1]))
        steps = readouts[0, 1:, _STEP].int().tolist() if count else []
        if self._folder is not None:
            self._write(self._folder, count, answer, steps, others)
        over_steps = {
            f"top1_step_{step}": one["top1"] for step, one in zip(steps, others, strict=True)
        }
        return {"classification": answer | over_steps}

    def _write(
        self,
        folder: Path,
        count: int,
        answer: Mapping[str, float],
        steps: Sequence[int],
        readouts: Sequence[Mapping[str, float]],
    ) -> None:
        curves = {name: [one[name] for one in readouts] for name in answer} if readouts else {}
        name = self._dataset.replace("/", "_")
        text = {"dataset": self._dataset, "samples": count, "calibration_bins": CALIBRATION_BINS}
        text |= {name: value if count else None for name, value in answer.items()}
        text |= {"readout_steps": list(steps), "by_readout": curves}
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(text, indent=1) + "\n"
        write_atomically(folder / f"{name}_classification.json", content.encode())
        if readouts:
            shown = {"top-1": curves["top1"]}
            if "top5" in curves:
                shown["top-5"] = curves["top5"]
            figure = draw_accuracy_over_steps(steps, shown)
            save_figure(folder / f"{name}_accuracy_over_steps.png", figure)


def _rows(logits: Tensor, labels: Tensor, steps: Sequence[int]) -> Tensor:
    """``(N, 1 + 4 R)`` of ``(N, R, K)`` logits: the label, then step, rank, loss and confidence."""
    size = (len(logits), logits.shape[1])
    places = labels[:, None, None].expand(*size, 1)
    own = logits.gather(2, places)
    # How many classes come before the label. torch.topk leaves the order of equal logits open.
    smaller = torch.arange(logits.shape[2], device=logits.device) < places
    rank = ((logits > own) | ((logits == own) & smaller)).sum(dim=2)
    logarithms = logits.log_softmax(dim=2)
    loss = -logarithms.gather(2, places)[:, :, 0]
    # Probabilities may sum to a little more than 1.
    confidence = logarithms.amax(dim=2).exp().clamp(max=1)
    step = torch.tensor(steps, dtype=logits.dtype, device=logits.device).expand(size)
    readouts = torch.stack([step, rank.to(logits.dtype), loss, confidence], dim=2)
    return torch.cat([labels[:, None].to(logits.dtype), readouts.flatten(1)], dim=1)


def _taken(readout: Tensor, top5: bool) -> dict[str, float]:
    """The figures of ``(N, 4)`` step, rank, loss and confidence; NaN of none."""
    rank = readout[:, _RANK]
    hits = {"top1": rank < 1} | ({"top5": rank < 5} if top5 else {})
    # Torchmetrics' states of processes would count twice what a sampler gives twice, so it is given
    # the rows of the whole set. It reads of a prediction the largest probability and whether that
    # is the label's, which two columns say as well as K do.
    confidence = readout[:, _CONFIDENCE]
    error = float("nan")
    if len(readout):
        error = multiclass_calibration_error(
            torch.stack([confidence, torch.zeros_like(confidence)], dim=1),
            (rank >= 1).long(),
            num_classes=2,
            n_bins=CALIBRATION_BINS,
            norm="l1",
        ).item()
    return {
        # As tensors: 0/0 is NaN.
        **{name: (100 * hit.sum().double() / len(hit)).item() for name, hit in hits.items()},
        "loss": readout[:, _LOSS].mean().item(),
        "calibration_error": 100 * error,
    }
