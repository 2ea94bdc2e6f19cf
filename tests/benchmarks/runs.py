"""Trainings of the comparison that never took place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rpanoptic.benchmarks.panoptic import PANOPTIC
from rpanoptic.benchmarks.training_run import Run
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
