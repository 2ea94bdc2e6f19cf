"""What a gradient method is: a way to run a recurrence and to find gradients back through it.

Forward values are the same under every method; so are the parameters, since a method has none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rpanoptic.recurrent.adjoint import AdjointConfig, AdjointRecord
from rpanoptic.recurrent.cells.base import Drive, RecurrentCell
from rpanoptic.recurrent.checks import check_choice, check_count
from rpanoptic.recurrent.registry import Registry
from rpanoptic.recurrent.relaxation import ForwardConfig, Relaxation
from rpanoptic.recurrent.state import State, like, to_tensors

BACKENDS = ("tape", "functional")
FAILURE_POLICIES = ("record", "warn", "raise", "tbptt")


@dataclass(frozen=True)
class GradientConfig:
    """How gradient methods work; each reads what concerns it.

    Args:
        forward: how the recurrence is run.
        adjoint: how the adjoint system is solved, for the methods of the equilibrium.
        truncation: last steps that "tbptt" differentiates, at least 1; also those of the fall-back.
        backend: of the methods of the equilibrium. "tape" keeps the graph of the last step.
            "functional" keeps states alone and evaluates the step again in the backward pass: it
            compiles as one graph and can be differentiated again.
        on_failure: what the methods of the equilibrium do where a sample reached none or its
            adjoint solve failed. "record" leaves it to the diagnostics; "warn" warns and "raise"
            raises :class:`rpanoptic.recurrent.EquilibriumError`, for which the host waits for a
            GPU once a pass; "tbptt" gives those samples the gradient of "tbptt", for which the
            last ``truncation`` steps are taped too.

    Raises:
        ValueError: a value is out of its range.
    """

    forward: ForwardConfig = field(default_factory=ForwardConfig)
    adjoint: AdjointConfig = field(default_factory=AdjointConfig)
    truncation: int = 5
    backend: str = "tape"
    on_failure: str = "warn"

    def __post_init__(self) -> None:
        check_choice("backend", self.backend, BACKENDS)
        check_choice("on_failure", self.on_failure, FAILURE_POLICIES)
        check_count("truncation", self.truncation, least=1)
        if self.on_failure == "tbptt" and self.forward.acceleration != "none":
            raise ValueError(
                "on_failure 'tbptt' needs forward acceleration 'none': it differentiates the steps"
            )
        if self.backend == "functional" and self.adjoint.solver == "cg":
            raise ValueError(
                "adjoint solver 'cg' needs backend 'tape': the functional one has no products J v"
            )
        if self.backend == "functional" and self.on_failure == "tbptt":
            raise ValueError(
                "on_failure 'tbptt' needs backend 'tape': the functional one keeps no steps"
            )


class CellStep:
    """``h -> F(x, h; w)``: a cell with its drive.

    Args:
        cell: F, with its parameters w.
        drive: x, ``(N, C_drive, H, W)``, or a tuple of such tensors.
    """

    def __init__(self, cell: RecurrentCell, drive: Drive) -> None:
        self.cell = cell
        self.drive = drive

    def __call__(self, state: State) -> State:
        return self.cell(self.drive, state)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Drive, parameters and buffers: all that the step depends on, but for the state."""
        return (*to_tensors(self.drive), *self.cell.parameters(), *self.cell.buffers())

    def evaluate(self, tensors: tuple[Tensor, ...], state: State) -> State:
        """The step with other ``tensors`` than its own, in their order."""
        names = [name for name, _ in self.cell.named_parameters()]
        names += [name for name, _ in self.cell.named_buffers()]
        drives = len(to_tensors(self.drive))
        values = dict(zip(names, tensors[drives:], strict=True))
        drive = like(tensors[:drives], self.drive)
        return torch.func.functional_call(self.cell, values, (drive, state))


@dataclass
class Rollout:
    """A recurrence that was run.

    Attributes:
        state: h_T, with the method's gradient.
        previous: h_{T-1}.
        last: h_T as a function of ``previous`` alone (and of drive and parameters), with the
            ordinary gradient of that one step.
        steps: ``(N,)`` int64, steps that each sample has taken.
        column_sums: returns ``J^T 1`` at the end of the run, with its graph; the tensors have the
            shapes of the state's. None where gradients were off.
        adjoint: what the adjoint solve did; empty until the backward pass, None for methods that
            solve none.
    """

    state: State
    previous: State
    last: State
    steps: Tensor
    column_sums: Callable[[], tuple[Tensor, ...]] | None = None
    adjoint: AdjointRecord | None = None


class GradientMethod(ABC):
    """A way to run and differentiate a recurrence.

    Args:
        config: what it may need to know.
    """

    #: Whether the Lipschitz coefficient penalty belongs to the method.
    penalised = False

    def __init__(self, config: GradientConfig | None = None) -> None:
        self.config = config or GradientConfig()

    @abstractmethod
    def __call__(self, step: CellStep, state: State, steps: int) -> Rollout:
        """Run ``steps`` >= 1 steps from ``state``. Called with gradients enabled."""

    def run_without_gradient(self, step: CellStep, state: State, steps: int) -> Rollout:
        """Run ``steps`` >= 1 steps from ``state``, to the same values."""
        run = Relaxation(state, self.config.forward)
        run.advance(step, steps - 1)
        last = step(run.state)
        return Rollout(last, run.state, last, run.steps + 1)


GRADIENTS: Registry[GradientMethod] = Registry("gradient method")
