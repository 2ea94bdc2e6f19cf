"""The comparison on contours: what its table takes from a sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rpanoptic.benchmarks.contours import CONTOURS, METRICS, TEST_SETS, held_out_results
from rpanoptic.benchmarks.report import Row
from rpanoptic.benchmarks.training_run import Run
from rpanoptic.engine.weights_file import file_sha256


def run_in(folder: Path, method: str) -> Run:
    """A training whose records are all that is read of it."""
    run = Run(
        method=method,
        seed=3,
        config="",
        folder=folder / f"{method}_3",
        metrics=CONTOURS.metrics,
        weights_name=CONTOURS.weights_name,
    )
    run.folder.mkdir()
    run.weights.write_text(method)
    (run.folder / "metrics.json").write_text(json.dumps({"iteration": 59, "time": 2.0}))
    return run


def swept(run: Run, dataset: str, trained: int | None, values: dict[Any, float]) -> list[Row]:
    """Rows of a sweep, with the same value for every metric."""
    row = {"weights_sha256": file_sha256(run.weights), "dataset": dataset, "trained_steps": trained}
    return [
        row | {"test_steps": count} | dict.fromkeys(METRICS.values(), value)
        for count, value in values.items()
    ]


def test_results_are_those_of_the_test_sets_at_multiples_of_the_trained_steps(
    tmp_path: Path,
) -> None:
    recurrent, level, other = (run_in(tmp_path, name) for name in ("crbp", "feedforward", "rbp"))
    test, long = TEST_SETS.values()
    rows = [
        *swept(recurrent, test, 6, {1: 10.0, 6: 90.0, 12: 91.0, 24: 89.0}),
        *swept(recurrent, long, 6, {6: 70.0, 12: 80.0}),
        *swept(level, test, None, {None: 50.0}),
    ]
    crbp, feedforward, rbp = held_out_results([recurrent, level, other], rows)
    names = ("F1", "IoU at 2x", "F1 at 4x", "long F1", "long F1 at 2x", "long F1 at 4x")
    assert [crbp[name] for name in names] == [90.0, 91.0, 89.0, 70.0, 80.0, None]
    assert [feedforward[name] for name in names] == [50.0, None, None, None, None, None]
    assert {rbp[name] for name in (*names, "steps")} == {None}
    assert (crbp["method"], crbp["seed"], crbp["steps"]) == ("crbp", 3, 6)
    # 60 iterations of 2 s.
    assert crbp["minutes"] == pytest.approx(2)
    assert feedforward["steps"] is None
    assert set(CONTOURS.columns) <= set(crbp)


def test_what_is_validated_is_not_what_is_reported() -> None:
    assert not any("_val" in name or "_train" in name for name in CONTOURS.test_sets)
