"""Gradient methods of the equilibrium: recurrent back-propagation in its variants.

With ``h* = F(x, h*; w)`` and ``J = dF/dh`` at h*, the implicit function theorem gives::

    dL/dw = (dF/dw)^T u,   u = g + J^T u,   g = dL/dh*

(Almeida 1987; Pineda 1987; Liao et al., ICML 2018). T - 1 steps run without a tape, the last one
with it, so that memory does not grow with T. The gradient is that of the equilibrium if h_{T-1}
has reached it; the first state gets none, an equilibrium has forgotten it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor

from rpanoptic.recurrent.adjoint import AdjointConfig, AdjointRecord, solve_adjoint
from rpanoptic.recurrent.gradients.base import (
    GRADIENTS,
    CellStep,
    GradientConfig,
    GradientMethod,
    Rollout,
)
from rpanoptic.recurrent.gradients.compiled import (
    is_compiled,
    refuse_transforms,
    twice_differentiable,
)
from rpanoptic.recurrent.gradients.failure import report, unsettled
from rpanoptic.recurrent.gradients.functional import equilibrium_of
from rpanoptic.recurrent.jacobian import StepJacobian, as_leaves
from rpanoptic.recurrent.relaxation import Relaxation
from rpanoptic.recurrent.state import State, like, to_tensors, where


@GRADIENTS.register("rbp")
class RBP(GradientMethod):
    """Recurrent back-propagation: u by the adjoint solver, the Neumann series by default."""

    def __call__(self, step: CellStep, state: State, steps: int) -> Rollout:
        if self.config.backend == "functional":
            return equilibrium_of(step, state, steps, self.config)
        refuse_transforms()
        falls_back = self.config.on_failure == "tbptt"
        taped = self.config.truncation if falls_back else 1
        run = Relaxation(state, self.config.forward)
        with torch.no_grad():
            run.advance(step, max(steps - taped, 0))
        # For the fall-back alone: the adjoint needs the last step's tape, which begins anew below.
        run.advance(step, min(taped, steps) - 1)
        previous = as_leaves(run.state)
        leaves = to_tensors(previous)
        for leaf in leaves:
            leaf.register_post_accumulate_grad_hook(_drop_grad)
        record = AdjointRecord()
        with self._on_tape(step), _kept_on_tape():
            last = step(previous)
            failed = unsettled(last, previous, self.config)
            outputs = _EquilibriumGradient.apply(
                _Solve(self.config, record, failed, is_compiled(step.cell)),
                *to_tensors(last),
                *leaves,
                *(to_tensors(step(run.state)) if falls_back else ()),
            )
        return Rollout(
            like(outputs, last),
            previous,
            last,
            run.steps + 1,
            StepJacobian(to_tensors(last), leaves).column_sums,
            record,
        )

    def _on_tape(self, step: CellStep) -> AbstractContextManager[Any]:
        """How a compiled cell takes the one step that is differentiated many times."""
        if self.penalised or self.config.adjoint.solver == "cg":
            return twice_differentiable(step.cell)
        return _kept_buffers(is_compiled(step.cell))


@GRADIENTS.register("crbp")
class CRBP(RBP):
    """Contractor RBP: RBP, with the Lipschitz coefficient penalty that pushes F to contract.

    Linsley et al., NeurIPS 2020. The penalty is a term of the loss, see
    :class:`rpanoptic.recurrent.LipschitzPenalty`.
    """

    penalised = True


@GRADIENTS.register("cg_rbp")
class CGRBP(RBP):
    """RBP by conjugate gradients on the normal equations (Liao et al., ICML 2018).

    The adjoint solver is "cg", whatever the config names.
    """

    def __init__(self, config: GradientConfig | None = None) -> None:
        super().__init__(config)
        if self.config.backend == "functional":
            raise ValueError("gradient method 'cg_rbp' has backend 'tape' only")
        adjoint = replace(self.config.adjoint, solver="cg")
        self.config = replace(self.config, adjoint=adjoint)


@GRADIENTS.register("phantom")
class Phantom(RBP):
    """The one-step gradient, u = g: no adjoint system is solved (Fung et al., AAAI 2022).

    Cheapest of all and biased: what earlier steps did counts for nothing.
    """

    def __init__(self, config: GradientConfig | None = None) -> None:
        super().__init__(config)
        adjoint = AdjointConfig(max_steps=0)
        self.config = replace(self.config, adjoint=adjoint)


def _drop_grad(leaf: Tensor) -> None:
    # The outer backward pass also reaches the leaf that the tape begins with. Nobody reads that
    # gradient; left there, it would hold a state's worth of memory.
    leaf.grad = None


def _kept_buffers(compiled: bool) -> AbstractContextManager[Any]:
    # Unless told not to, a compiled graph gives its buffers away in its first backward pass.
    return torch._functorch.config.patch(donated_buffer=False) if compiled else nullcontext()


def _kept_on_tape() -> AbstractContextManager[Any]:
    # Checkpointed as a part of something larger, the step would be computed again, and all steps
    # before it, for every vector-Jacobian product: what it saves stays. That is one step's worth.
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    if hooks is None or hooks[0].__module__ != "torch.utils.checkpoint":
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, lambda tensor: tensor)


class _Solve:
    """What a backward pass needs to know beside tensors.

    Args:
        config: of the method.
        record: filled in.
        failed: ``(N,)`` bool, samples without an equilibrium.
        compiled: whether the cell is.
    """

    def __init__(
        self, config: GradientConfig, record: AdjointRecord, failed: Tensor, compiled: bool
    ) -> None:
        self.compiled = compiled
        self.config = config
        self.record = record
        self.failed = failed


class _EquilibriumGradient(torch.autograd.Function):
    """Identity whose backward turns the incoming gradient g into the adjoint ``u = g + J^T u``.

    It stands after the taped step, so that a vector-Jacobian product, which starts at the step's
    own output, never passes it: it can be used any number of times in a graph and in a pass.
    Where "tbptt" is the policy, the gradient of failed samples goes to the taped steps instead.
    """

    @staticmethod
    def forward(ctx: Any, solve: _Solve, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.solve = solve
        ctx.save_for_backward(*tensors)
        ctx.count = len(tensors) // (3 if solve.config.on_failure == "tbptt" else 2)
        # Not views, which must not be changed in place.
        return tuple(t.clone() for t in tensors[: ctx.count])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the gradient of an equilibrium cannot be differentiated again "
                "(create_graph=True) with backend 'tape'; use backend 'functional' or gradient "
                "method 'bptt' for that"
            )
        solve: _Solve = ctx.solve
        # Read once: where saved tensors are packed away, each reading unpacks them.
        saved = ctx.saved_tensors
        last, previous = saved[: ctx.count], saved[ctx.count : 2 * ctx.count]
        jacobian = StepJacobian(last, previous)
        with _kept_buffers(solve.compiled):
            adjoint = solve_adjoint(
                jacobian.vjp, gradients, solve.config.adjoint, solve.record, jvp=jacobian.jvp
            )
        failed = solve.record.failed
        assert failed is not None
        report(solve.config, failed, "the adjoint solve diverged")
        nothing: tuple[None, ...] = (None,) * ctx.count
        if solve.config.on_failure != "tbptt":
            return (None, *adjoint, *nothing)
        failed = failed | solve.failed
        zeros = tuple(torch.zeros_like(g) for g in gradients)
        return (
            None,
            *where(failed, zeros, adjoint),
            *nothing,
            *where(failed, gradients, zeros),
        )
