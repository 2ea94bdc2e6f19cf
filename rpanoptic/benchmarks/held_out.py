"""What trained models give on held-out sets, after as many steps as in training and after more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rpanoptic.benchmarks.report import Row
from rpanoptic.benchmarks.training_run import Run
from rpanoptic.engine.weights_file import file_sha256

# What stands behind the names of columns for multiples of the steps in training.
FACTORS = {"": 1, " at 2x": 2, " at 4x": 4}


def results(
    runs: Sequence[Run],
    swept: Sequence[Row],
    *,
    test_sets: Mapping[str, str],
    metrics: Mapping[str, str],
) -> list[Row]:
    """The results of runs from a sweep over test steps.

    Args:
        runs: finished ones.
        swept: rows of :func:`rpanoptic.engine.step_sweep.sweep` on the test sets.
        test_sets: datasets by what stands before the names of their columns.
        metrics: results by the names of the columns: as the evaluators name them.

    Returns:
        a row a run: "method", "seed", "steps" (in training), "minutes" (see
        :meth:`~rpanoptic.benchmarks.training_run.Run.minutes`) and the metrics, such as "F1" and
        "F1 at 2x" (the steps in training) on one set, "long F1" on another; also "least F1", of
        the first metric, over all numbers of steps from once to four times: a state that
        alternates between two values can be as good at every even number as in training. None
        where nothing was swept, and for more steps of a model without recurrence.
    """
    rows = []
    for run in runs:
        weights = file_sha256(run.weights)
        mine = [row for row in swept if row["weights_sha256"] == weights]
        steps = next((row["trained_steps"] for row in mine), None)
        line = {"method": run.method, "seed": run.seed, "steps": steps, "minutes": run.minutes()}
        for before, dataset in test_sets.items():
            found = {row["test_steps"]: row for row in mine if row["dataset"] == dataset}
            columns = _columns(found, steps, metrics)
            line |= {f"{before}{name}": value for name, value in columns.items()}
        rows.append(line)
    return rows


def _columns(found: Mapping[int | None, Row], steps: int | None, metrics: Mapping[str, str]) -> Row:
    """The columns of one run on one dataset, given its rows by test steps."""
    line: Row = {}
    for after, factor in FACTORS.items():
        row: Row = {}
        if steps or factor == 1:
            row = found.get(steps and factor * steps, {})
        line |= {f"{name}{after}": row.get(metric) for name, metric in metrics.items()}
    first, judged = next(iter(metrics.items()))
    most = max(FACTORS.values())
    values = [
        row[judged]
        for count, row in found.items()
        if steps and count and steps <= count <= most * steps and row.get(judged) is not None
    ]
    return line | {f"least {first}": min(values, default=None)}
