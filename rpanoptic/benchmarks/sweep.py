"""Methods times numbers of steps, each measured in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rpanoptic.benchmarks.memory import ENVIRONMENT
from rpanoptic.benchmarks.methods import check_method
from rpanoptic.benchmarks.worker import Task

Row = dict[str, Any]


def tasks(base: Task, methods: Sequence[str], steps: Sequence[int]) -> list[Task]:
    """``base`` for every method and number of steps.

    Raises:
        ConfigError: an unknown method.
    """
    for name in methods:
        check_method(name)
    return [replace(base, method=name, steps=count) for name in methods for count in steps]


def run(task: Task, processes: int = 1) -> Row:
    """Measure a task in fresh processes, one after the other.

    Returns:
        method and steps with what was measured, of the process with the smallest peak or time;
        for memory also ``largest_peak_mib``. Where none succeeded, ``error`` says why.
    """
    results = [run_once(task) for _ in range(processes)]
    row: Row = {"method": task.method, "steps": task.steps}
    good = [result for result in results if "error" not in result]
    if not good:
        return row | results[0]
    key = "peak_mib" if task.what == "memory" else "seconds"
    row |= min(good, key=lambda result: result[key])
    if task.what == "memory":
        row["largest_peak_mib"] = max(result[key] for result in good)
    return row


def run_all(todo: Iterable[Task], processes: int = 1) -> Iterator[Row]:
    """Yield a row for each task as it is done."""
    for task in todo:
        yield run(task, processes)


def run_once(task: Task) -> Row:
    """Measure a task in one fresh process; a failure of any kind becomes ``{"error": ...}``."""
    environment = ENVIRONMENT if task.what == "memory" else {}
    return ask_worker("rpanoptic.benchmarks.worker", task.dump(), task.threads, environment)


def ask_worker(
    module: str, task: str, threads: int, environment: Mapping[str, str] | None = None
) -> Row:
    """Hand a task to a fresh process and return its result.

    Args:
        module: reads the task from standard input; the last line that it prints is the result, as
            JSON.
        task: the text of the task.
        threads: that libraries may start.
        environment: further variables.

    Returns:
        the result; ``{"error": ...}`` where the process failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=task,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
    # A negative status is a signal: -9 is how a system short of memory ends a process.
    return {"error": f"worker ended with status {done.returncode}: {reason}"}
