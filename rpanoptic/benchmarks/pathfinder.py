"""The hGRU of the Pathfinder experiments: what its convolutions and tolerances cost and change."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rpanoptic.benchmarks.methods import Loss, build_loss
from rpanoptic.benchmarks.problem import Instance, Problem, seconds
from rpanoptic.benchmarks.report import Row, table
from rpanoptic.errors import ConfigError
from rpanoptic.recurrent.convolution import direct_convolutions

# Linsley et al., NeurIPS 2020: 25 channels, kernels of 15 x 15, pictures of 150 x 150.
PROBLEM = Problem("hgru_pathfinder", channels=25, kernel_size=15, size=150, batch=4)


@dataclass(frozen=True)
class Setting:
    """A way to take the training step.

    Attributes:
        name: in the table.
        reference: name of the setting whose loss and gradients it is compared with.
        method: a name in :data:`rpanoptic.benchmarks.methods.NAMES`.
        direct: force direct convolutions.
        channels_last: lay out drive and state so.
        options: keyword arguments of :func:`build_loss`.
    """

    name: str
    reference: str
    method: str = "crbp"
    direct: bool = False
    channels_last: bool = False
    options: dict[str, Any] = field(default_factory=dict)


DIRECT, PLAIN = "crbp, direct convolutions", "rbp"
_ANDERSON = {"adjoint": {"solver": "anderson", "tol": 1e-4}}
SETTINGS = (
    Setting(DIRECT, DIRECT, direct=True),
    Setting("crbp", DIRECT),
    Setting("crbp, forward tol 1e-3", DIRECT, options={"forward_tol": 1e-3}),
    Setting("crbp, forward tol 1e-4", DIRECT, options={"forward_tol": 1e-4}),
    Setting("crbp, adjoint tol 1e-4", DIRECT, options={"adjoint": {"tol": 1e-4}}),
    Setting("crbp, anderson, adjoint tol 1e-4", DIRECT, options=_ANDERSON),
    Setting("crbp, channels last", DIRECT, channels_last=True),
    # TorchDEQ has no penalty, so that its rows are held against rbp.
    Setting(PLAIN, PLAIN, "rbp"),
    Setting("torchdeq, direct convolutions", PLAIN, "torchdeq", direct=True),
    Setting("torchdeq", PLAIN, "torchdeq"),
)


@dataclass
class _Result:
    loss: float
    drive: Tensor
    parameters: Tensor


class _Contestant:
    """A setting with its tensors and what was measured of it."""

    def __init__(self, setting: Setting, problem: Problem, steps: int, terms: int) -> None:
        self.setting = setting
        self.instance: Instance = replace(problem, channels_last=setting.channels_last).build()
        self.loss: Loss = build_loss(
            setting.method, self.instance, steps=steps, terms=terms, **setting.options
        )
        self.steps, self.terms = steps, terms
        self.device = problem.device
        self.times: list[float] = []

    def run(self) -> float:
        """One training step; returns its loss. Gradients stay until the next."""
        convolutions: Callable[[], AbstractContextManager[None]]
        convolutions = direct_convolutions if self.setting.direct else nullcontext
        with convolutions():
            return self.instance.train(self.loss)

    def time(self) -> None:
        """One training step, its time noted."""
        self.times.append(seconds(self.run, self.device))
        self.instance.clear()

    def result(self) -> _Result:
        """Loss and gradients of a step that is not timed, and that warms up."""
        loss = self.run()
        result = _Result(loss, self.instance.drive_gradient(), self.instance.parameter_gradient())
        self.instance.clear()
        return result

    def spent(self) -> tuple[float, float]:
        """Steps and adjoint products of the latest run, mean over the samples."""
        block = self.loss.block
        if block is None or block.last is None:
            return self.steps, self.terms
        record = block.last.adjoint
        products = record.terms if record is not None else None
        return (
            block.last.steps.double().mean().item(),
            self.terms if products is None else products.double().mean().item(),
        )


def compare(
    problem: Problem = PROBLEM,
    *,
    steps: int = 20,
    terms: int = 15,
    repeats: int = 2,
    threads: int = 2,
    settings: Sequence[Setting] = SETTINGS,
    log: Callable[[str], object] = lambda text: None,
) -> list[Row]:
    """Time a training step under each setting, in turns, in this process.

    In turns, so that what else the machine does disturbs all alike; the least of each counts.

    Args:
        problem: cell and drive.
        steps: of the recurrence.
        terms: products of the adjoint solve.
        repeats: timed steps of each setting, after one whose gradients are compared.
        threads: of PyTorch.
        settings: a reference must stand before those that name it.
        log: is told what is being done.

    Returns:
        a row a setting. Those whose package is absent are left out, which ``log`` is told.
    """
    torch.set_num_threads(threads)
    contestants = []
    results: dict[str, _Result] = {}
    rows: list[Row] = []
    for setting in settings:
        try:
            one = _Contestant(setting, problem, steps, terms)
        except ConfigError as error:
            if setting.method != "torchdeq":
                raise
            log(f"left out: {error}")
            continue
        log(f"{setting.name}: loss and gradients")
        contestants.append(one)
        results[setting.name] = one.result()
        rows.append(_differences(one, results))
    for number in range(repeats):
        for one in contestants:
            log(f"{one.setting.name}: time {number + 1} of {repeats}")
            one.time()
    best = {one.setting.name: min(one.times) for one in contestants}
    slow = best.get(DIRECT)
    for row, one in zip(rows, contestants, strict=True):
        row["seconds"] = best[one.setting.name]
        row["median_seconds"] = statistics.median(one.times)
        if slow is not None:
            row["times_faster"] = slow / row["seconds"]
    return rows


def _differences(one: _Contestant, results: dict[str, _Result]) -> Row:
    mine, other = results[one.setting.name], results[one.setting.reference]
    steps, terms = one.spent()
    return {
        "setting": one.setting.name,
        "reference": one.setting.reference,
        "steps": steps,
        "terms": terms,
        "loss": mine.loss,
        "loss_difference": abs(mine.loss - other.loss) / max(abs(other.loss), 1e-30),
        "drive_difference": _relative(mine.drive, other.drive),
        "parameter_difference": _relative(mine.parameters, other.parameters),
    }


def _relative(value: Tensor, reference: Tensor) -> float:
    return ((value - reference).norm() / reference.norm()).item()


def tabulated(rows: Sequence[Row], *, markdown: bool) -> str:
    """The rows as a table; differences are relative, to the reference of the row."""
    headers = ["setting", "s", "x faster", "steps", "products", "loss", "drive", "parameters"]
    lines = [
        [
            row["setting"],
            f"{row['seconds']:.2f}",
            f"{row['times_faster']:.2f}" if "times_faster" in row else "-",
            f"{row['steps']:.1f}",
            f"{row['terms']:.1f}",
            *(_difference_cell(row, key) for key in ("loss", "drive", "parameter")),
        ]
        for row in rows
    ]
    return table(headers, lines, markdown=markdown)


def _difference_cell(row: Row, key: str) -> str:
    if row["setting"] == row["reference"]:
        return "reference"
    return f"{row[f'{key}_difference']:.1e}"
