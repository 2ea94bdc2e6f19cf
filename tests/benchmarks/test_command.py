from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from tests.data.helpers import load_script

benchmark = load_script("tools/benchmark.py")

TINY = ["--channels", "4", "--size", "6", "--batch", "1", "--threads", "1", "--repeats", "1"]


def test_memory_with_a_method_that_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One step is too few for TorchDEQ, if it is installed at all.
    argv = ["memory", *TINY, "--methods", "rbp", "torchdeq", "--steps", "1"]
    assert benchmark.main([*argv, "--output", str(tmp_path)]) == 1
    written = capsys.readouterr()
    assert "error: torchdeq, 1 steps: method 'torchdeq' needs" in written.err
    assert "failed" in written.out
    with (tmp_path / "memory.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["steps"]) for row in rows] == [("rbp", "1"), ("torchdeq", "1")]
    assert float(rows[0]["peak_mib"]) > 0 and float(rows[0]["tensors_mib"]) > 0
    assert "torchdeq" in rows[1]["error"]
    text = (tmp_path / "memory.md").read_text()
    assert "| rbp" in text and "growth 1 to 1" in text
    with Image.open(tmp_path / "memory.png") as picture:
        assert min(picture.size) > 300


def test_an_unknown_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["speed", "--methods", "rbp", "rnn", "--output", str(tmp_path)]
    assert benchmark.main(argv) == 2
    assert "unknown method 'rnn'; known: bptt" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_adjoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["adjoint", "--radius", "0.8", "--tol", "0.1", "--output", str(tmp_path)]
    assert benchmark.main(argv) == 0
    assert "neumann" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adjoint.csv", "adjoint.md"]


def test_adjoint_with_a_radius_out_of_range(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(["adjoint", "--radius", "1.2", "--output", str(tmp_path)]) == 2
    assert "must lie between 0.5 and 1, got 1.2" in capsys.readouterr().err
