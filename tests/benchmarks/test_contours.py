"""The comparison on contours: what its table takes from a sweep, and all of it at a tiny size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from rpanoptic.benchmarks import contours
from rpanoptic.benchmarks.contours import CONTOURS, METRICS, TEST_SETS, held_out_results
from rpanoptic.benchmarks.report import Row
from rpanoptic.benchmarks.training_run import Run
from rpanoptic.engine.weights_file import file_sha256
from rpanoptic.pathfinder import register_pathfinder_on_the_fly
from rpanoptic.pathfinder.settings import small_32_settings
from tests.benchmarks.runs import one_process, read
from tests.data.helpers import load_script
from tests.paths import CONFIGS

__all__ = ["one_process"]

benchmark = load_script("tools/benchmark.py")

SETS = {split: f"pathfinder_of_test_contours_{split}" for split in ("train", "val", "test", "long")}


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
        *swept(recurrent, test, 6, {1: 10.0, 6: 90.0, 12: 91.0, 13: 40.0, 24: 89.0, 25: 5.0}),
        *swept(recurrent, long, 6, {6: 70.0, 12: 80.0}),
        *swept(level, test, None, {None: 50.0}),
    ]
    crbp, feedforward, rbp = held_out_results([recurrent, level, other], rows)
    names = ("F1", "IoU at 2x", "F1 at 4x", "long F1", "long F1 at 2x", "long F1 at 4x")
    assert [crbp[name] for name in names] == [90.0, 91.0, 89.0, 70.0, 80.0, None]
    assert [feedforward[name] for name in names] == [50.0, None, None, None, None, None]
    assert {rbp[name] for name in (*names, "steps")} == {None}
    assert (crbp["method"], crbp["seed"], crbp["steps"]) == ("crbp", 3, 6)
    # Neither before the steps of training nor beyond four times as many.
    least = [(row["least F1"], row["long least F1"]) for row in (crbp, feedforward, rbp)]
    assert least == [(40.0, 70.0), (None, None), (None, None)]
    # 60 iterations of 2 s.
    assert crbp["minutes"] == pytest.approx(2)
    assert feedforward["steps"] is None
    assert set(CONTOURS.columns) <= set(crbp)


@pytest.fixture()
def sets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sets of eight pictures, in the place of those that are judged."""
    for seed, (split, name) in enumerate(SETS.items()):
        settings = small_32_settings(length=8 if split == "long" else 5, distractors=2)
        register_pathfinder_on_the_fly(name, settings, seed, 8)
    judged = {"": SETS["test"], "long ": SETS["long"]}
    monkeypatch.setattr(contours, "TEST_SETS", judged)
    smaller = replace(CONTOURS, test_sets=tuple(judged.values()))
    monkeypatch.setattr(benchmark, "CONTOURS", smaller)
    yield
    for name in SETS.values():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture()
def argv(tmp_path: Path, sets: None) -> list[str]:
    """A command line for two methods, three iterations each."""
    base = CONFIGS / "_base_" / "pathfinder_hgru.yaml"
    for method, name in (("rbp", "recurrent"), ("feedforward", "feedforward")):
        (tmp_path / f"{method}.yaml").write_text(
            f"_BASE_: {base}\nMODEL:\n  BACKBONE:\n    NAME: build_pathfinder_{name}_backbone\n"
        )
    argv = ["contours", "--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "results")]
    argv += ["--configs", str(tmp_path / "{method}.yaml"), "--methods", "feedforward", "rbp"]
    argv += ["--seeds", "1", "--threads", "1", "--iterations", "1", "--rounds", "1", "--opts"]
    options = {
        "DATASETS.TRAIN": (SETS["train"],),
        "DATASETS.TEST": (SETS["val"],),
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.MIN_SIZE_TRAIN": (32,),
        "INPUT.MIN_SIZE_TEST": 32,
        "MODEL.DEVICE": "cpu",
        "MODEL.PATHFINDER.CHANNELS": 4,
        "MODEL.PATHFINDER.KERNEL_SIZE": 3,
        "MODEL.RECURRENT.PATHFINDER.KERNEL_SIZE": 3,
        "MODEL.RECURRENT.PATHFINDER.STEPS": 2,
        "MODEL.RECURRENT.PATHFINDER.GRADIENT": "rbp",
        "RPANOPTIC.PICTURES": 0,
        "SOLVER.IMS_PER_BATCH": 4,
        "SOLVER.MAX_ITER": 3,
        "TEST.EVAL_PERIOD": 2,
    }
    return [*argv, *(str(word) for pair in options.items() for word in pair)]


def test_trains_measures_sweeps_and_tabulates(
    argv: list[str], tmp_path: Path, one_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(argv) == 0
    written = tmp_path / "results"
    assert sorted(path.name for path in written.iterdir()) == [
        "contours.csv",
        "contours.md",
        "contours_cost.csv",
        "contours_steps.csv",
        "contours_steps.png",
    ]
    swept = read(written / "contours_steps.csv")
    places = [(row["label"], row["dataset"], row["test_steps"]) for row in swept]
    judged = (SETS["test"], SETS["long"])
    steps = [str(count) for count in range(1, 9)]
    assert places == [
        *(("feedforward", name, "") for name in judged),
        *(("rbp", name, count) for name in judged for count in steps),
    ]
    rows = {row["method"]: row for row in read(written / "contours.csv")}
    assert (rows["rbp"]["steps"], rows["feedforward"]["steps"]) == ("2", "")
    for column, name, count in (("F1", SETS["test"], "2"), ("long F1 at 4x", SETS["long"], "8")):
        (row,) = (
            row for row, place in zip(swept, places, strict=True) if place[1:] == (name, count)
        )
        assert rows["rbp"][column] == row["contour/F1"]
    assert float(rows["rbp"]["minutes"]) > 0
    assert Path(swept[0]["weights"]).name == "model_best.pth"
    said = capsys.readouterr().out
    assert all(column in said for column in CONTOURS.columns)


def test_what_is_validated_is_not_what_is_reported() -> None:
    assert not any("_val" in name or "_train" in name for name in CONTOURS.test_sets)
