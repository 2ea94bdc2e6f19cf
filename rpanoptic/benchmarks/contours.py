"""Contour tracing at a size that a CPU trains: methods on held-out pictures, against the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rpanoptic.benchmarks.comparison import Comparison, spanned
from rpanoptic.benchmarks.report import Row
from rpanoptic.benchmarks.training_run import Run
from rpanoptic.engine.weights_file import file_sha256

# All in per cent.
METRICS = {
    "F1": "contour/F1",
    "IoU": "contour/IoU",
    "precision": "contour/precision",
    "recall": "contour/recall",
    "balanced accuracy": "contour/balanced_accuracy",
}
# What stands before the names of a dataset's columns, and what behind those of more steps.
TEST_SETS = {
    "": "pathfinder_tiny_test_on_the_fly",
    "long ": "pathfinder_tiny_long_test_on_the_fly",
}
FACTORS = {"": 1, " at 2x": 2, " at 4x": 4}


def held_out_results(runs: Sequence[Run], swept: Sequence[Row]) -> list[Row]:
    """What each run gives on the test sets, after as many steps as in training and after more.

    Training chooses the weights by the validation set, which is none of these.

    Args:
        runs: finished ones.
        swept: rows of :func:`rpanoptic.engine.step_sweep.sweep` on :data:`TEST_SETS`.

    Returns:
        a row a run: "method", "seed", "steps" (in training), "minutes" (see
        :meth:`~rpanoptic.benchmarks.training_run.Run.minutes`) and the metrics, "F1" and
        "F1 at 2x" (the steps in training) on the first set, "long F1" on the second; also "least
        F1", of all numbers of steps from once to four times: a state that alternates between two
        values can be as good at every even number as in training. None where nothing was swept,
        and for more steps of a model without recurrence.
    """
    rows = []
    for run in runs:
        weights = file_sha256(run.weights)
        mine = [row for row in swept if row["weights_sha256"] == weights]
        steps = next((row["trained_steps"] for row in mine), None)
        line = {"method": run.method, "seed": run.seed, "steps": steps, "minutes": run.minutes()}
        for before, dataset in TEST_SETS.items():
            found = {row["test_steps"]: row for row in mine if row["dataset"] == dataset}
            line |= {f"{before}{name}": value for name, value in _results(found, steps).items()}
        rows.append(line)
    return rows


def _results(found: Mapping[int | None, Row], steps: int | None) -> Row:
    """The columns of one run on one dataset, given its rows by test steps."""
    line: Row = {}
    for after, factor in FACTORS.items():
        row: Row = {}
        if steps or factor == 1:
            row = found.get(steps and factor * steps, {})
        line |= {f"{name}{after}": row.get(metric) for name, metric in METRICS.items()}
    most = max(FACTORS.values())
    values = [
        row[METRICS["F1"]]
        for count, row in found.items()
        if steps and count and steps <= count <= most * steps and row.get(METRICS["F1"]) is not None
    ]
    return line | {"least F1": min(values, default=None)}


CONTOURS = Comparison(
    name="contours",
    methods=("feedforward", "bptt", "rbp", "crbp"),
    configs="configs/pathfinder/tiny_{method}.yaml",
    runs="output/contours",
    metrics=METRICS,
    columns={
        "steps": ".0f",
        **dict.fromkeys(("F1", "F1 at 2x", "F1 at 4x", "least F1", "IoU"), ".1f"),
        **dict.fromkeys(("long F1", "long F1 at 2x", "long F1 at 4x", "long least F1"), ".1f"),
        "minutes": ".1f",
    },
    weights_name="model_best.pth",
    test_sets=tuple(TEST_SETS.values()),
    spread=spanned,
    results=held_out_results,
)
