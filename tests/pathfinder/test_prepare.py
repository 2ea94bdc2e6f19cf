"""The command line ``datasets/prepare_pathfinder.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpanoptic.pathfinder.sources import StoredSource
from tests.data.helpers import load_script
from tests.pathfinder.sets import small_set

SMALL = [
    *("--length", "4", "--split", "val", "--num", "6", "--seed", "3", "--size", "32"),
    *("--border", "1", "--paddle-length", "2", "--thickness", "0.5", "--margin", "1"),
    *("--continuity", "1", "--distractors", "1", "--marker-radius", "1.5", "--antialias", "4"),
    *("--seed-distance", "7", "--shard-size", "4", "--workers", "1", "--name", "small"),
]


def run(*words: str) -> int:
    return load_script("datasets/prepare_pathfinder.py").main([*words])


def test_it_draws_checks_mends_and_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "small"
    place = ("--root", str(tmp_path))
    assert run(*SMALL, *place) == 0
    assert f"{folder}: 6 pictures in 2 shards, 2 of them new." in capsys.readouterr().out
    assert StoredSource(folder).description.content == small_set(number=6)

    assert run(*SMALL, *place) == 0
    assert "none of them new" in capsys.readouterr().out

    shard = folder / "shard-00001.zip"
    shard.write_bytes(shard.read_bytes()[:-1])
    for words in ((*SMALL, *place), ("--folder", str(folder))):
        assert run(*words, "--check") == 1
        assert f"{shard}: its SHA-256 is not that of" in capsys.readouterr().out
    assert run("--folder", str(folder)) == 0
    assert "1 of them new" in capsys.readouterr().out
    assert run("--folder", str(folder), "--check") == 0
    assert "all shards are as they were written" in capsys.readouterr().out

    assert run(*SMALL, *place, "--size", "40") == 2
    assert "error: " in (err := capsys.readouterr().err) and "size 32, not 40" in err
    assert run(*SMALL, *place, "--size", "40", "--overwrite") == 0
    assert StoredSource(folder).settings.size == 40


def test_lengths_and_forms(tmp_path: Path) -> None:
    words = ("--length", "3-4,6", "--form", "classification", "--contrasts", "0.5", "1")
    assert run(*SMALL, "--root", str(tmp_path), *words) == 0
    settings = StoredSource(tmp_path / "small").settings
    assert settings.lengths == (3, 4, 6) and settings.form == "classification"
    assert settings.contrasts == (0.5, 1.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--length", "14", "--split", "val", "--size", "20"], "size: "),
        (["--length", "15", "--split", "val"], "--name: no registered set"),
        (["--folder", "nowhere"], "nowhere: there is no Pathfinder set"),
    ],
)
def test_what_cannot_be_is_said(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    assert f"error: {message}" in capsys.readouterr().err.replace("--folder nowhere", "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --length and --split, or --folder"),
        (["--length", "14"], "give --length and --split"),
        (["--length", "14", "--split", "val", "--folder", "x"], "takes all settings from the set"),
        (["--length", "14", "--split", "vla"], "invalid choice: 'vla'"),
        (["--length", "x", "--split", "val"], "'x' is not a whole number"),
        (["--length", "14", "--split", "val", "--num", "0"], "0 is not at least 1"),
    ],
)
def test_what_is_no_command_is_said(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(*words)
    assert stopped.value.code == 2 and message in capsys.readouterr().err
