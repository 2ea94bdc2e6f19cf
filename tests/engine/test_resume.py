"""A killed and resumed training against an uninterrupted one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.tiny import TINY_CONFIG, tiny_options
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
# What tells of the clock.
CLOCK = {"time", "data_time", "rank_data_time", "eta_seconds"}


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


def metrics(output: Path) -> dict[int, dict[str, float]]:
    """Metrics by iteration, the last line for each, without what tells of the clock."""
    file = output / "metrics.json"
    found: dict[int, dict[str, float]] = {}
    # The last line may be half-written.
    for line in file.read_text().splitlines(keepends=True) if file.is_file() else []:
        if line.endswith("\n"):
            values = json.loads(line)
            found[values["iteration"]] = {k: v for k, v in values.items() if k not in CLOCK}
    return found


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
