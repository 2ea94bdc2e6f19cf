from __future__ import annotations

from typing import Any

import pytest

from rpanoptic.benchmarks import sweep
from rpanoptic.benchmarks.problem import Problem
from rpanoptic.benchmarks.worker import Task
from rpanoptic.errors import ConfigError

TASK = Task("memory", "rbp", 2, problem=Problem(channels=4, size=6, batch=1))


def test_tasks_of_every_method_and_number_of_steps() -> None:
    todo = sweep.tasks(TASK, ["bptt", "crbp"], [2, 4])
    assert [(t.method, t.steps) for t in todo] == [
        ("bptt", 2),
        ("bptt", 4),
        ("crbp", 2),
        ("crbp", 4),
    ]
    assert all(t.problem == TASK.problem for t in todo)


def test_an_unknown_method_is_found_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="unknown method 'sgd'"):
        sweep.tasks(TASK, ["rbp", "sgd"], [2])


def test_a_worker_that_dies_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep.sys, "executable", "/bin/false")
    assert sweep.run(TASK) == {
        "method": "rbp",
        "steps": 2,
        "error": "worker ended with status 1: no message",
    }


def test_the_smallest_of_several_processes_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[dict[str, Any]] = [
        {"peak_mib": 12.0, "loss": 1.0},
        {"error": "killed"},
        {"peak_mib": 10.0, "loss": 2.0},
    ]
    monkeypatch.setattr(sweep, "run_once", lambda task: results.pop(0))
    row = sweep.run(TASK, processes=3)
    assert row["peak_mib"] == 10
    assert row["loss"] == 2
    assert row["largest_peak_mib"] == 12
    assert "error" not in row
