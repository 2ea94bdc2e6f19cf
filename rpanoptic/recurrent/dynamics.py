"""RecurrentBlock: a cell, a number of steps, a gradient method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rpanoptic.recurrent.adjoint import AdjointConfig, AdjointRecord
from rpanoptic.recurrent.cells.base import RecurrentCell
from rpanoptic.recurrent.gradients import GRADIENTS, Rollout, run_steps
from rpanoptic.recurrent.penalty import LipschitzPenalty
from rpanoptic.recurrent.state import State, sample_norms, to_tensors


@dataclass
class Diagnostics:
    """What a run of a block did; numbers without a graph, for logs.

    Attributes:
        steps: steps that were run.
        residual: ``(N,)``, change of the state in the last step, relative to its norm; 0 at an
            equilibrium.
        adjoint: what the adjoint solve did, filled in by the backward pass; None where the method
            solves none or gradients were off.
    """

    steps: int
    residual: Tensor
    adjoint: AdjointRecord | None = None


@dataclass
class RecurrentOutput:
    """Result of a :class:`RecurrentBlock`.

    Attributes:
        state: the state after the last step, with the gradient of the block's method.
        penalty: the weighted Lipschitz coefficient penalty, a scalar to add to the loss; None
            where the method has none, its weight is 0, or the block is not training.
        diagnostics: what was done.
    """

    state: State
    penalty: Tensor | None
    diagnostics: Diagnostics


class RecurrentBlock(nn.Module):
    """Runs a cell on a constant drive and gives the last state a gradient.

    The gradient method is chosen by name. It has no parameters, so that a checkpoint trained with
    one loads under any other.

    Args:
        cell: the recurrent cell.
        steps: steps in training, at least 1.
        steps_test: steps in evaluation mode; 0 takes ``steps``.
        gradient: a name in :data:`rpanoptic.recurrent.GRADIENTS`.
        adjoint: limits of the adjoint solve.
        penalty: the Lipschitz coefficient penalty, used by the methods that have one.

    Attributes:
        last: :class:`Diagnostics` of the latest run, for logs; None before the first.

    Raises:
        ValueError: an impossible number of steps, or an unknown method.
    """

    def __init__(
        self,
        cell: RecurrentCell,
        *,
        steps: int = 20,
        steps_test: int = 0,
        gradient: str = "crbp",
        adjoint: AdjointConfig | None = None,
        penalty: LipschitzPenalty | None = None,
    ) -> None:
        super().__init__()
        self.cell = cell
        self.steps = _check_steps("steps", steps, least=1)
        self.steps_test = _check_steps("steps_test", steps_test, least=0)
        self.gradient = gradient
        self.method = GRADIENTS.get(gradient)(adjoint)
        self.penalty = penalty or LipschitzPenalty()
        self.last: Diagnostics | None = None

    def forward(
        self, drive: Tensor, state: State | None = None, steps: int | None = None
    ) -> RecurrentOutput:
        """Run the recurrence.

        Args:
            drive: ``(N, C, H, W)``, held constant.
            state: first state; the cell's own by default.
            steps: overrides the block's number of steps for this call, at least 1.

        Raises:
            ValueError: ``steps`` below 1, or a drive of another shape than the cell's.
        """
        self._check_drive(drive)
        if steps is None:
            steps = self.steps if self.training else self.steps_test or self.steps
        _check_steps("steps", steps, least=1)
        state = self.cell.initial_state(drive) if state is None else state

        def step(h: State) -> State:
            return self.cell(drive, h)

        run = self.method if torch.is_grad_enabled() else run_steps
        rollout = run(step, state, steps)
        self.last = Diagnostics(steps, _relative_change(rollout), rollout.adjoint)
        return RecurrentOutput(rollout.state, self._penalty(rollout), self.last)

    def iterate(self, drive: Tensor, state: State | None = None) -> Iterator[State]:
        """Yield the state after step 1, 2, 3, ... without end and without gradient."""
        self._check_drive(drive)
        with torch.no_grad():
            state = self.cell.initial_state(drive) if state is None else state
        while True:
            with torch.no_grad():
                state = self.cell(drive, state)
            yield state

    def _penalty(self, rollout: Rollout) -> Tensor | None:
        wanted = self.method.penalised and self.penalty.weight > 0
        if not (wanted and self.training and torch.is_grad_enabled()):
            return None
        return self.penalty(rollout.last, rollout.previous)

    def _check_drive(self, drive: Tensor) -> None:
        if drive.dim() != 4 or drive.shape[1] != self.cell.channels:
            raise ValueError(
                f"drive must be (N, {self.cell.channels}, H, W) for this cell; "
                f"got {tuple(drive.shape)}"
            )

    def extra_repr(self) -> str:
        return f"steps={self.steps}, steps_test={self.steps_test}, gradient={self.gradient!r}"


def _check_steps(name: str, value: int, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return value


@torch.no_grad()
def _relative_change(rollout: Rollout) -> Tensor:
    last, previous = to_tensors(rollout.last), to_tensors(rollout.previous)
    size = sample_norms(last)
    change = sample_norms(tuple(a - b for a, b in zip(last, previous, strict=True)))
    return change / size.clamp_min(torch.finfo(size.dtype).tiny)
