from __future__ import annotations

import argparse
import socket
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm

from rpanoptic.engine.launch import run_parser, start_run
from rpanoptic.engine.torchrun import (
    LaunchedProcess,
    _make_local_groups,
    check_flags,
    check_slurm_step,
    launched_process,
    process_group,
    speaks_for_all,
)
from rpanoptic.errors import ConfigError, LaunchError
from tests.engine.tiny import TINY_CONFIG, tiny_cfg, tiny_options

SOUND = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_environment_of_torchrun() -> None:
    assert launched_process({}) is None
    assert launched_process({"RANK": "0"}) is None
    process = launched_process(SOUND)
    assert process == LaunchedProcess(rank=3, world_size=4, local_rank=1, local_size=2)
    assert str(process).startswith("process 3 of 4 (on ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"LOCAL_RANK": None}, "lacks LOCAL_RANK: start with torchrun"),
        ({"MASTER_ADDR": None, "MASTER_PORT": None}, "lacks MASTER_ADDR, MASTER_PORT"),
        ({"RANK": "first"}, "RANK in the environment must be a number; got 'first'"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE in the environment must be a number; got '-1'"),
        ({"RANK": "4"}, "RANK is 4 of WORLD_SIZE 4"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK is 2 of 2"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT is 0, which is no port"),
    ],
)
def test_environment_that_cannot_be(changes: dict[str, str | None], message: str) -> None:
    environment = {k: v for k, v in (SOUND | changes).items() if v is not None}
    with pytest.raises(LaunchError, match=message):
        launched_process(environment)


def test_processes_cannot_be_asked_for_twice() -> None:
    check_flags(run_parser().parse_args([]))
    with pytest.raises(LaunchError, match="so --num-gpus 2 and --machine-rank 1 cannot be given"):
        check_flags(run_parser().parse_args(["--num-gpus", "2", "--machine-rank", "1"]))


def test_tasks_of_srun_that_know_nothing_of_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_slurm_step({})
    # A batch script has a rank and the number of the job's tasks, but is one process.
    check_slurm_step({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"})
    check_slurm_step({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"})
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    args = run_parser().parse_args(["--config-file", str(TINY_CONFIG)])
    with pytest.raises(LaunchError, match=r"srun has started 8 processes, .* number 3, .*submit"):
        start_run(args)
    # Flags that name the others are enough, and so are torchrun's variables.
    args.num_machines, args.opts = 8, ["SOLVER.MAX_ITR", "1"]
    with pytest.raises(ConfigError, match="MAX_ITR"):
        start_run(args)
    args.num_machines = 1
    for name, value in SOUND.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="MAX_ITR"):
        start_run(args)


def test_one_process_alone_needs_no_group(tmp_path: Path) -> None:
    with process_group(LaunchedProcess(0, 1, 0, 1), tiny_cfg(tmp_path)):
        assert not torch.distributed.is_initialized()


def test_one_gpu_too_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    cfg = tiny_cfg(tmp_path)
    cfg.MODEL.DEVICE = "cuda"
    process = LaunchedProcess(1, 2, 1, 2)
    message = "process 1 of 2 .* is number 1 of its machine.* finds 1 GPU"
    with pytest.raises(LaunchError, match=message), process_group(process, cfg):
        pass


def test_others_that_do_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    cfg = tiny_cfg(tmp_path, RPANOPTIC__PROCESS_TIMEOUT=1.0)
    message = rf"process 1 of 2 .* did not meet the others at 127.0.0.1:{port} within 1 s"
    with (
        pytest.raises(LaunchError, match=message),
        process_group(LaunchedProcess(1, 2, 1, 2), cfg),
    ):
        pass
    assert not torch.distributed.is_initialized()
    assert comm._LOCAL_PROCESS_GROUP is None


def test_local_group_has_the_processes_of_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three machines of one, two and one processes; no group is really made."""
    firsts, made = [0, 1, 1, 3], []

    def gather(found: list[int], own: int) -> None:
        assert own == firsts[2]
        found[:] = firsts

    def new_group(ranks: list[int]) -> str:
        made.append(ranks)
        return f"group of {ranks}"

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    monkeypatch.setattr(torch.distributed, "new_group", new_group)
    monkeypatch.setattr(comm, "_LOCAL_PROCESS_GROUP", None)
    _make_local_groups(LaunchedProcess(rank=2, world_size=4, local_rank=1, local_size=2))
    assert made == [[0], [1, 2], [3]]
    assert comm._LOCAL_PROCESS_GROUP == "group of [1, 2]"


def test_error_is_told_by_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert speaks_for_all({})
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
    }
    assert [speaks_for_all(environment) for _ in range(3)] == [True, False, False]
    # torchrun may start the processes again.
    assert speaks_for_all(environment | {"TORCHELASTIC_RESTART_COUNT": "1"})
    # Without the store nobody knows, and twice is better than never.
    assert speaks_for_all({"TORCHELASTIC_USE_AGENT_STORE": "True"})


def test_time_limit_must_be_a_time(tmp_path: Path) -> None:
    options = tiny_options(OUTPUT_DIR=tmp_path, RPANOPTIC__PROCESS_TIMEOUT=0.0)
    args: argparse.Namespace = run_parser().parse_args(
        ["--config-file", str(TINY_CONFIG), *options]
    )
    with pytest.raises(ConfigError, match="PROCESS_TIMEOUT must be above 0"):
        start_run(args)
