"""The comparison on digits: a fair one, and all of it in a few iterations."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.modeling import build_model

from rpanoptic.benchmarks.digits import DIGITS
from tests.benchmarks.runs import one_process, read
from tests.data.helpers import load_script

__all__ = ["one_process"]

benchmark = load_script("tools/benchmark.py")

TINY = {
    "MODEL.DEVICE": "cpu",
    "RPANOPTIC.PICTURES": 0,
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.MAX_ITER": 2,
    "TEST.EVAL_PERIOD": 2,
    "MODEL.RECURRENT.CONVRNN.WIDTH": 0.25,
}


def test_all_networks_have_as_many_parameters(tmp_path: Path) -> None:
    level, *recurrent = (
        sum(p.numel() for p in build_model(run.cfg()).parameters())
        for run in DIGITS.plan(tmp_path, seeds=[1], opts=["MODEL.DEVICE", "cpu"])
    )
    assert len(set(recurrent)) == 1
    # Widths are whole numbers: half a per cent is as near as was looked for.
    assert level == pytest.approx(recurrent[0], rel=5e-3)


def test_they_differ_in_their_layers_alone(tmp_path: Path) -> None:
    runs = DIGITS.plan(tmp_path, seeds=[1])
    nodes = [run.cfg().clone() for run in runs]
    for cfg in nodes:
        # What a network without a loop does not read.
        del cfg.MODEL.RECURRENT["CONVRNN"], cfg["OUTPUT_DIR"]
    assert all(cfg == nodes[0] for cfg in nodes)


def test_two_of_them_differ_in_their_gradient_alone(tmp_path: Path) -> None:
    bptt, crbp = DIGITS.plan(tmp_path, seeds=[1], methods=["bptt10", "crbp10"])
    first, second = bptt.cfg().clone(), crbp.cfg().clone()
    for cfg in (first, second):
        node = cfg.MODEL.RECURRENT.CONVRNN
        del node["GRADIENT"], node["LIPSCHITZ"], cfg["OUTPUT_DIR"]
    assert first == second


def test_trains_sweeps_and_tabulates(
    tmp_path: Path, one_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["digits", "--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "results")]
    argv += ["--methods", "feedforward", "reciprocal_gated", "--seeds", "1", "--threads", "1"]
    argv += ["--steps", "3,8,16"]
    argv += ["--only", "train", "sweep", "table", "--opts"]
    assert benchmark.main([*argv, *(str(word) for pair in TINY.items() for word in pair)]) == 0
    rows = {row["method"]: row for row in read(tmp_path / "results" / "digits.csv")}
    assert set(rows) == {"feedforward", "reciprocal_gated"}
    swept = read(tmp_path / "results" / "digits_steps.csv")
    swept = [row for row in swept if row["label"] == "reciprocal_gated"]
    places = [(row["dataset"], row["test_steps"]) for row in swept]
    assert places == [(name, str(n)) for name in DIGITS.test_sets for n in (3, 8, 16)]
    for name, before in zip(DIGITS.test_sets, ("", "noisy "), strict=True):
        for steps, after in (("8", ""), ("16", " at 2x")):
            (row,) = (r for r, p in zip(swept, places, strict=True) if p == (name, steps))
            assert rows["reciprocal_gated"][f"{before}top-1{after}"] == row["classification/top1"]
    assert rows["feedforward"]["top-1"] and not rows["feedforward"]["top-1 at 2x"]
    said = capsys.readouterr().out
    assert all(column in said for column in DIGITS.columns)
