"""Classifiers of scikit-learn's digits: ConvRNNs and a feed-forward net of as many parameters."""

from __future__ import annotations

from functools import partial

from rpanoptic.benchmarks import held_out
from rpanoptic.benchmarks.comparison import Comparison, spanned

# In per cent, but for the loss, in nats.
METRICS = {
    "top-1": "classification/top1",
    "loss": "classification/loss",
    "calibration error": "classification/calibration_error",
}
# What stands before the names of a dataset's columns.
TEST_SETS = {"": "digits_test", "noisy ": "digits_noisy_test"}

DIGITS = Comparison(
    name="digits",
    methods=("feedforward", "reciprocal_gated", "bptt10", "crbp10"),
    configs="configs/imagenet/digits/{method}.yaml",
    runs="output/digits",
    metrics=METRICS,
    columns={
        "steps": ".0f",
        **dict.fromkeys(("top-1", "top-1 at 2x", "top-1 at 4x"), ".1f"),
        "loss": ".2f",
        "calibration error": ".1f",
        **dict.fromkeys(("noisy top-1", "noisy top-1 at 4x"), ".1f"),
        "minutes": ".1f",
    },
    test_sets=tuple(TEST_SETS.values()),
    steps="3-20,24,28,32,36,40",
    spread=spanned,
    results=partial(held_out.results, test_sets=TEST_SETS, metrics=METRICS),
)
