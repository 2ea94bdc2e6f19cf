"""Contour tracing at a size that a CPU trains: methods on held-out pictures, against the steps."""

from __future__ import annotations

from collections.abc import Sequence

from rpanoptic.benchmarks import held_out
from rpanoptic.benchmarks.comparison import Comparison, spanned
from rpanoptic.benchmarks.report import Row
from rpanoptic.benchmarks.training_run import Run

# All in per cent.
METRICS = {
    "F1": "contour/F1",
    "IoU": "contour/IoU",
    "precision": "contour/precision",
    "recall": "contour/recall",
    "balanced accuracy": "contour/balanced_accuracy",
}
# What stands before the names of a dataset's columns.
TEST_SETS = {
    "": "pathfinder_tiny_test_on_the_fly",
    "long ": "pathfinder_tiny_long_test_on_the_fly",
}


def held_out_results(runs: Sequence[Run], swept: Sequence[Row]) -> list[Row]:
    """What each run gives on the test sets, see :func:`rpanoptic.benchmarks.held_out.results`.

    Training chooses the weights by the validation set, which is none of these.
    """
    return held_out.results(runs, swept, test_sets=TEST_SETS, metrics=METRICS)


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
