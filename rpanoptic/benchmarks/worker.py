"""One measurement in a process of its own: ``python -m rpanoptic.benchmarks.worker < task.json``.

The result is the last line of standard output, as JSON: numbers, or ``{"error": ...}``.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from rpanoptic.benchmarks.memory import measure_peak
from rpanoptic.benchmarks.methods import build_loss
from rpanoptic.benchmarks.problem import Problem, seconds
from rpanoptic.errors import UserError


@dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes:
        what: "memory" or "speed".
        method: a name in :data:`rpanoptic.benchmarks.methods.NAMES`.
        steps: of the recurrence.
        terms: products of the adjoint solve; None for one fewer than steps, with which it takes
            as many as back-propagation through time.
        repeats: training steps that are measured.
        threads: of PyTorch.
        problem: cell and drive.
    """

    what: str
    method: str
    steps: int
    terms: int | None = None
    repeats: int = 3
    threads: int = 2
    problem: Problem = field(default_factory=Problem)

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Task:
        """From JSON."""
        values = json.loads(text)
        return cls(**{**values, "problem": Problem(**values["problem"])})


def measure(task: Task) -> dict[str, Any]:
    """Carry out a task in this process.

    Returns:
        numbers by name: MiB, seconds, the loss and the norms of its gradients.

    Raises:
        UserError: what was asked for cannot be done.
    """
    torch.set_num_threads(task.threads)
    terms = task.steps - 1 if task.terms is None else task.terms
    _warm_up(task, terms)
    instance = task.problem.build()
    loss = build_loss(task.method, instance, steps=task.steps, terms=terms)
    value = 0.0

    def training_step() -> None:
        nonlocal value
        value = instance.train(loss)

    result: dict[str, Any] = {}
    if task.what == "memory":
        peak = measure_peak(training_step, task.problem.device, task.repeats)
        result |= {"peak_mib": peak.process, "baseline_mib": peak.baseline}
        result["tensors_mib"] = peak.tensors
    else:
        times = time_calls(training_step, task.problem.device, task.repeats)
        result |= {"seconds": min(times), "median_seconds": statistics.median(times)}
    return result | {
        "terms": terms,
        "loss": value,
        "drive_gradient": instance.drive_gradient().norm().item(),
        "parameter_gradient": instance.parameter_gradient().norm().item(),
    }


def _warm_up(task: Task, terms: int) -> None:
    """A training step on a few pixels: what PyTorch loads at first use is no memory of a method."""
    small = replace(task.problem, size=min(task.problem.size, 8), batch=1).build()
    steps = min(task.steps, 2)
    small.train(build_loss(task.method, small, steps=steps, terms=min(terms, 1)))


def time_calls(function: Callable[[], object], device: str, repeats: int) -> list[float]:
    """Seconds of each of ``repeats`` calls, after one to warm up."""
    return [seconds(function, device) for _ in range(repeats + 1)][1:]


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the error's kind where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def main() -> None:
    """Read a task, carry it out, print the result."""
    try:
        result = measure(Task.load(sys.stdin.read()))
    except (UserError, ValueError, RuntimeError) as error:
        # A task that runs out of memory is a result too; the others go on.
        result = {"error": first_line(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
