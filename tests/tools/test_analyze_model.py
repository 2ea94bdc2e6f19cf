from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.data.helpers import load_script
from tests.engine.tiny import CONV_RNN, TINY_CONFIG, tiny_options

tool = load_script("tools/analyze_model.py")


def command(*flags: object, **changes: object) -> list[str]:
    argv = ["--config-file", str(TINY_CONFIG), "--size", "64", "64", *map(str, flags)]
    return [*argv, "--opts", *tiny_options(**changes)]


def test_tables_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--tasks", "parameters", "flops", "memory", "--steps", "1", "2"]
    assert tool.main(command(*flags, "--detections", "2", "--output", tmp_path / "o")) == 0
    text = capsys.readouterr().out
    assert "roi_heads.mask_head.recurrence" in text and "MiB" in text and "2 steps" in text
    with (tmp_path / "o" / "model.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    tasks = {row["task"] for row in rows}
    assert tasks == {"parameters", "trainable parameters", "flops", "memory"}
    assert {row["steps"] for row in rows if row["task"] == "memory"} == {"1", "2"}


def test_without_a_folder_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tool.main(command("--tasks", "parameters")) == 0
    assert "total" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_one_message_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("x")
    cases = [
        (["--config-file", str(tmp_path / "absent.yaml")], "absent.yaml does not exist"),
        (command("--output", taken), f"--output: cannot write to the folder {taken}"),
        (command("--size", "16", "64"), "--size 16 64: both sides"),
        (
            command("--tasks", "flops", **CONV_RNN),
            "steps of backbone.bottom_up.recurrence must be at least 7, got 1",
        ),
        (command(MODEL__RECURRENT__MASK_HEAD__CELL="hgur"), "known: "),
    ]
    for argv, message in cases:
        assert tool.main(argv) == 2
        assert message in capsys.readouterr().err


def test_an_unknown_task_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        tool.main(command("--tasks", "speed"))
    assert status.value.code == 2
    assert "invalid choice: 'speed'" in capsys.readouterr().err
