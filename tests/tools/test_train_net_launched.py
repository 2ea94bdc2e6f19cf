"""Runs of several processes that torchrun, or a call on each machine, starts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.conftest import load_script
from tests.engine.tiny import TINY_CONFIG, tiny_options
from tests.paths import ROOT

train_net = load_script("tools/train_net.py")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="these processes share a CPU")

TRAIN_NET = ROOT / "tools" / "train_net.py"
# Far above what the processes take: what hangs must fail at last.
LIMIT = 300


def command(output: Path, *flags: str, **changes: object) -> list[str]:
    options = tiny_options(OUTPUT_DIR=output, RPANOPTIC__PICTURES=0, **changes)
    return [str(TRAIN_NET), "--config-file", str(TINY_CONFIG), *flags, *options]


def torchrun(*words: str) -> tuple[int, str]:
    """Exit status and standard error of two processes of a command line."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, *words],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        cwd=ROOT,
        timeout=LIMIT,
    )
    return done.returncode, done.stderr


def test_torchrun(tiny_data: Path, tmp_path: Path) -> None:
    status, error = torchrun(*command(tmp_path, SOLVER__IMS_PER_BATCH=4, RPANOPTIC__ACCUMULATION=2))
    assert status == 0, error
    last = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert last["iteration"] == 2
    assert "panoptic_seg/PQ" in last
    # The second process logs for itself.
    assert "World size: 2" in (tmp_path / "log.txt.rank1").read_text()


def test_error_under_torchrun_is_one_message_and_status_2(tiny_data: Path, tmp_path: Path) -> None:
    status, error = torchrun(*command(tmp_path, "--num-gpus", "2"))
    assert status != 0
    assert error.count("error: torchrun has started the processes already") == 1
    assert error.count("error: ") == 1
    # torchrun names the status of the first process that failed.
    assert "exitcode  : 2" in error
    assert not list(tmp_path.iterdir())


def test_two_machines(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Detectron2's flags, with two calls on this machine for two machines."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    meeting = (tmp_path / "meeting").as_uri()  # a file: any port may be taken

    def machine(rank: int) -> int:
        flags = ("--num-machines", "2", "--machine-rank", str(rank), "--dist-url", meeting)
        # Without an evaluation; the processes are what this is about.
        return train_net.main(command(tmp_path / "out", *flags, DATASETS__TEST=())[1:])

    with ThreadPoolExecutor(2) as machines:
        assert list(machines.map(machine, (0, 1))) == [0, 0]
    lines = (tmp_path / "out" / "metrics.json").read_text().splitlines()
    assert json.loads(lines[-1])["iteration"] == 1
    assert "World size: 2" in (tmp_path / "out" / "log.txt.rank1").read_text()


def test_machine_that_meets_no_other(
    tiny_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = command(
        tmp_path / "out",
        *("--num-machines", "2", "--dist-url", "tcp://127.0.0.1:0"),
        RPANOPTIC__PROCESS_TIMEOUT=2.0,
    )
    assert train_net.main(argv[1:]) == 2
    error = capfd.readouterr().err
    last = error[error.index("error: ") :]
    assert last.startswith("error: process 0 of 2 cannot reach the others at tcp://127.0.0.1:0")
    assert "PROCESS_TIMEOUT" in last
    assert "Traceback" not in last


def test_address_of_another_run(
    tiny_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("", 0)) as other:
        url = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        argv = command(tmp_path / "out", "--num-machines", "2", "--dist-url", url)
        assert train_net.main(argv[1:]) == 2
    error = capfd.readouterr().err
    last = error[error.index("error: ") :]
    assert last.startswith(f"error: the address {url}, at which the processes are to meet, is in")
    assert "--dist-url auto" in last
    assert "Traceback" not in last
