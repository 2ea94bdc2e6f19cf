"""One picture of each test set is evaluated before a training, so that no evaluation breaks it."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from rpanoptic.data import build_test_loader
from rpanoptic.errors import EvaluationError, NonFiniteError, UserError
from rpanoptic.evaluation import build_evaluators
from rpanoptic.modeling.test_time_augmentation import with_test_time_augmentation
from rpanoptic.random_state import preserved_random_state

logger = logging.getLogger(__name__)


def dry_run(cfg: CfgNode, model: nn.Module) -> None:
    """Evaluate a picture of each test set as the evaluation at the end of a training would.

    A picture goes through the loader, the model and all evaluators, which judge it alone and write
    into a temporary folder. The model, its mode and its statistics, and the random numbers are the
    same afterwards. What the log would say of the figures is left out.

    All processes of a distributed run call this, each for the first picture of its share. What
    one of them meets all of them raise, and no process is left waiting for another, unless an
    evaluator fails in the midst of an exchange with others.

    That an untrained model's predictions are not finite is logged alone: training may change it.

    Args:
        cfg: config of the run; ``DATASETS.TEST`` and what an evaluation reads count.
        model: built, its weights loaded, not wrapped; on its device.

    Raises:
        UserError: the evaluation of a picture fails. It is of the kind that was raised where this
            was a UserError, else an EvaluationError; the message ends by the dataset, the picture
            and the evaluator.
    """
    tried = with_test_time_augmentation(cfg, model)
    with preserved_random_state(cfg.MODEL.DEVICE), _in_evaluation_mode(tried), _quiet():
        for name in cfg.DATASETS.TEST:
            with tempfile.TemporaryDirectory(prefix="rpanoptic_") as folder:
                _try(cfg, tried, name, Path(folder))


def _try(cfg: CfgNode, model: nn.Module, name: str, folder: Path) -> None:
    start = time.perf_counter()
    place = f"dataset {name}"
    with _together(place):
        evaluators = build_evaluators(cfg, name, folder)._evaluators
        # A process may have no share of a small set.
        inputs = next(iter(build_test_loader(_one_picture(cfg), name)), [])
    place = f"{place}, {_named(inputs)}"
    with _together(f"{place}, the model"):
        outputs = model(inputs) if inputs else []
    own = [sample["image_id"] for sample in inputs if "image_id" in sample]
    image_ids = [image_id for share in comm.all_gather(own) for image_id in share]
    passed = []
    for evaluator in evaluators:
        kind = type(evaluator).__name__
        try:
            with _together(f"{place}, {kind}"):
                evaluator.reset()
                if inputs:
                    evaluator.process(inputs, outputs)
            with _together(f"{place}, {kind}"):
                _evaluate(evaluator, image_ids)
            passed.append(kind)
        except NonFiniteError as error:
            logger.warning("%s", error)
    logger.info(
        "Dry run of %s: a picture passes %s (%.1f s).",
        name,
        ", ".join(passed) or "no evaluator",
        time.perf_counter() - start,
    )


def _evaluate(evaluator: DatasetEvaluator, image_ids: Sequence[Any]) -> None:
    options = {}
    # Else all other pictures of the dataset would count as missed.
    if "img_ids" in inspect.signature(evaluator.evaluate).parameters:
        options["img_ids"] = image_ids
    # pycocotools prints.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate(**options)


def _one_picture(cfg: CfgNode) -> CfgNode:
    settings = cfg.clone()
    settings.defrost()
    # Workers would read ahead.
    settings.DATALOADER.NUM_WORKERS = 0
    settings.RPANOPTIC.TEST_BATCH = 1
    return settings


@contextlib.contextmanager
def _together(place: str) -> Iterator[None]:
    """Raise in all processes what one of them meets inside, with the place where it did."""
    own = None
    try:
        yield
    except Exception as error:
        own = error
        if not isinstance(error, UserError):
            # Not an error that was foreseen, so whoever mends it needs to know whence it came.
            logger.error("The evaluation fails at %s:", place, exc_info=True)
    told = comm.all_gather(None if own is None else _told(own, place))
    faults = [one for one in told if one is not None]
    if faults:
        kind, message = min(faults, key=lambda one: one[0] is NonFiniteError)
        raise kind(message) from own


def _told(error: Exception, place: str) -> tuple[type[UserError], str]:
    foreseen = isinstance(error, UserError)
    kind = type(error) if isinstance(error, UserError) else EvaluationError
    text = str(error) if foreseen else f"{type(error).__name__}: {error}"
    return kind, (
        f"{text}\nThe evaluation would fail so: this is {place}, tried before the training. "
        "RPANOPTIC.DRY_RUN False starts it untried."
    )


def _named(inputs: Sequence[Mapping[str, Any]]) -> str:
    names = [str(sample.get("file_name", sample.get("image_id"))) for sample in inputs]
    return ", ".join(names) or "no picture"


@contextlib.contextmanager
def _in_evaluation_mode(model: nn.Module) -> Iterator[None]:
    """As Detectron2's ``inference_context``, but parts that were frozen stay so afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        # What a model puts into the storage of the training would stand in its logs.
        with torch.no_grad(), EventStorage():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the log of figures that mean nothing, and of what is said again at the end."""
    levels = {
        "detectron2.data": logging.ERROR,
        "detectron2.evaluation": logging.ERROR,
        "rpanoptic.data": logging.WARNING,
        "rpanoptic.evaluation": logging.WARNING,
    }
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        # Classes that the one picture lacks make for divisions by 0.
        with np.errstate(all="ignore"):
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
