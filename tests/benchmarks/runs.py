"""Trainings of a comparison, some of which never took place."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from rpanoptic.benchmarks import comparison, training_worker
from rpanoptic.benchmarks.panoptic import PANOPTIC
from rpanoptic.benchmarks.training_run import Run
from rpanoptic.benchmarks.training_worker import TrainingTask
from tests.paths import CONFIGS

PATTERN = str(CONFIGS / "synthetic_panoptic_{method}.yaml")


def runs_in(folder: Path, **options: Any) -> list[Run]:
    """Two methods with two seeds."""
    methods = ("baseline", "crbp20")
    return PANOPTIC.plan(folder, methods=methods, seeds=(1, 2), configs=PATTERN, **options)


def finish(run: Run, *, quality: float = 50.0, evaluated: bool = True) -> None:
    """What a training leaves behind, as far as the comparison looks at it."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "config.yaml").write_text(run.cfg().dump())
    run.weights.touch()
    lines = [{"iteration": 19, "total_loss": 1.0}]
    if evaluated:
        # Detectron2 records the last evaluation at MAX_ITER, one past the last iteration.
        end = run.cfg().SOLVER.MAX_ITER
        lines.append({"iteration": 19, **dict.fromkeys(run.metrics.values(), 1.0)})
        last = [*run.metrics.values()][-1]
        values = dict.fromkeys(run.metrics.values(), quality) | {last: float("nan")}
        lines.append({"iteration": end, **values})
    text = "\n".join(json.dumps(line) for line in lines)
    (run.folder / "metrics.json").write_text(f"{text}\n")


def read(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture()
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that do their task here: each process would spend seconds on its imports."""

    def here(module: str, task: str, threads: int, environment: object = None) -> dict[str, Any]:
        assert module == training_worker.__name__
        return training_worker.work(TrainingTask.load(task))

    monkeypatch.setattr(comparison, "ask_worker", here)
