"""The results of one model on a dataset after several numbers of steps."""

from __future__ import annotations

import contextlib
import copy
import io
import math
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluators, inference_context
from detectron2.evaluation.testing import flatten_results_dict
from torch import nn
from tqdm import tqdm

from rpanoptic.benchmarks.problem import seconds
from rpanoptic.data import build_test_loader
from rpanoptic.evaluation.build import build_evaluators
from rpanoptic.evaluation.computed_once import outputs_by_step
from rpanoptic.modeling.test_time_augmentation import with_test_time_augmentation
from rpanoptic.recurrent.blocks import recurrent_blocks, steps_at_test


@dataclass(frozen=True)
class StepResult:
    """What a model gives after a number of steps.

    Attributes:
        steps: of its recurrent blocks; None for a model without any.
        metrics: by name, such as "panoptic_seg/PQ", in the units of the evaluators (per cent);
            those of single classes are left out, and what is not a number is.
        seconds: median time of the whole model on one picture, at this number of steps and by
            itself; None if it was not measured.
        pictures: how many were evaluated.
    """

    steps: int | None
    metrics: dict[str, float]
    seconds: float | None
    pictures: int


def evaluate_steps(
    cfg: CfgNode,
    model: nn.Module,
    dataset: str,
    steps: Sequence[int],
    *,
    timed_pictures: int = 5,
) -> Iterator[StepResult]:
    """Evaluate a model after each number of steps, in one pass over a dataset.

    The metrics equal those of as many separate evaluations (see
    :func:`rpanoptic.evaluation.computed_once.outputs_by_step`). Predictions of all numbers of
    steps are kept until they are judged. Times are not those of this pass: they are measured
    before it, on whole runs of the model.

    With ``TEST.AUG.ENABLED`` all this is of the augmented model, and nothing is computed once for
    several numbers of steps.

    Args:
        cfg: config of the model.
        model: the model.
        dataset: a registered dataset; its type chooses the evaluators.
        steps: of all recurrent blocks, at least as many as each needs. A model without any is
            evaluated once.
        timed_pictures: on how many pictures the time is measured; 0 measures none.

    Yields:
        results in ascending order of the steps, each as soon as it is judged.
    """
    loader = build_test_loader(cfg, dataset)
    model = with_test_time_augmentation(cfg, model)
    wanted: list[int | None] = [None]
    if recurrent_blocks(model):
        wanted = [*sorted(set(steps))]
    with inference_context(model), tempfile.TemporaryDirectory() as folder:
        timed = list(islice(_one_by_one(loader), timed_pictures))
        times = _times(model, timed, wanted, cfg.MODEL.DEVICE)
        judges = dict(zip(wanted, _evaluators(cfg, dataset, folder, len(wanted)), strict=True))
        pictures = 0
        # None: no bar where nobody watches.
        for inputs in tqdm(loader, unit="batch", disable=None):
            pictures += len(inputs)
            for count, outputs in _outputs(model, inputs, wanted):
                judges[count].process(inputs, outputs)
        for count, judge in judges.items():
            with contextlib.redirect_stdout(io.StringIO()):
                results = judge.evaluate() or {}
            yield StepResult(count, _overall(results), times.get(count), pictures)


def _one_by_one(loader: Iterable[list[Any]]) -> Iterator[list[Any]]:
    return ([picture] for batch in loader for picture in batch)


def _outputs(
    model: nn.Module, inputs: list[dict[str, Any]], wanted: Sequence[int | None]
) -> Iterator[tuple[int | None, Any]]:
    numbers = [count for count in wanted if count is not None]
    if numbers:
        yield from outputs_by_step(model, inputs, numbers)
        return
    with torch.no_grad():
        yield None, model(inputs)


def _evaluators(cfg: CfgNode, dataset: str, folder: str, count: int) -> Iterator[DatasetEvaluators]:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.RPANOPTIC.KEEP_PREDICTIONS = False
    first = build_evaluators(cfg, dataset, folder)
    for _ in range(count):
        # Ground truth is read once and shared; what an evaluator gathers, reset() makes anew.
        copied = DatasetEvaluators([copy.copy(part) for part in first._evaluators])
        copied.reset()
        yield copied


def _times(
    model: nn.Module, pictures: list[Any], wanted: Sequence[int | None], device: str
) -> dict[int | None, float]:
    if not pictures:
        return {}
    times = {}
    for count in wanted:
        with torch.no_grad(), steps_at_test(model, count):
            model(pictures[0])  # warms up
            each = [seconds(partial(model, picture), device) for picture in pictures]
        times[count] = statistics.median(each)
    return times


def _overall(results: dict[str, Any]) -> dict[str, float]:
    flat = flatten_results_dict(results)
    # Detectron2 names what concerns one class with a hyphen: "AP-person".
    return {
        name: float(value)
        for name, value in flat.items()
        if "-" not in name and math.isfinite(value)
    }
