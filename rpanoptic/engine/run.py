"""One whole run in one process: training with its evaluation, or evaluation alone."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase, default_setup
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from rpanoptic.data.paths import write_atomically
from rpanoptic.engine.checkpoint import PanopticCheckpointer
from rpanoptic.engine.deterministic import make_deterministic
from rpanoptic.engine.dry_run import dry_run
from rpanoptic.engine.earlier_run import set_earlier_run_aside
from rpanoptic.engine.own_data import SPLITS, first_classes, register_own_data
from rpanoptic.engine.pictures import draw_predictions
from rpanoptic.engine.setup import existing_config_file
from rpanoptic.engine.trainer import Trainer
from rpanoptic.errors import CheckpointError
from rpanoptic.evaluation import summary_table

#: The config of an evaluation in a folder that has one of a training.
EVALUATION_CONFIG = "config_evaluation.yaml"

logger = logging.getLogger(__name__)


def run(
    cfg: CfgNode, args: argparse.Namespace, *, hooks: Sequence[HookBase] = ()
) -> dict[str, Any] | None:
    """Train, or with ``args.eval_only`` evaluate; log the table of results and draw pictures.

    A training that is not resumed sets the metrics of an earlier one in ``OUTPUT_DIR`` aside. An
    evaluation leaves a ``config.yaml`` that is there as it is, and writes
    :data:`EVALUATION_CONFIG`.
    Every process of a distributed run calls this. The inputs are expected to have passed
    :func:`rpanoptic.engine.check_run`.

    Args:
        cfg: config of the run; it is frozen here.
        args: from Detectron2's default argument parser; ``resume`` and ``eval_only`` are used.
        hooks: of the training, after its own.

    Returns:
        the evaluator's results in the main process, None in others.

    Raises:
        CheckpointError: weights are missing or do not fit.
        ConfigError: a part of the model refuses its settings.
        UserError: see :func:`rpanoptic.engine.dry_run.dry_run`.
    """
    if cfg.RPANOPTIC.DETERMINISTIC:
        make_deterministic(cfg)
    cfg.freeze()
    # A spawned process has a catalogue of its own.
    register_own_data(cfg, ("TEST",) if args.eval_only else SPLITS)
    with _config_of_the_training_kept(cfg, args):
        default_setup(cfg, _with_file(args))
        # Detectron2 has set up its own loggers; ours write to the same console and file.
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="rpanoptic")
    if args.eval_only:
        model, results = _evaluate(cfg, resume=args.resume)
    else:
        model, results = _train(cfg, resume=args.resume, hooks=hooks)
    if comm.is_main_process():
        if results:
            logger.info("Results in percent:\n%s", summary_table(results))
        elif not cfg.DATASETS.TEST:
            logger.info("There is no test data (DATASETS.TEST is empty), so nothing is evaluated.")
        _draw(cfg, model)
    return results


def _with_file(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments with the file that a name of a model zoo stands for: Detectron2 logs it."""
    name = getattr(args, "config_file", None)
    if not name:
        return args
    return argparse.Namespace(**{**vars(args), "config_file": str(existing_config_file(name))})


@contextlib.contextmanager
def _config_of_the_training_kept(cfg: CfgNode, args: argparse.Namespace) -> Iterator[None]:
    """Let an evaluation write its config beside that of the training, and not over it.

    Detectron2 writes ``OUTPUT_DIR/config.yaml`` in either, but that of a training says how the
    weights beside it came about.
    """
    file = Path(cfg.OUTPUT_DIR) / "config.yaml"
    keep = args.eval_only and comm.is_main_process() and file.is_file()
    before = file.read_bytes() if keep else None
    try:
        yield
    finally:
        if before is not None and file.read_bytes() != before:
            file.replace(file.with_name(EVALUATION_CONFIG))
            write_atomically(file, before)
            logger.info("%s is left as it was; this config is %s.", file, EVALUATION_CONFIG)


def _train(
    cfg: CfgNode, *, resume: bool, hooks: Sequence[HookBase]
) -> tuple[nn.Module, dict[str, Any] | None]:
    if not resume and comm.is_main_process():
        set_earlier_run_aside(Path(cfg.OUTPUT_DIR))
    comm.synchronize()
    trainer = Trainer(cfg)
    trainer.register_hooks(hooks)
    if resume and not trainer.checkpointer.last_checkpoint():
        logger.warning("--resume: %s holds no checkpoint, so this starts anew.", cfg.OUTPUT_DIR)
    trainer.resume_or_load(resume=resume)
    if cfg.RPANOPTIC.DRY_RUN:
        dry_run(cfg, trainer.judged)
    results = trainer.train()
    return trainer.judged, results


def _evaluate(cfg: CfgNode, *, resume: bool) -> tuple[nn.Module, dict[str, Any] | None]:
    model = Trainer.build_model(cfg)
    classes = first_classes(cfg.DATASETS.TEST)
    checkpointer = PanopticCheckpointer(model, cfg.OUTPUT_DIR, classes=classes)
    if not (resume and checkpointer.last_checkpoint()) and not cfg.MODEL.WEIGHTS:
        raise CheckpointError(
            "--eval-only needs weights: set MODEL.WEIGHTS, or give --resume for the last "
            f"checkpoint in OUTPUT_DIR ({cfg.OUTPUT_DIR})."
        )
    extra = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume, strict=True)
    results = Trainer.test(cfg, model)
    if not comm.is_main_process():
        return model, None
    iteration = extra.get("iteration", -1) + 1
    _append_metrics(Path(cfg.OUTPUT_DIR) / "metrics.json", results, iteration)
    return model, results


def _draw(cfg: CfgNode, model: nn.Module) -> None:
    try:
        draw_predictions(cfg, model)
    except Exception:
        # The results are there already; hours of training must not end in an error over a picture.
        logger.exception("The predictions could not be drawn; the results are complete.")


def _append_metrics(file: Path, results: dict[str, Any], iteration: int) -> None:
    """Add results to the JSON lines that training writes, in the same form."""
    line = {**flatten_results_dict(results), "iteration": iteration}
    with file.open("a") as stream:
        stream.write(json.dumps(line, sort_keys=True) + "\n")
