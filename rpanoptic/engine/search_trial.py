"""The training of one trial of an architecture search, in this process or in one of its own."""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict

import rpanoptic.data
import rpanoptic.modeling
import rpanoptic.pathfinder  # noqa: F401  (all three register names that configs use)
from rpanoptic.engine.check import check_run
from rpanoptic.engine.run import run
from rpanoptic.errors import ConfigError, UserError

#: Takes the number of an evaluation, from 1, and its result; says whether the training goes on.
Report = Callable[[int, float], bool]

# Where what the process of a trial writes to the terminal goes, in OUTPUT_DIR.
CONSOLE = "console.txt"
# Seconds that a process may take to end once it has said its last word.
_PATIENCE = 30.0


class _Stopped(Exception):
    """A report has ended the training."""


class EvaluationReporter(HookBase):
    """Reports the result of each evaluation during a training, but for the last one.

    Args:
        metric: name of the result, as ``RPANOPTIC.BEST_METRIC``.
        report: the training ends where it returns False.
    """

    def __init__(self, metric: str, report: Report) -> None:
        self._metric = metric
        self._report = report
        self._evaluations = 0

    def after_step(self) -> None:
        """Report what has been found after this iteration, if anything has."""
        found = self.trainer.storage.latest().get(self._metric)
        last = self.trainer.iter + 1 >= self.trainer.max_iter
        if found is None or found[1] != self.trainer.iter or last:
            return
        self._evaluations += 1
        if not self._report(self._evaluations, float(found[0])):
            raise _Stopped("the search goes on without this trial")


def train_trial(cfg: CfgNode, report: Report) -> float | None:
    """Train a config in this process, as ``tools/train_net.py`` does.

    Args:
        cfg: of the trial; it is frozen here.
        report: takes the results of the evaluations during the training.

    Returns:
        ``RPANOPTIC.BEST_METRIC`` of the last evaluation; None if ``report`` has ended the training.

    Raises:
        UserError: the config cannot be trained, or the training came to no end.
    """
    check_run(cfg)
    metric = cfg.RPANOPTIC.BEST_METRIC
    args = argparse.Namespace(resume=False, eval_only=False, config_file="", opts=[])
    try:
        results = run(cfg, args, hooks=[EvaluationReporter(metric, report)])
    except _Stopped:
        return None
    found = flatten_results_dict(results or {})
    if metric not in found:
        raise ConfigError(
            f"RPANOPTIC.BEST_METRIC {metric!r} is not among the results: {', '.join(found)}"
        )
    return float(found[metric])


def train_trial_apart(cfg: CfgNode, report: Report) -> float | None:
    """As :func:`train_trial`, in a process of its own.

    What a trial leaves behind, from log files to a full GPU, ends with it, and a trial that the
    system kills is one that failed. The process writes to ``console.txt`` in ``OUTPUT_DIR``, not to
    the terminal; it ends when this one does.

    Raises:
        UserError: the training failed; the message is the reason.
    """
    context = _context()
    here, there = context.Pipe()
    # Not a daemon, which may have no processes of its own, and so no workers that load data.
    process = context.Process(target=_child, args=(there, cfg, torch.get_num_threads()))
    process.start()
    there.close()
    kind = "none"
    try:
        while kind not in ("done", "failed"):
            kind, *content = here.recv()
            if kind == "report":
                here.send(report(*content))
    except (EOFError, ConnectionError):
        process.join(_PATIENCE)
        raise UserError(_how_it_ended(process.exitcode, Path(cfg.OUTPUT_DIR))) from None
    finally:
        here.close()
        if kind in ("done", "failed"):
            process.join(_PATIENCE)
        process.kill()
        process.join()
    if kind == "failed":
        raise UserError(content[0])
    return content[0]


def _context() -> SpawnContext | ForkServerContext:
    """How processes are begun: out of one that has imported this, and done no more, if possible.

    A process that is forked from this one could not use a GPU that this one has used.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _child(connection: Connection, cfg: CfgNode, threads: int) -> None:
    """What the process of a trial does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)

    def report(evaluation: int, value: float) -> bool:
        connection.send(("report", evaluation, value))
        return bool(connection.recv())

    with _to_file(Path(cfg.OUTPUT_DIR)):
        try:
            message: tuple[str, float | str | None] = ("done", train_trial(cfg, report))
        except (EOFError, ConnectionError):
            return  # The search has ended.
        except UserError as error:
            message = "failed", str(error)
        except torch.OutOfMemoryError as error:
            message = "failed", f"out of memory: {str(error).splitlines()[0]}"
        except Exception as error:
            sys.excepthook(*sys.exc_info())
            message = "failed", f"{type(error).__name__}: {error}"
        connection.send(message)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def _to_file(folder: Path) -> Iterator[None]:
    """All that this process writes to the terminal, and what it starts does, goes to a file."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / CONSOLE).open("a") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
        yield
        for stream in (sys.stdout, sys.stderr):
            stream.flush()


def _how_it_ended(code: int | None, folder: Path) -> str:
    """What is known of a process that has said nothing."""
    how = f"with status {code}"
    if code is not None and code < 0:
        how = f"by signal {-code}"
        if code == -9:
            how += ", as Linux does when there is no memory left"
    return f"its process ended {how}; see {folder / CONSOLE}"
