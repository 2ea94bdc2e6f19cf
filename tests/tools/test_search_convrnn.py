from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("optuna")

from rpanoptic.engine import setup_config
from rpanoptic.engine.search_trial import train_trial, train_trial_apart
from rpanoptic.errors import UserError
from rpanoptic.pathfinder.imagenet.search.run import trial_config
from rpanoptic.pathfinder.imagenet.search.space import SPACES
from rpanoptic.pathfinder.imagenet.search.study import Search
from tests.conftest import load_script
from tests.paths import CONFIGS

tool = load_script("tools/search_convrnn.py")
train_net = load_script("tools/train_net.py")

DIGITS = CONFIGS / "imagenet" / "digits_search.yaml"
# Four iterations on eight pictures, judged after each second one.
TINY = {
    "MODEL.RECURRENT.CONVRNN.WIDTH": 0.25,
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.MAX_ITER": 4,
    "SOLVER.WARMUP_ITERS": 1,
    "TEST.EVAL_PERIOD": 2,
    "MODEL.DEVICE": "cpu",
}
OPTIONS = [str(word) for pair in TINY.items() for word in pair]


def command(folder: Path, *flags: str) -> list[str]:
    own = ["--config-file", str(DIGITS), "--storage", str(folder / "study.db")]
    return [*own, "--output", str(folder / "out"), *flags, *OPTIONS]


def test_a_search_its_report_and_a_trial_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One pruner that stops nothing, so that both trials come to their end.
    flags = ["--space", "cells", "--trials", "2", "--pruner", "none", "--report", "--best", "1"]
    assert tool.main(command(tmp_path, *flags)) == 0
    out = capsys.readouterr().out
    lines = re.findall(r"^trial (\d): ([\d.]+), ([\d,]+) parameters", out, re.MULTILINE)
    assert [number for number, *_ in lines] == ["0", "1"]
    folder = tmp_path / "out"
    report = (folder / "report.md").read_text()
    assert "2 trials: 2 completed" in report and "Too few completed trials" in report
    for number, value, size in lines:
        trial = folder / f"trial_{number}"
        weights = torch.load(trial / "model_final.pth", weights_only=True)["model"]
        learnt = {n: w for n, w in weights.items() if not n.startswith("pixel_")}
        assert f"{sum(w.numel() for w in learnt.values()):,}" == size
        metrics = [json.loads(line) for line in (trial / "metrics.json").read_text().splitlines()]
        assert f"{metrics[-1]['classification/top1']:.2f}" == value

    # The report alone needs no config.
    argv = ["--storage", str(tmp_path / "study.db"), "--output", str(tmp_path / "again")]
    assert tool.main([*argv, "--report", "--best", "1"]) == 0
    assert (tmp_path / "again" / "report.md").read_text() == report

    # What a trial left behind trains to the same weights.
    again = ["OUTPUT_DIR", str(tmp_path / "trained")]
    assert train_net.main(["--config-file", str(folder / "trial_0" / "trial.yaml"), *again]) == 0
    ours, theirs = (
        torch.load(place / "model_final.pth", weights_only=True)["model"]
        for place in (folder / "trial_0", tmp_path / "trained")
    )
    # Sums of several threads may differ in the last digit.
    assert all(torch.allclose(theirs[name], w, rtol=1e-4, atol=1e-6) for name, w in ours.items())


def tiny_search(folder: Path) -> Search:
    base = setup_config(DIGITS, OPTIONS, output_dir=folder)
    return Search(SPACES["cells"], base)


VALUES = {"cell": "ugrnn", "kernel_size": 3, "steps": 3, "learning_rate": 0.01}


def test_reports_stop_a_training(tmp_path: Path) -> None:
    search = tiny_search(tmp_path)
    cfg = trial_config(search, VALUES, tmp_path)
    seen: list[tuple[int, float]] = []

    def stop(evaluation: int, value: float) -> bool:
        seen.append((evaluation, value))
        return False

    assert train_trial(cfg, stop) is None
    assert [evaluation for evaluation, _ in seen] == [1] and 0 <= seen[0][1] <= 100
    assert not (tmp_path / "model_final.pth").exists()


def test_what_ends_the_process_of_a_trial_is_its_reason(tmp_path: Path) -> None:
    search = tiny_search(tmp_path)
    cfg = trial_config(search, VALUES | {"learning_rate": 1e30}, tmp_path / "trial_0")
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    with pytest.raises(UserError, match=r"nan|not finite|inf"):
        train_trial_apart(cfg, lambda *_: True)
    assert (tmp_path / "trial_0" / "console.txt").exists()


def test_bad_input_is_one_message_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.db"
    text.write_text("no study")
    own = ["--output", str(tmp_path / "out"), "--storage"]
    config = ["--config-file", str(DIGITS)]
    cases = [
        ([*own, str(text)], "give --config-file to search, or --report"),
        ([*own, str(text), "--report"], "text.db is no study: it is not a database of SQLite"),
        ([*own, str(tmp_path / "absent.db"), "--report"], "there is no file"),
        ([*own, str(text), *config], "text.db is no study"),
        ([*own, "a.db", *config, "--report", "--top", "2"], "--top must be above 0 and at most 1"),
        ([*own, "a.db", *config, "--space", "cell"], "--space 'cell' is unknown"),
        ([*own, "a.db", "--config-file", "a.yaml"], "config file a.yaml does not exist"),
        ([*own, "a.db", *config, "RPANOPTIC.BEST_METRIC", "''"], "BEST_METRIC is empty"),
        ([*own, "a.db", *config, "DATASETS.TEST", "('digit',)"], "digit"),
    ]
    for argv, message in cases:
        assert tool.main(argv) == 2, message
        error = capsys.readouterr().err
        assert "error: " in error and message in error
    assert not Path("a.db").exists()
    monkeypatch.setitem(__import__("sys").modules, "optuna.trial", None)
    assert tool.main([*own, "a.db", *config]) == 2
    assert 'pip install "rpanoptic[search]"' in capsys.readouterr().err


def test_a_study_of_another_config_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(command(tmp_path, "--trials", "0")) == 0
    assert tool.main([*command(tmp_path, "--trials", "0"), "SOLVER.GAMMA", "0.5"]) == 2
    assert "SOLVER.GAMMA: 0.1 in the study, 0.5 here" in capsys.readouterr().err
    assert tool.main(command(tmp_path, "--trials", "0", "--space", "cells")) == 2
    assert 'space: "reciprocal_gated" in the study, "cells" here' in capsys.readouterr().err
