from __future__ import annotations

import argparse
import json
import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rpanoptic.engine.launch import run_parser
from rpanoptic.engine.slurm import (
    JobOptions,
    TrainingJob,
    _check_on_cluster,
    _keep_signals_from_children,
    failure,
    submit,
)
from rpanoptic.engine.torchrun import LaunchedProcess, launched_process
from rpanoptic.errors import ConfigError, LaunchError
from tests.engine.tiny import TINY_CONFIG, tiny_options

submitit = pytest.importorskip("submitit")


def arguments(output: Path, *flags: str, **changes: Any) -> argparse.Namespace:
    options = tiny_options(OUTPUT_DIR=output, RPANOPTIC__PICTURES=0, **changes)
    return run_parser().parse_args(["--config-file", str(TINY_CONFIG), *flags, *options])


def note_checkpoint(folder: Path, time: int) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    os.utime(folder / "last_checkpoint", ns=(time, time))


def test_options_as_submitit_names_them(tmp_path: Path) -> None:
    options = JobOptions(
        folder=tmp_path, nodes=2, tasks_per_node=8, partition="gpu", minutes=90, memory_gb=64
    )
    assert options.parameters() == {
        "name": "rpanoptic",
        "nodes": 2,
        "tasks_per_node": 8,
        "gpus_per_node": 8,
        "cpus_per_task": 4,
        "mem_gb": 64,
        "timeout_min": 90,
        "slurm_partition": "gpu",
        "slurm_srun_args": ["--kill-on-bad-exit"],
    }
    assert JobOptions(folder=tmp_path, gpus_per_node=0).parameters()["gpus_per_node"] == 0
    # submitit refuses names that it does not know.
    executor = submitit.AutoExecutor(tmp_path, cluster="local")
    everything = {"account": "a", "qos": "b", "constraint": "c|d", "partition": "p"}
    executor.update_parameters(**JobOptions(folder=tmp_path, **everything).parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partition": "gpu\n#SBATCH --wrap=ls"}, "partition 'gpu"),
        ({"account": "a b"}, "account 'a b'"),
        ({"name": "$(ls)"}, r"name '\$\(ls\)'"),
        ({"nodes": 0}, "nodes of the job must be at least 1"),
        ({"cluster": "lsf"}, "cluster 'lsf' is unknown; known: slurm, local"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        JobOptions(folder=tmp_path, **changes)


def test_faults_are_found_before_the_job_is_queued(tmp_path: Path) -> None:
    options = JobOptions(folder=tmp_path / "jobs", cluster="local")
    with pytest.raises(ConfigError, match=r"SOLVER\.MAX_ITR.*MAX_ITER"):
        submit(arguments(tmp_path, SOLVER__MAX_ITR=1), options)
    with pytest.raises(LaunchError, match=r"--num-gpus.*by --nodes and --tasks-per-node"):
        submit(arguments(tmp_path, "--num-gpus", "2"), options)
    with pytest.raises(LaunchError, match=r"cannot be queued: .*only one node"):
        submit(arguments(tmp_path), JobOptions(folder=tmp_path / "jobs", cluster="local", nodes=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MODEL__META_ARCHITECTURE": "PanopticFPM"}, "META_ARCHITECTURE 'PanopticFPM' is unknown"),
        ({"MODEL__RECURRENT__MASK_HEAD__CELL": "hgu"}, "MODEL.RECURRENT.MASK_HEAD"),
        ({"RPANOPTIC__AMP_DTYPE": "float8"}, "AMP_DTYPE 'float8' is unknown"),
        ({"RPANOPTIC__PROCESS_TIMEOUT": 0.0}, "PROCESS_TIMEOUT must be above 0"),
        ({"DATASETS__TRAIN": ()}, "DATASETS.TRAIN is empty"),
        # Enough for one process.
        ({"SOLVER__IMS_PER_BATCH": 4}, "must be a multiple of 8: 8 process"),
        ({"SOLVER__AMP__ENABLED": True}, "float16 needs a GPU"),
    ],
)
def test_settings_are_checked_for_the_machines_of_the_job(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    options = JobOptions(folder=tmp_path / "jobs", nodes=2, tasks_per_node=4)
    with pytest.raises(ConfigError, match=message):
        submit(arguments(tmp_path, **changes), options)
    assert not (tmp_path / "jobs").exists()


def test_datasets_and_devices_of_the_job_are_not_looked_for_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "none"))
    args = arguments(tmp_path, SOLVER__AMP__ENABLED=True, SOLVER__IMS_PER_BATCH=8)
    args.opts += ["MODEL.DEVICE", "cuda"]
    _check_on_cluster(args, JobOptions(folder=tmp_path, nodes=2, tasks_per_node=4))


def test_job_needs_a_config(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="give --config-file"):
        submit(run_parser().parse_args([]), JobOptions(folder=tmp_path))


def test_failure_is_the_last_exception_of_the_traceback() -> None:
    trace = (
        "Traceback\n  raise x\nKeyError: 'a'\n\nTraceback\npackage.errors.DatasetError: no set b"
    )
    error = RuntimeError(
        f"Job (task=0) failed during processing with trace:\n---\n{trace}\n---\nlogs"
    )
    assert failure(error) == "package.errors.DatasetError: no set b"
    assert (
        failure(RuntimeError("has not produced any output\nlog")) == "has not produced any output"
    )
    assert failure(RuntimeError()) == "RuntimeError"


def test_cluster_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match=r"cannot be queued: .*srun"):
        submit(arguments(tmp_path), JobOptions(folder=tmp_path / "jobs"))


def test_device_of_the_job_is_not_looked_for_here(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    args.opts += ["MODEL.DEVICE", "cuda"]
    assert TrainingJob(args).args.opts[-1] == "cuda"


def test_missing_submitit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(LaunchError, match=r"pip install 'rpanoptic\[slurm\]'"):
        submit(arguments(tmp_path), JobOptions(folder=tmp_path))


def test_job_whose_time_is_over_is_resumed(tmp_path: Path) -> None:
    job = TrainingJob(arguments(tmp_path / "out"))
    # Queued, and over before its first checkpoint: it starts anew.
    delayed = job.checkpoint()
    assert isinstance(delayed, submitit.helpers.DelayedSubmission)
    again = pickle.loads(pickle.dumps(delayed.function))
    assert again.args == job.args
    assert not again.args.resume
    note_checkpoint(tmp_path / "out", 10**18)
    resumed = again.checkpoint().function
    assert resumed.args.resume
    assert not again.args.resume
    assert resumed.args.opts == job.args.opts
    # The next time as well, whether or not there is another checkpoint.
    assert resumed.checkpoint().function.args.resume


def test_checkpoint_of_an_earlier_run_is_not_resumed(tmp_path: Path) -> None:
    note_checkpoint(tmp_path / "out", 10**18)
    job = TrainingJob(arguments(tmp_path / "out"))
    assert not job.checkpoint().function.args.resume
    note_checkpoint(tmp_path / "out", 2 * 10**18)
    assert job.checkpoint().function.args.resume


def test_evaluation_is_repeated(tmp_path: Path) -> None:
    job = TrainingJob(arguments(tmp_path / "out", "--eval-only"))
    note_checkpoint(tmp_path / "out", 10**18)
    assert not job.checkpoint().function.args.resume


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_signal_for_the_job_does_not_end_what_loads_data() -> None:
    answered: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: answered.append(number))
    try:
        _keep_signals_from_children()
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGUSR2)
            os._exit(len(answered))
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        os.kill(os.getpid(), signal.SIGUSR2)
        assert answered == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.fixture()
def started(monkeypatch: pytest.MonkeyPatch) -> list[argparse.Namespace]:
    """What process 1 of 2 of a job was to run; it runs nothing."""
    runs: list[argparse.Namespace] = []
    monkeypatch.setattr("rpanoptic.engine.slurm.start_run", runs.append)
    # The processes that later tests start are none of the job's.
    monkeypatch.setattr(os, "register_at_fork", lambda **_: None)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    for name, value in (("JOB_ID", 7), ("NTASKS", 2), ("GLOBALID", 1), ("LOCALID", 1)):
        monkeypatch.setenv(f"SUBMITIT_LOCAL_{name}", str(value))
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "to be replaced")  # and put back after the test
    monkeypatch.delenv("MASTER_PORT")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "to be replaced")
    return runs


def test_process_of_a_job_knows_its_place(
    tmp_path: Path, started: list[argparse.Namespace]
) -> None:
    job = TrainingJob(arguments(tmp_path / "out"))
    job()
    assert started == [job.args]
    assert launched_process() == LaunchedProcess(rank=1, world_size=2, local_rank=1, local_size=2)


def test_job_that_slurm_starts_again_is_resumed(
    tmp_path: Path, started: list[argparse.Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = TrainingJob(arguments(tmp_path / "out"))
    note_checkpoint(tmp_path / "out", 10**18)
    job()
    monkeypatch.delenv("MASTER_PORT")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    job()
    assert [args.resume for args in started] == [False, True]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the process uses the CPU")
def test_job_trains(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = JobOptions(folder=tmp_path / "jobs", gpus_per_node=0, cluster="local", minutes=10)
    # Without an evaluation; the job is what this is about.
    job = submit(arguments(tmp_path / "out", DATASETS__TEST=()), options)
    job.result()
    lines = (tmp_path / "out" / "metrics.json").read_text().splitlines()
    assert json.loads(lines[-1])["iteration"] == 1
