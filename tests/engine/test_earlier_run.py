from __future__ import annotations

from pathlib import Path

import pytest

from rpanoptic.engine.earlier_run import set_earlier_run_aside


def test_empty_folder_stays_empty(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert set_earlier_run_aside(tmp_path) == []
    assert not caplog.records


def test_each_run_gets_the_next_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "model_final.pth").write_text("weights")
    for run in ("first", "second"):
        (tmp_path / "metrics.json").write_text(run)
        (tmp_path / "last_checkpoint").write_text(run)
        (tmp_path / "model_best.pth").write_text(run)
        set_earlier_run_aside(tmp_path)
    assert "metrics.json is now metrics.2.json" in caplog.text
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "model_final.pth": "weights",
        "metrics.1.json": "first",
        "last_checkpoint.1": "first",
        "model_best.1.pth": "first",
        "metrics.2.json": "second",
        "last_checkpoint.2": "second",
        "model_best.2.pth": "second",
    }


def test_number_is_free_for_all(tmp_path: Path) -> None:
    (tmp_path / "last_checkpoint.1").write_text("old")
    (tmp_path / "metrics.json").write_text("new")
    assert set_earlier_run_aside(tmp_path) == [tmp_path / "metrics.2.json"]
