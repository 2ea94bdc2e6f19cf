"""Which checkpoints a training keeps: the latest ones, and the best."""

from __future__ import annotations

import logging
import math
import re
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from torch import nn

from rpanoptic.engine.checkpoint import PanopticCheckpointer
from rpanoptic.engine.earlier_run import numbered_aside
from rpanoptic.engine.ending import Evaluation, ended_well
from rpanoptic.errors import listed

logger = logging.getLogger(__name__)

BEST = "model_best"
# Results that a message names.
_MOST_NAMED = 6
# A checkpoint is a file from elsewhere: what it says of other files must not lead out of the
# folder, nor to anything but a periodic checkpoint.
_PERIODIC = re.compile(r"model_(\d{7,})\.pth")


def with_checkpoint_hooks(
    built: Sequence[HookBase | None],
    cfg: CfgNode,
    checkpointer: PanopticCheckpointer,
    *,
    judged: nn.Module,
    evaluate: Callable[[], Any],
) -> list[HookBase | None]:
    """Put our checkpoint hooks among Detectron2's.

    :class:`RecentCheckpoints` takes the place of the periodic checkpointer, before the evaluation
    (a failing evaluation then loses no training), :class:`~rpanoptic.engine.ending.Evaluation` that
    of Detectron2's evaluation, and :class:`BestCheckpoint` follows. Every process gets them, since
    every process loads the state of all hooks; only the main process writes.

    Args:
        built: hooks of Detectron2's default trainer, in their order.
        cfg: config of the run.
        checkpointer: of the trainer.
        judged: the model that is evaluated, which ``model_best.pth`` and ``model_final.pth`` hold;
            that of the trainer or an average of it.
        evaluate: judges it; returns results.
    """
    recent = RecentCheckpoints(
        checkpointer,
        cfg.SOLVER.CHECKPOINT_PERIOD,
        kept=cfg.RPANOPTIC.CHECKPOINTS_KEPT,
        judged=judged,
    )
    result: list[HookBase | None] = []
    for hook in built:
        if isinstance(hook, hooks.PeriodicCheckpointer):
            continue
        if not isinstance(hook, hooks.EvalHook):
            result.append(hook)
            continue
        result += [recent, Evaluation(hook._period, evaluate)]
        # One evaluation, at the end, chooses nothing.
        if cfg.RPANOPTIC.BEST_METRIC and cfg.TEST.EVAL_PERIOD > 0:
            metric = cfg.RPANOPTIC.BEST_METRIC
            result.append(BestCheckpoint(cfg.TEST.EVAL_PERIOD, checkpointer, metric, judged=judged))
    return result


class RecentCheckpoints(hooks.PeriodicCheckpointer):
    """Detectron2's periodic checkpointer, which knows after a resume what it has written.

    Files that another run left in the folder are never deleted, whatever their iteration.

    Args:
        checkpointer: writes the files.
        period: iterations between two checkpoints; the last iteration is saved as well, as
            ``model_final.pth``.
        kept: latest periodic checkpoints to keep; 0 or less keeps all.
        judged: the model that ``model_final.pth`` holds; None for the checkpointer's.
    """

    #: The files, oldest first; kept by Detectron2's class.
    recent_checkpoints: list[str]

    def __init__(
        self,
        checkpointer: PanopticCheckpointer,
        period: int,
        *,
        kept: int = 0,
        judged: nn.Module | None = None,
    ) -> None:
        super().__init__(checkpointer, period, max_to_keep=kept if kept > 0 else None)
        self._judged = judged or checkpointer.model

    def before_train(self) -> None:
        """Count the checkpoint that was resumed from: its own state does not name it yet."""
        # Not super().before_train(), by which Detectron2's would write the last one too.
        if comm.is_main_process():
            self.checkpointer.remove_partial()
        start = self.trainer.start_iter
        if self.max_to_keep is not None and start > 0 and start % self.period == 0:
            file = self._file(f"{self.file_prefix}_{start - 1:07d}.pth")
            self.recent_checkpoints = [f for f in self.recent_checkpoints if f != file]
            if Path(file).is_file():
                self.recent_checkpoints.append(file)

    def after_step(self) -> None:
        """Save when the period or the training is over, and delete what has become too old."""
        if not comm.is_main_process():
            return
        super().after_step()
        iteration = self.trainer.iter
        if iteration >= self.trainer.max_iter - 1:
            weights = self._judged.state_dict()
            self.checkpointer.save(f"{self.file_prefix}_final", iteration=iteration, model=weights)

    def state_dict(self) -> dict[str, Any]:
        """Names of the files that are kept now."""
        return {"recent": [Path(file).name for file in self.recent_checkpoints]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the files that are still there."""
        if self.max_to_keep is None:
            return
        names = [name for name in state_dict.get("recent", []) if _PERIODIC.fullmatch(str(name))]
        files = [self._file(name) for name in names]
        # What a kill kept from being deleted, or a smaller RPANOPTIC.CHECKPOINTS_KEPT gives up,
        # goes one file a save; the next state names it again.
        self.recent_checkpoints = [file for file in files if Path(file).is_file()]

    def _file(self, name: str) -> str:
        return str(Path(self.checkpointer.save_dir) / name)


class BestCheckpoint(hooks.BestCheckpointer):
    """Keeps the model of the best evaluation as ``model_best.pth``.

    Detectron2's own hook would make that file the one to resume from, forgets what was best when
    a run is resumed, takes a failed last iteration for the end, and warns at each evaluation that
    lacks the metric.

    How good the best is, and of which run, is in ``model_best.pth`` itself. A resumed run goes on
    with the file if it is of the same run and metric, even if its iteration is one that is
    repeated. Any other file of that name becomes ``model_best.1.pth``: it may be better.

    Args:
        period: iterations between two evaluations.
        checkpointer: writes the file.
        metric: name of the result, e.g. "panoptic_seg/PQ"; the larger the better.
        judged: the model that is evaluated and kept; None for the checkpointer's.
    """

    best_metric: float | None
    best_iter: int | None

    def __init__(
        self,
        period: int,
        checkpointer: PanopticCheckpointer,
        metric: str,
        *,
        judged: nn.Module | None = None,
    ) -> None:
        super().__init__(period, checkpointer, metric, mode="max", file_prefix=BEST)
        self._judged = judged or checkpointer.model
        self._told = False
        self._run: str | None = None

    def state_dict(self) -> dict[str, Any]:
        """A mark that tells this run from others."""
        return {"run": self._run} if self._run else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Be the same run."""
        self._run = state_dict.get("run")

    def before_train(self) -> None:
        """Take up the best of this run, and set that of another aside."""
        known = self._run is not None
        # Not from the seeded generators, which would give two runs the same mark.
        self._run = self._run or uuid.uuid4().hex
        file = Path(self._checkpointer.save_dir) / f"{BEST}.pth"
        if not comm.is_main_process() or not file.is_file() or (known and self._take_up(file)):
            return
        (aside,) = numbered_aside([file])
        logger.warning("%s is not of this run and metric: it is now %s.", file, aside.name)

    def _take_up(self, file: Path) -> bool:
        """Go on with the best in a file; False if it is not of this run and metric."""
        try:
            # Mapped into memory: the weights are not read.
            best = torch.load(file, map_location="cpu", weights_only=True, mmap=True)["best"]
            if best["run"] != self._run or best["metric"] != self._val_metric:
                return False
            self.best_metric, self.best_iter = float(best["value"]), int(best["iteration"])
        except Exception as error:  # as many kinds as there are ways for a file to be damaged
            logger.warning("%s does not say how good it is: %s", file, error)
            return False
        return True

    def after_train(self) -> None:
        """Keep the model of the last evaluation if it is the best; there is none after an error."""
        if ended_well(self.trainer):
            super().after_train()

    def _best_checking(self) -> None:
        if not comm.is_main_process():
            return
        storage = self.trainer.storage
        found = storage.latest().get(self._val_metric)
        # An older value is not that of the model as it is now.
        if found is None or found[1] != storage.iter:
            latest = storage.latest().items()
            task = self._val_metric.rpartition("/")[0]
            known = [
                name
                for name, (_, iteration) in latest
                if iteration == storage.iter
                # Of several test sets the results begin with the names of the sets.
                and (name.startswith(f"{task}/") or name.endswith(f"/{self._val_metric}"))
            ]
            self._tell_once(
                # Of a task that is judged it is a slip; else a default that is of no use here.
                logging.WARNING if known else logging.INFO,
                "RPANOPTIC.BEST_METRIC %s is not among the results, so no best checkpoint is kept."
                "%s",
                self._val_metric,
                f" There are {listed(known, most=_MOST_NAMED)}." if known else "",
            )
            return
        value = float(found[0])
        if not math.isfinite(value) or (self.best_metric is not None and value <= self.best_metric):
            logger.info("%s is %.4f; %s stays as it is.", self._val_metric, value, f"{BEST}.pth")
            return
        # After the training, the iteration of the trainer is already one further.
        iteration = self.trainer.iter - ended_well(self.trainer)
        self.best_metric, self.best_iter = value, iteration
        best = {
            "run": self._run,
            "metric": self._val_metric,
            "value": value,
            "iteration": iteration,
        }
        weights = self._judged.state_dict()
        self._checkpointer.save(BEST, last=False, iteration=iteration, best=best, model=weights)
        logger.info("%s is %.4f, the best so far.", self._val_metric, value)

    def _tell_once(self, level: int, message: str, *args: object) -> None:
        if not self._told:
            logger.log(level, message, *args)
        self._told = True
