"""The comparison of trained models, up to the trainings themselves: see test_comparison_runs.py."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rpanoptic.benchmarks import comparison
from rpanoptic.benchmarks.comparison import deviation, finished_runs, last_evaluations, spanned
from rpanoptic.benchmarks.panoptic import METRICS, PANOPTIC
from rpanoptic.benchmarks.training_worker import TrainingTask
from rpanoptic.errors import ConfigError, UserError
from tests.benchmarks.runs import PATTERN, finish, runs_in


def test_every_method_and_seed_has_a_folder_of_its_own(tmp_path: Path) -> None:
    runs = runs_in(tmp_path, opts=["SOLVER.MAX_ITER", "3"])
    names = [run.folder.name for run in runs]
    assert names == ["baseline_1", "crbp20_1", "baseline_2", "crbp20_2"]
    cfg = runs[3].cfg()
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER) == (2, 3)
    assert str(tmp_path / "crbp20_2") == cfg.OUTPUT_DIR
    assert cfg.MODEL.ROI_MASK_HEAD.NAME == "RecurrentMaskRCNNHead"


def test_all_shipped_configs_of_the_comparison_load(tmp_path: Path) -> None:
    cfgs = {run.method: run.cfg() for run in PANOPTIC.plan(tmp_path, seeds=[1], configs=PATTERN)}
    assert list(cfgs) == list(PANOPTIC.methods)
    blocks = [cfgs[name].MODEL.RECURRENT.MASK_HEAD for name in ("bptt3", "rbp20", "crbp20")]
    assert [(block.GRADIENT, block.STEPS) for block in blocks] == [
        ("bptt", 3),
        ("rbp", 20),
        ("crbp", 20),
    ]
    # One schedule and one set of pictures for all.
    assert len({str((cfg.SOLVER, cfg.DATASETS, cfg.INPUT)) for cfg in cfgs.values()}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"configs": "config.yaml"}, r"--configs config.yaml: expected \{method\}"),
        ({"configs": PATTERN, "methods": ("rbp21",)}, "synthetic_panoptic_rbp21.yaml does not"),
        ({"configs": PATTERN, "opts": ["SOLVER.MAX_ITRE", "3"]}, "SOLVER.MAX_ITER"),
    ],
)
def test_bad_plans(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PANOPTIC.plan(tmp_path, **options)


def test_finished_runs_are_read_and_others_named(tmp_path: Path) -> None:
    runs = runs_in(tmp_path)
    finish(runs[0], quality=40.0)
    finish(runs[2], quality=50.0)
    finish(runs[3], evaluated=False)
    said: list[str] = []
    rows = last_evaluations(finished_runs(runs, said.append), [])
    assert [(row["method"], row["seed"], row["PQ"]) for row in rows] == [
        ("baseline", 1, 40.0),
        ("baseline", 2, 50.0),
    ]
    assert rows[0]["mIoU"] is None and list(rows[0]) == ["method", "seed", *METRICS]
    assert [Path(text).name for text in said] == ["crbp20_1", "crbp20_2"]


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run is finished"):
        finished_runs(runs_in(tmp_path), lambda _: None)


def test_table_of_means_and_of_seeds() -> None:
    rows = [
        {"method": "bptt3", "seed": 1, **dict.fromkeys(METRICS, 50.0), "mIoU": None},
        {"method": "bptt3", "seed": 2, **dict.fromkeys(METRICS, 52.0), "mIoU": 60.0},
        {"method": "crbp20", "seed": 1, **dict.fromkeys(METRICS, 51.0)},
    ]
    costs = [{"method": "bptt3", "parameters": 1234, "peak_mib": 99.6, "seconds": 1.234}]
    summary, seeds = PANOPTIC.tabulated(rows, costs, markdown=True).split("\n\n")
    header, _, bptt, crbp = (line.split("|")[1:-1] for line in summary.splitlines())
    cells = dict(zip(map(str.strip, header), map(str.strip, bptt), strict=True))
    # Sample deviation of 50 and 52.
    assert cells["PQ"] == "51.0 ± 1.4" and cells["mIoU"] == "60.0" and cells["seeds"] == "2"
    assert (cells["parameters"], cells["peak MiB"], cells["s a step"]) == ("1,234", "100", "1.23")
    assert cells["saved MiB"] == "-"
    assert [cell.strip() for cell in crbp[:3]] == ["crbp20", "1", "51.0"]
    assert [cell.strip() for cell in seeds.splitlines()[-1].split("|")[1:-1]] == [
        "crbp20",
        "51.0",
        "-",
    ]


def test_spread_over_seeds() -> None:
    # Sample deviation of 50 and 52 is the root of 2.
    assert deviation([50.0, 52.0], ".1f") == "51.0 ± 1.4"
    assert spanned([50.0, 52.0, 51.6], ".1f") == "51.2 (50.0 to 52.0)"
    assert deviation([50.0], ".1f") == spanned([50.0], ".1f") == "50.0"
    assert spanned([12, 12], ".0f") == "12"


def test_a_sweep_takes_every_test_set(tmp_path: Path) -> None:
    runs = runs_in(tmp_path)
    methods = ["crbp20", "baseline"]
    (names,) = {run.cfg().DATASETS.TEST for run in runs}
    found = PANOPTIC.checkpoints(runs, methods, tmp_path / "sweep")
    assert [one.label for one in found] == ["crbp20", "crbp20", "baseline", "baseline"]
    assert {one.cfg.DATASETS.TEST for one in found} == {names}
    assert {one.cfg.OUTPUT_DIR for one in found} == {str(tmp_path / "sweep")}
    two = replace(PANOPTIC, test_sets=("one_test", "another_test"))
    found = two.checkpoints(runs, methods[:1], tmp_path / "sweep")
    assert [(one.cfg.SEED, one.cfg.DATASETS.TEST) for one in found] == [
        (seed, (name,)) for seed in (1, 2) for name in ("one_test", "another_test")
    ]
    assert all(names == run.cfg().DATASETS.TEST for run in runs)
    with pytest.raises(UserError, match="no run of bptt3 is finished"):
        PANOPTIC.checkpoints(runs, ["bptt3"], tmp_path)


def test_several_trainings_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = runs_in(tmp_path)
    finish(runs[2])
    by_folder = {run.folder: run for run in runs}
    # It breaks if two are never under way together.
    pair = threading.Barrier(2, timeout=10)
    asked: list[Path] = []

    def fake(module: str, text: str, threads: int) -> dict[str, Any]:
        run = by_folder[Path(TrainingTask.load(text).options[-1])]
        asked.append(run.folder)
        if run in runs[:2]:
            pair.wait()
        finish(run)
        return {}

    monkeypatch.setattr(comparison, "ask_worker", fake)
    said: list[str] = []
    comparison.train(runs, threads=1, parallel=2, log=said.append)
    assert sorted(asked) == sorted(run.folder for run in (runs[0], runs[1], runs[3]))
    assert said[0] == "1 of 4 runs are there already" and len(said) == 4


@pytest.mark.parametrize("parallel", [1, 2])
def test_a_failure_begins_no_further_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parallel: int
) -> None:
    runs = PANOPTIC.plan(tmp_path, methods=["baseline"], seeds=range(9), configs=PATTERN)
    asked: list[str] = []

    def fake(module: str, text: str, threads: int) -> dict[str, Any]:
        asked.append(text)
        return {"error": "no space left"}

    monkeypatch.setattr(comparison, "ask_worker", fake)
    with pytest.raises(UserError, match=r"training .*baseline_0 failed: no space left"):
        comparison.train(runs, threads=1, parallel=parallel, log=lambda _: None)
    assert len(asked) <= parallel


def test_a_training_without_a_result_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run, *_) = runs_in(tmp_path)
    monkeypatch.setattr(comparison, "ask_worker", lambda *_: {})
    with pytest.raises(UserError, match=r"baseline_1 left no model_final\.pth.*BEST_METRIC"):
        comparison.train([run], threads=1, log=lambda _: None)
