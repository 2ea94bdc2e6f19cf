"""Gradient methods: how a recurrence is run, and how gradients find their way back through it.

A method takes ``step`` (``h -> F(x, h)``), a first state and a number of steps T, and returns the
state after T steps with its gradient attached. Forward values are the same under every method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rpanoptic.recurrent.adjoint import AdjointConfig, AdjointRecord, neumann_series
from rpanoptic.recurrent.registry import Registry
from rpanoptic.recurrent.state import State, like, to_tensors

Step = Callable[[State], State]


@dataclass
class Rollout:
    """A recurrence that was run.

    Attributes:
        state: h_T, with the method's gradient.
        previous: h_{T-1}.
        last: h_T as a function of ``previous`` alone (and of drive and parameters), with the
            ordinary gradient of that one step: where the Jacobian at the equilibrium is probed.
        adjoint: what the adjoint solve did; empty until the backward pass, None for methods that
            solve none.
    """

    state: State
    previous: State
    last: State
    adjoint: AdjointRecord | None = None


class GradientMethod(ABC):
    """A way to run and differentiate a recurrence.

    Args:
        adjoint: limits of the adjoint solve; methods that solve none ignore it.
    """

    #: Whether the Lipschitz coefficient penalty belongs to the method.
    penalised = False

    def __init__(self, adjoint: AdjointConfig | None = None) -> None:
        self.adjoint = adjoint or AdjointConfig()

    @abstractmethod
    def __call__(self, step: Step, state: State, steps: int) -> Rollout:
        """Run ``steps`` >= 1 steps from ``state``. Called with gradients enabled."""


GRADIENTS: Registry[GradientMethod] = Registry("gradient method")


def run_steps(step: Step, state: State, steps: int) -> Rollout:
    """Run ``steps`` >= 1 steps and leave their gradient, if any, to PyTorch."""
    previous = state
    for _ in range(steps):
        previous, state = state, step(state)
    return Rollout(state=state, previous=previous, last=state)


@GRADIENTS.register("bptt")
class BPTT(GradientMethod):
    """Back-propagation through time: differentiates all T steps. Memory grows with T."""

    def __call__(self, step: Step, state: State, steps: int) -> Rollout:
        return run_steps(step, state, steps)


@GRADIENTS.register("rbp")
class RBP(GradientMethod):
    """Recurrent back-propagation: the gradient of the equilibrium, by its Neumann series.

    With ``h* = F(x, h*; w)`` and ``J = dF/dh`` at h*, the implicit function theorem gives::

        dL/dw = (dF/dw)^T u,   u = g + J^T u = sum_k (J^T)^k g,   g = dL/dh*

    (Liao et al., ICML 2018; Linsley et al., NeurIPS 2020). T - 1 steps run without a tape, the
    last one with it, so that memory does not grow with T. The gradient is that of the equilibrium
    if h_{T-1} has reached it; the first state gets none, an equilibrium has forgotten it.
    """

    def __call__(self, step: Step, state: State, steps: int) -> Rollout:
        with torch.no_grad():
            for _ in range(steps - 1):
                state = step(state)
        leaves = tuple(t.detach().requires_grad_() for t in to_tensors(state))
        for leaf in leaves:
            leaf.register_post_accumulate_grad_hook(_drop_grad)
        previous = like(leaves, state)
        last = step(previous)
        record = AdjointRecord()
        outputs = _EquilibriumGradient.apply(self.adjoint, record, *to_tensors(last), *leaves)
        return Rollout(like(outputs, last), previous, last, record)


@GRADIENTS.register("crbp")
class CRBP(RBP):
    """Contractor RBP: RBP, with the Lipschitz coefficient penalty that pushes F to contract.

    Linsley et al., NeurIPS 2020. The penalty is a term of the loss, see
    :class:`rpanoptic.recurrent.penalty.LipschitzPenalty`.
    """

    penalised = True


def _drop_grad(leaf: Tensor) -> None:
    # The outer backward pass also reaches the leaf that the tape begins with. Nobody reads that
    # gradient; left there, it would hold a state's worth of memory.
    leaf.grad = None


class _EquilibriumGradient(torch.autograd.Function):
    """Identity whose backward turns the incoming gradient g into the adjoint ``u = g + J^T u``.

    It stands after the taped step, so that a vector-Jacobian product, which starts at the step's
    own output, never passes it: it can be used any number of times in a graph and in a pass.
    """

    @staticmethod
    def forward(
        ctx: Any, adjoint: AdjointConfig, record: AdjointRecord, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.adjoint, ctx.record = adjoint, record
        ctx.save_for_backward(*tensors)
        return tuple(t.view_as(t) for t in tensors[: len(tensors) // 2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the gradient of an equilibrium cannot be differentiated again "
                "(create_graph=True) with this method; use gradient method 'bptt' for that"
            )
        saved = ctx.saved_tensors
        count = len(saved) // 2
        last, previous = saved[:count], saved[count:]

        def vjp(vectors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return torch.autograd.grad(
                last,
                previous,
                vectors,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )

        adjoint = neumann_series(vjp, gradients, ctx.adjoint, ctx.record)
        return (None, None, *adjoint, *(None for _ in previous))
