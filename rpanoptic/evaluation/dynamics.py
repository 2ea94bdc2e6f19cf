"""How a recurrent block behaves on given drives: measured, as a table, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from rpanoptic.recurrent import RecurrentBlock
from rpanoptic.recurrent.cells.base import Drive
from rpanoptic.recurrent.stability import (
    PastTrainedSteps,
    PowerEstimate,
    PrincipalComponents,
    largest_singular_value,
    past_trained_steps,
    principal_components,
    residual_curve,
    spectral_radius,
)
from rpanoptic.recurrent.state import State, like, to_tensors

# Two components need as many states, and one more for their mean.
LEAST_STEPS = 3


@dataclass
class BlockInput:
    """What one sample gives a recurrent block.

    Attributes:
        drive: ``(1, C, H, W)``, or a tuple of such tensors.
        state: the first state, if it is not the cell's own.
    """

    drive: Drive
    state: State | None = None

    def shapes(self) -> tuple[Any, ...]:
        """What must agree for samples to be run in one batch."""
        state = () if self.state is None else to_tensors(self.state)
        return (self.state is None, *(t.shape for t in (*to_tensors(self.drive), *state)))


@dataclass
class BlockDynamics:
    """How one recurrent block behaves, a value a sample; all on the CPU.

    Attributes:
        name: of the block in its model.
        cell: class of its cell.
        residual: ``(steps, N)``, see :func:`rpanoptic.recurrent.stability.residual_curve`.
        past: the course past the trained steps.
        radius: spectral radius of the state Jacobian after the trained steps.
        singular_value: its largest singular value.
        components: principal components of the states after step 1, 2, ...
    """

    name: str
    cell: str
    residual: Tensor
    past: PastTrainedSteps
    radius: PowerEstimate
    singular_value: PowerEstimate
    components: PrincipalComponents

    def numbers(self) -> dict[str, Any]:
        """Everything as lists and numbers for JSON, which has no nan: None stands for it."""
        return {
            "block": self.name,
            "cell": self.cell,
            "samples": self.residual.shape[1],
            "steps": self.residual.shape[0],
            "trained_steps": self.past.trained_steps,
            "spectral_radius": _listed(self.radius.value),
            "spectral_radius_change": _listed(self.radius.change),
            "largest_singular_value": _listed(self.singular_value.value),
            "largest_singular_value_change": _listed(self.singular_value.change),
            "residual": _listed(self.residual.T),
            "distance": _listed(self.past.distance.T),
            "components": _listed(self.components.projections.transpose(0, 1)),
            "explained_variance": _listed(self.components.explained),
        }


def measure_dynamics(
    name: str,
    block: RecurrentBlock,
    inputs: Sequence[BlockInput],
    *,
    steps: int,
    iterations: int = 100,
) -> BlockDynamics:
    """Measure how a block behaves on samples, whatever its gradient method.

    The block is run without acceleration or early stopping: it is the recurrence itself that is
    looked at. Samples of equal shape are run together.

    Args:
        name: of the block, for the result.
        block: the block, in the mode in which it is to be looked at.
        inputs: the samples, at least one; their order is kept among those of equal shape.
        steps: how far to follow the state: at least the trained steps, and 3.
        iterations: of the power iterations, at least 2.

    Raises:
        ValueError: no sample, or an impossible number of steps or iterations.
    """
    if not inputs:
        raise ValueError(f"no sample to look at block {name} with")
    if steps < LEAST_STEPS:
        raise ValueError(f"steps must be at least {LEAST_STEPS}, got {steps}")
    groups: dict[tuple[Any, ...], list[BlockInput]] = {}
    for one in inputs:
        groups.setdefault(one.shapes(), []).append(one)
    parts = [_measure(name, block, group, steps, iterations) for group in groups.values()]
    return parts[0] if len(parts) == 1 else _joined(parts)


def dynamics_table(results: Iterable[BlockDynamics]) -> str:
    """Lay out the median over the samples, and the largest, of each number; a table a block.

    Returns:
        the tables under headings; a number that is not finite shows as "-".
    """
    return "\n\n".join(_one_table(result) for result in results)


def _one_table(result: BlockDynamics) -> str:
    steps, samples = result.residual.shape
    trained = result.past.trained_steps
    rows = [
        (f"spectral radius at step {trained}", result.radius.value),
        (f"largest singular value at step {trained}", result.singular_value.value),
        (f"relative change of the state in step {trained}", result.residual[trained - 1]),
        (f"relative change of the state in step {steps}", result.residual[-1]),
        (f"relative distance of step {steps} to step {trained}", result.past.distance[-1]),
    ]
    table = tabulate(
        [[label, _shown(values.quantile(0.5)), _shown(values.max())] for label, values in rows],
        headers=["", "median", "largest"],
        tablefmt="simple_outline",
        disable_numparse=True,
        colalign=("left", "right", "right"),
    )
    noun = "sample" if samples == 1 else "samples"
    return f"{result.name}: {result.cell}, {trained} steps in training, {samples} {noun}\n{table}"


def _measure(
    name: str, block: RecurrentBlock, group: Sequence[BlockInput], steps: int, iterations: int
) -> BlockDynamics:
    cell, trained = block.cell, block.steps
    drive = _stacked([one.drive for one in group])
    states_given = [one.state for one in group if one.state is not None]
    first = _stacked(states_given) if states_given else None
    residual = residual_curve(cell, drive, steps=steps, state=first)
    past = past_trained_steps(cell, drive, trained_steps=trained, steps=steps, state=first)
    states = list(islice(block.iterate(drive, first), steps))
    components = principal_components(states)
    radius = spectral_radius(cell, drive, states[trained - 1], iterations=iterations)
    sigma = largest_singular_value(cell, drive, states[trained - 1], iterations=iterations)
    return BlockDynamics(
        name,
        type(cell).__name__,
        residual.cpu(),
        PastTrainedSteps(trained, past.distance.cpu()),
        PowerEstimate(radius.value.cpu(), radius.change.cpu()),
        PowerEstimate(sigma.value.cpu(), sigma.change.cpu()),
        PrincipalComponents(components.projections.cpu(), components.explained.cpu()),
    )


def _stacked(states: Sequence[State]) -> State:
    parts = zip(*(to_tensors(state) for state in states), strict=True)
    return like(tuple(torch.cat(tensors) for tensors in parts), states[0])


def _joined(parts: Sequence[BlockDynamics]) -> BlockDynamics:
    def joined(estimates: list[PowerEstimate]) -> PowerEstimate:
        return PowerEstimate(
            torch.cat([e.value for e in estimates]), torch.cat([e.change for e in estimates])
        )

    return BlockDynamics(
        parts[0].name,
        parts[0].cell,
        torch.cat([p.residual for p in parts], dim=1),
        PastTrainedSteps(
            parts[0].past.trained_steps, torch.cat([p.past.distance for p in parts], dim=1)
        ),
        joined([p.radius for p in parts]),
        joined([p.singular_value for p in parts]),
        PrincipalComponents(
            torch.cat([p.components.projections for p in parts], dim=1),
            torch.cat([p.components.explained for p in parts]),
        ),
    )


def _shown(value: Tensor) -> str:
    return f"{value.item():#.4g}" if value.isfinite() else "-"


def _listed(values: Tensor) -> Any:
    """Nested lists; None for what is not finite."""

    def plain(item: Any) -> Any:
        if isinstance(item, list):
            return [plain(one) for one in item]
        return item if math.isfinite(item) else None

    return plain(values.tolist())
