"""RecurrentBlock: a cell, a number of steps, a gradient method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rpanoptic.recurrent.adjoint import AdjointConfig, AdjointRecord
from rpanoptic.recurrent.cells.base import Drive, RecurrentCell
from rpanoptic.recurrent.checks import check_count, check_number
from rpanoptic.recurrent.convolution import shared_spectra
from rpanoptic.recurrent.gradients import GRADIENTS, CellStep, GradientConfig, Rollout
from rpanoptic.recurrent.gradients.compiled import in_transform
from rpanoptic.recurrent.halting import can_halt, couples_samples, run_until_settled
from rpanoptic.recurrent.penalty import LipschitzPenalty
from rpanoptic.recurrent.relaxation import ForwardConfig
from rpanoptic.recurrent.state import State, relative_change, sample_norms, to_tensors

# Through these a gradient is the same whether a run is made at once or step by step.
STEPWISE_METHODS = ("bptt", "checkpointed_bptt")


@dataclass
class Diagnostics:
    """What a run of a block did; numbers without a graph, for logs.

    Attributes:
        steps: ``(N,)`` int64, steps that each sample took.
        residual: ``(N,)``, change of the state in the last step, relative to its norm; 0 at an
            equilibrium.
        finite: ``(N,)`` bool, whether the state is.
        adjoint: what the adjoint solve did, filled in by the backward pass; None where the method
            solves none or gradients were off.
    """

    steps: Tensor
    residual: Tensor
    finite: Tensor
    adjoint: AdjointRecord | None = None


@dataclass
class RecurrentOutput:
    """Result of a :class:`RecurrentBlock`.

    Attributes:
        state: the state after the last step, with the gradient of the block's method.
        output: what the cell reads out of it, ``(N, C, H, W)``.
        penalty: the weighted Lipschitz coefficient penalty, a scalar to add to the loss; None
            where the method has none, its weight is 0, or the block is not training.
        diagnostics: what was done.
    """

    state: State
    output: Tensor
    penalty: Tensor | None
    diagnostics: Diagnostics


class RecurrentBlock(nn.Module):
    """Runs a cell on a constant drive and gives the last state a gradient.

    The gradient method is chosen by name. It has no parameters, so that a checkpoint trained with
    one loads under any other.

    Args:
        cell: the recurrent cell.
        steps: steps in training, at least the cell's ``least_steps``: 1 for most.
        steps_test: steps in evaluation mode; 0 takes ``steps``.
        halt_tol: in evaluation mode without gradients a sample stops once a step changes its state
            by at most ``halt_tol`` times its norm, and costs nothing from then on; the number of
            steps is then the most. It takes the place of the tolerance of ``forward`` there. 0
            runs all steps, and so does every run with gradients, compiled or under
            :mod:`torch.func`.
        gradient: a name in :data:`rpanoptic.recurrent.GRADIENTS`.
        forward: how the steps are run: tolerance, acceleration.
        adjoint: how the adjoint system is solved.
        penalty: the Lipschitz coefficient penalty, used by the methods that have one.
        truncation: last steps that "tbptt" differentiates.
        backend: "tape" or "functional", see :class:`rpanoptic.recurrent.GradientConfig`.
        on_failure: "record", "warn", "raise" or "tbptt", see the same class.

    Attributes:
        last: :class:`Diagnostics` of the latest run, for logs; None before the first.

    Raises:
        ValueError: an impossible number of steps or tolerance, an unknown name, or options that
            exclude each other: ``halt_tol`` with a cell whose samples depend on each other, or
            with acceleration.
    """

    def __init__(
        self,
        cell: RecurrentCell,
        *,
        steps: int = 20,
        steps_test: int = 0,
        halt_tol: float = 0.0,
        gradient: str = "crbp",
        forward: ForwardConfig | None = None,
        adjoint: AdjointConfig | None = None,
        penalty: LipschitzPenalty | None = None,
        truncation: int = 5,
        backend: str = "tape",
        on_failure: str = "warn",
    ) -> None:
        super().__init__()
        self.cell = cell
        self.steps = self.check_steps("steps", steps)
        self.steps_test = check_count("steps_test", steps_test, least=0)
        if self.steps_test:
            self.check_steps("steps_test", self.steps_test)
        check_number("halt_tol", halt_tol, least=0.0)
        self.halt_tol = halt_tol
        self.gradient = gradient
        config = GradientConfig(
            forward or ForwardConfig(),
            adjoint or AdjointConfig(),
            truncation,
            backend,
            on_failure,
        )
        if halt_tol > 0:
            _check_halting(cell, config.forward)
        self.method = GRADIENTS.get(gradient)(config)
        self.penalty = penalty or LipschitzPenalty()
        self.last: Diagnostics | None = None

    def forward(
        self, drive: Drive, state: State | None = None, steps: int | None = None
    ) -> RecurrentOutput:
        """Run the recurrence.

        Args:
            drive: ``(N, C_drive, H, W)``, held constant; a tuple of such tensors for a cell that
                takes several.
            state: first state; the cell's own by default.
            steps: overrides the block's number of steps for this call; at least 1 from a given
                state, at least the cell's ``least_steps`` from its own.

        Raises:
            ValueError: too few ``steps``, or a drive or state of another shape than the cell's.
            EquilibriumError: no equilibrium was reached and ``on_failure`` is "raise".
        """
        self.cell.check_drive(drive)
        if steps is None:
            steps = self.steps_in_force
        if state is None:
            steps = self.check_steps("steps", steps)
        else:
            steps = check_count("steps", steps, least=1)
        state = self._first_state(drive, state)
        step = CellStep(self.cell, drive)
        wanted = any(t.requires_grad for t in (*step.tensors, *to_tensors(state)))
        graded = wanted and torch.is_grad_enabled()
        halting = self.halt_tol > 0 and not self.training and not graded and can_halt()
        # The weights stand still during a solve: what depends on them alone is computed once.
        with shared_spectra():
            if halting:
                rollout = run_until_settled(step, state, steps, self.halt_tol)
            elif graded:
                rollout = self.method(step, state, steps)
            else:
                rollout = self.method.run_without_gradient(step, state, steps)
            penalty = self._penalty(rollout)
        diagnostics = _diagnose(rollout)
        self.last = None if in_transform() else diagnostics
        output = self.cell.output(rollout.state)
        return RecurrentOutput(rollout.state, output, penalty, diagnostics)

    def check_steps(self, option: str, steps: int) -> int:
        """Return a number of steps, as an int, if the block can take so many from the start.

        Args:
            option: what it is; begins the message.
            steps: the number.

        Raises:
            ValueError: it is no integer, or less than the cell's ``least_steps``.
        """
        count, least = check_count(option, steps, least=1), self.cell.least_steps
        if count < least:
            raise ValueError(
                f"{option} must be at least {least}, got {count}: before, the drive has not "
                f"reached every output of {type(self.cell).__name__}"
            )
        return count

    def iterate(self, drive: Drive, state: State | None = None) -> Iterator[State]:
        """Yield the state after step 1, 2, 3, ... without end and without gradient."""
        self.cell.check_drive(drive)
        with torch.no_grad():
            state = self._first_state(drive, state)
        while True:
            with torch.no_grad():
                state = self.cell(drive, state)
            yield state

    def run_stepwise(
        self,
        drive: Drive,
        steps: int | None = None,
        *,
        state: State | None = None,
        taken: int = 0,
    ) -> Iterator[RecurrentOutput]:
        """Run the recurrence as a call does and yield what it gives after step 1, 2, ..., steps.

        Gradients go through all steps. :attr:`last` tells of the run so far.

        Args:
            drive, steps: as in :meth:`forward`.
            state: first state; the cell's own by default.
            taken: steps of an earlier run that led to ``state``, on another drive perhaps; the
                diagnostics count on from there.

        Raises:
            ValueError: see :meth:`check_stepwise`; too few steps; or a drive or state of another
                shape.
        """
        self.check_stepwise("a run step by step")
        self.cell.check_drive(drive)
        if steps is None:
            steps = self.steps_in_force
        if state is None:
            steps = self.check_steps("steps", steps)
            # From a given state, steps may be fewer than the cell's least.
            state = self.cell.initial_state(drive)
        for done in range(taken, taken + steps):
            output = self(drive, state, steps=1)
            state, seen = output.state, output.diagnostics
            output.diagnostics = replace(seen, steps=seen.steps + done)
            if self.last is not None:
                self.last = output.diagnostics
            yield output

    def check_stepwise(self, purpose: str) -> None:
        """Check that all steps of a run can be seen and differentiated, one by one.

        Args:
            purpose: what needs it; begins the message.

        Raises:
            ValueError: the gradient method is not plain back-propagation through all steps, or a
                run stops early or is accelerated.
        """
        if self.gradient not in STEPWISE_METHODS:
            methods = " or ".join(map(repr, STEPWISE_METHODS))
            raise ValueError(
                f"{purpose} needs plain back-propagation through all steps, {methods}; "
                f"got {self.gradient!r}"
            )
        if not self.stepwise:
            raise ValueError(
                f"{purpose} needs plain steps: no tolerance to stop at and no acceleration"
            )

    @property
    def stepwise(self) -> bool:
        """Whether all steps of a run can be seen and differentiated, see :meth:`check_stepwise`."""
        forward = self.method.config.forward
        plain = forward.tol == self.halt_tol == 0 and forward.acceleration == "none"
        return plain and self.gradient in STEPWISE_METHODS

    @property
    def steps_in_force(self) -> int:
        """Steps that a call takes now, in training or in evaluation mode."""
        return self.steps if self.training else self.steps_test or self.steps

    @property
    def penalised(self) -> bool:
        """Whether there is a penalty in training."""
        return self.method.penalised and self.penalty.weight > 0

    def _penalty(self, rollout: Rollout) -> Tensor | None:
        if not self.penalised or not self.training or rollout.column_sums is None:
            return None
        return self.penalty(rollout.column_sums())

    def _first_state(self, drive: Drive, state: State | None) -> State:
        own = self.cell.initial_state(drive)
        if state is None:
            return own
        expected = [tuple(t.shape) for t in to_tensors(own)]
        given = [tuple(t.shape) for t in to_tensors(state)]
        if given != expected or isinstance(state, Tensor) != isinstance(own, Tensor):
            raise ValueError(f"state must have the shapes {expected} for this drive; got {given}")
        return state

    def extra_repr(self) -> str:
        halting = f", halt_tol={self.halt_tol:g}" if self.halt_tol else ""
        return (
            f"steps={self.steps}, steps_test={self.steps_test}{halting}, gradient={self.gradient!r}"
        )


def _check_halting(cell: RecurrentCell, forward: ForwardConfig) -> None:
    if couples_samples(cell):
        raise ValueError(
            "halt_tol needs a cell whose samples are independent; norm 'BN', statistics of the "
            "batch, would give the rest of a batch other steps once a sample has left it"
        )
    if forward.acceleration != "none":
        raise ValueError(
            f"halt_tol needs forward acceleration 'none', not {forward.acceleration!r}: it "
            "follows the recurrence"
        )


@torch.no_grad()
def _diagnose(rollout: Rollout) -> Diagnostics:
    return Diagnostics(
        rollout.steps,
        relative_change(rollout.last, rollout.previous),
        torch.isfinite(sample_norms(to_tensors(rollout.last))),
        rollout.adjoint,
    )
