"""A killed and resumed training against an uninterrupted one."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from rpanoptic.engine.run import run
from rpanoptic.engine.solver_settings import SolverSettings
from rpanoptic.engine.trainer import Trainer
from rpanoptic.errors import CheckpointError
from tests.engine.records import metrics
from tests.engine.tiny import TINY_CONFIG, tiny_cfg, tiny_options
from tests.paths import ROOT

ITERATIONS = 6
# A line of metrics for each iteration; checkpoints after iterations 1, 3 and 5.
SETTINGS: dict[str, Any] = {
    "SOLVER__MAX_ITER": ITERATIONS,
    "SOLVER__CHECKPOINT_PERIOD": 2,
    "RPANOPTIC__LOG_PERIOD": 1,
    "RPANOPTIC__PICTURES": 0,
    # An evaluation draws random numbers, too, and may not disturb the training's.
    "TEST__EVAL_PERIOD": 4,
}
TWO = ("--num-gpus", "2", "--dist-url", "auto")


def start(output: Path, *flags: str, **changes: Any) -> subprocess.Popen[bytes]:
    options = tiny_options(OUTPUT_DIR=output, **{**SETTINGS, **changes})
    script = str(ROOT / "tools" / "train_net.py")
    command = [sys.executable, script, "--config-file", str(TINY_CONFIG), *flags, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # Its own session: the kill must reach the process alone, as a machine that fails would.
    with (output.parent / f"{output.name}.log").open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def train(output: Path, *flags: str, **changes: Any) -> None:
    status = start(output, *flags, **changes).wait(300)
    assert status == 0, (output.parent / f"{output.name}.log").read_text()[-3000:]


def kill_after(output: Path, iteration: int, **changes: Any) -> None:
    """Start a training and kill it once it has written the metrics of an iteration."""
    process = start(output, **changes)
    try:
        for _ in range(3000):
            if iteration in metrics(output):
                break
            assert process.poll() is None, "the training ended before it could be killed"
            time.sleep(0.02)
        else:
            pytest.fail("the training did not come as far as it should")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)


def weights(output: Path) -> dict[str, torch.Tensor]:
    return torch.load(output / "model_final.pth", weights_only=True)["model"]


@pytest.fixture(scope="module")
def uninterrupted(tiny_datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(tiny_datasets))
        train(output)
    return output


@pytest.mark.parametrize(
    ("workers", "killed_after"),
    [(0, 2), (2, 3)],
    ids=["without workers, between checkpoints", "with workers, after an evaluation"],
)
def test_killed_training_goes_on_as_if_nothing_had_happened(
    uninterrupted: Path, tiny_data: Path, tmp_path: Path, workers: int, killed_after: int
) -> None:
    output = tmp_path / "run"
    kill_after(output, killed_after, DATALOADER__NUM_WORKERS=workers)
    assert not (output / "model_final.pth").exists()
    train(output, "--resume", DATALOADER__NUM_WORKERS=workers)
    # One thread computes the same sums in the same order: equal to the last bit.
    assert metrics(output) == metrics(uninterrupted)
    expected = weights(uninterrupted)
    assert all(torch.equal(value, expected[name]) for name, value in weights(output).items())


def leave_checkpoint(source: Path, iteration: int, output: Path) -> dict[str, Any]:
    """Let a folder look as if its training had ended after a checkpoint; returns its content."""
    output.mkdir()
    name = f"model_{iteration:07d}.pth"
    shutil.copyfile(source / name, output / name)
    (output / "last_checkpoint").write_text(name)
    return torch.load(output / name, weights_only=True)


def resume_here(output: Path, **changes: Any) -> str:
    """Resume in this process; returns what was logged."""
    arguments = argparse.Namespace(config_file="", resume=True, eval_only=False)
    run(tiny_cfg(output, **{**SETTINGS, **changes}), arguments)
    return (output / "log.txt").read_text()


def test_checkpoint_of_an_earlier_version_is_resumed_with_a_warning(
    uninterrupted: Path, tiny_data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    checkpoint = leave_checkpoint(uninterrupted, 3, output)
    kept = checkpoint["trainer"]["hooks"]
    for name in ("RandomStates", "DataPosition", "RecentScalars", "SolverSettings"):
        del kept[name]
    torch.save(checkpoint, output / "model_0000003.pth")
    log = resume_here(output)
    assert "does not say which data it has seen: their order starts anew" in log
    assert "holds no random states: random numbers start anew" in log
    here, there = metrics(output), metrics(uninterrupted)
    assert list(here) == [4, 5, 6]
    # Not the data of an uninterrupted training: the other tests of this file can fail.
    assert here[4]["total_loss"] != there[4]["total_loss"]


def test_settings_of_the_solver_are_those_of_the_checkpoint(
    uninterrupted: Path, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leave_checkpoint(uninterrupted, 3, tmp_path / "run")
    cfg = tiny_cfg(tmp_path / "run", **SETTINGS)
    kept = cfg.SOLVER.BASE_LR
    cfg.SOLVER.BASE_LR, cfg.SOLVER.GAMMA = kept / 2, 0.5
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    (warning,) = [r.getMessage() for r in caplog.records if "config's" in r.getMessage()]
    assert f"config's: SOLVER.BASE_LR {kept} (now {kept / 2}). To train" in warning
    # So it is, and so the next checkpoint says.
    assert trainer.scheduler.base_lrs[0] == kept
    (settings,) = [hook for hook in trainer._hooks if isinstance(hook, SolverSettings)]
    assert settings.state_dict()["BASE_LR"] == kept


@pytest.mark.parametrize("earlier_version", [False, True])
def test_state_of_another_optimizer_is_refused(
    uninterrupted: Path, tiny_data: Path, tmp_path: Path, earlier_version: bool
) -> None:
    checkpoint = leave_checkpoint(uninterrupted, 3, tmp_path / "run")
    message = "RPANOPTIC.OPTIMIZER is 'sgd', but the checkpoint holds the state of 'adamw'"
    if earlier_version:
        del checkpoint["trainer"]["hooks"]["SolverSettings"]
        torch.save(checkpoint, tmp_path / "run" / "model_0000003.pth")
        message = "of another optimizer than RPANOPTIC.OPTIMIZER names: it lacks momentum"
    cfg = tiny_cfg(tmp_path / "run", **SETTINGS, RPANOPTIC__OPTIMIZER="sgd")
    with pytest.raises(CheckpointError, match=message):
        Trainer(cfg).resume_or_load(resume=True)


def test_state_of_other_groups_is_refused(
    uninterrupted: Path, tiny_data: Path, tmp_path: Path
) -> None:
    leave_checkpoint(uninterrupted, 3, tmp_path / "run")
    cfg = tiny_cfg(tmp_path / "run", **SETTINGS, SOLVER__BIAS_LR_FACTOR=2.0)
    with pytest.raises(CheckpointError, match=r"other groups of parameters.*SOLVER"):
        Trainer(cfg).resume_or_load(resume=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, launch would use it")
def test_two_processes_resume_exactly_and_one_says_why_it_cannot(
    tiny_data: Path, tmp_path: Path
) -> None:
    changes = {"SOLVER__MAX_ITER": 3, "TEST__EVAL_PERIOD": 0}
    whole, resumed, alone = (tmp_path / name for name in ("whole", "resumed", "alone"))
    train(whole, *TWO, **changes)
    leave_checkpoint(whole, 1, resumed)
    train(resumed, "--resume", *TWO, **changes)
    expected = metrics(whole)
    assert metrics(resumed) == {i: expected[i] for i in (2, 3)}

    leave_checkpoint(whole, 1, alone)
    log = resume_here(alone, **changes)
    assert "There are 1 processes, and were 2 before" in log
    assert "was written by 2 processes, and there are 1" in log
    assert list(metrics(alone)) == [2, 3]
