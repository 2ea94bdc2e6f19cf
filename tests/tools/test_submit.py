from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rpanoptic.engine.slurm import JobOptions
from tests.conftest import load_script
from tests.engine.tiny import TINY_CONFIG

pytest.importorskip("submitit")
submit = load_script("tools/submit.py")


class Job(SimpleNamespace):
    """What submitit returns; ``error`` is what stopped the job."""

    job_id = "12"
    paths = SimpleNamespace(stdout="12.out", stderr="12.err")
    error: Exception | None = None

    def wait(self) -> None:
        self.waited = True

    def exception(self) -> Exception | None:
        return self.error


@pytest.fixture()
def queued(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was submitted, and the job."""
    calls: list[Any] = []

    def record(args: argparse.Namespace, options: JobOptions) -> Job:
        calls[:] = [args, options, Job()]
        return calls[2]

    monkeypatch.setattr(submit, "submit", record)
    return calls


def test_command_line_is_divided(
    tmp_path: Path, queued: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--partition", "gpu", "--nodes", "2", "--tasks-per-node", "8", "--folder", str(tmp_path)]
    run = ["--config-file", "some.yaml", "--resume", "SOLVER.MAX_ITER", "5"]
    assert submit.main([*own, "--", *run]) == 0
    args, options, job = queued
    assert (args.config_file, args.resume) == ("some.yaml", True)
    assert args.opts == ["SOLVER.MAX_ITER", "5"]
    assert options == JobOptions(folder=tmp_path, partition="gpu", nodes=2, tasks_per_node=8)
    assert "job 12 is queued; its logs: 12.out, 12.err" in capsys.readouterr().out
    assert not hasattr(job, "waited")


def test_data_of_one_s_own_are_looked_for_on_the_machines_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job gets the words; what is not there yet, or not here, stops nothing before it."""
    queued: list[Any] = []

    class Executor:
        def __init__(self, *args: Any, **options: Any) -> None: ...

        def update_parameters(self, **options: Any) -> None: ...

        def submit(self, job: Any) -> Job:
            queued.append(job)
            return Job()

    monkeypatch.setattr("submitit.AutoExecutor", Executor)
    paths = ["absent/photos", "absent/panoptic.json", "absent/masks"]
    run = ["--config-file", str(TINY_CONFIG), "--train-data", *paths, "OUTPUT_DIR", str(tmp_path)]
    assert submit.main(["--cluster", "local", "--", *run]) == 0
    assert queued[0].args.train_data == [paths]


@pytest.mark.parametrize(("error", "status"), [(None, 0), (RuntimeError("stopped"), 1)])
def test_waiting_tells_how_the_job_ended(
    queued: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception | None,
    status: int,
) -> None:
    monkeypatch.setattr(Job, "error", error)
    assert submit.main(["--wait", "--", "--config-file", "some.yaml"]) == status
    assert queued[2].waited
    said = "error: job 12: stopped\nits log: 12.err\n" if error else ""
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("own", "run", "message"),
    [
        ([], ["SOLVER.MAX_ITR", "5"], "SOLVER.MAX_ITER"),
        ([], ["--num-gpus", "8"], "--tasks-per-node"),
        (["--partition", "a b"], [], "partition 'a b'"),
        (["--nodes", "2"], [], "cannot be queued"),
    ],
)
def test_bad_input_is_one_message_and_status_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    own: list[str],
    run: list[str],
    message: str,
) -> None:
    folder = ["--cluster", "local", "--folder", str(tmp_path / "jobs")]
    argv = [*folder, *own, "--", "--config-file", str(TINY_CONFIG), *run]
    assert submit.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
