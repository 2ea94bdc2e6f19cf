"""The functional back end: the gradient of an equilibrium from states alone, without a tape.

The backward pass evaluates the step again, by :func:`torch.func.vjp` at h_T. So nothing but states
is kept between the passes, a block compiles as one graph, and gradients can be differentiated
again. It costs two more evaluations of the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rpanoptic.recurrent.adjoint import AdjointRecord, solve_adjoint
from rpanoptic.recurrent.gradients.base import CellStep, GradientConfig, Rollout
from rpanoptic.recurrent.gradients.compiled import twice_differentiable
from rpanoptic.recurrent.gradients.failure import report, unsettled
from rpanoptic.recurrent.jacobian import StepJacobian, as_leaves
from rpanoptic.recurrent.relaxation import Relaxation
from rpanoptic.recurrent.spectral import is_plain
from rpanoptic.recurrent.state import State, like, to_tensors

Tensors = tuple[Tensor, ...]


def equilibrium_of(step: CellStep, state: State, steps: int, config: GradientConfig) -> Rollout:
    """Run ``steps`` >= 1 steps from ``state`` and attach the gradient of the equilibrium at h_T.

    Args:
        step: the recurrence.
        state: the first state; it gets no gradient.
        steps: T.
        config: limits of run and solve.
    """
    tensors = step.tensors
    with torch.no_grad():
        run = Relaxation(state, config.forward)
        run.advance(step, steps - 1)
        previous = run.state
        last = step(previous)
        unsettled(last, previous, config)
    count = len(to_tensors(last))
    problem = _Problem(step, config, AdjointRecord(), last, count)
    outputs = _FunctionalEquilibrium.apply(problem, *to_tensors(last), *tensors)
    state = like(outputs, last)
    return Rollout(
        state,
        previous,
        last,
        run.steps + 1,
        lambda: _column_sums(step, like(tuple(t.detach() for t in outputs), last)),
        problem.record,
    )


class _Problem:
    """What the Function below needs to know beside tensors."""

    def __init__(
        self,
        step: CellStep,
        config: GradientConfig,
        record: AdjointRecord,
        form: State,
        count: int,
    ) -> None:
        self.step = step
        self.config = config
        self.record = record
        self.form_is_tensor = isinstance(form, Tensor)
        self.count = count
        device = to_tensors(step.drive)[0].device.type
        self.autocast = (
            device,
            torch.get_autocast_dtype(device),
            torch.is_autocast_enabled(device),
        )

    def evaluate(self, tensors: Tensors, state: Tensors) -> Tensors:
        """The step as a function of all that it depends on, under the forward pass's autocast."""
        device, dtype, enabled = self.autocast
        form = state[0] if self.form_is_tensor else state
        with torch.autocast(device, dtype=dtype, enabled=enabled):
            return to_tensors(self.step.evaluate(tensors, form))


class _FunctionalEquilibrium(torch.autograd.Function):
    """h_T as it comes, with the gradient of the equilibrium for drive and parameters."""

    @staticmethod
    def forward(problem: _Problem, *tensors: Tensor) -> Tensors:
        return tuple(t.clone() for t in tensors[: problem.count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        problem = inputs[0]
        ctx.problem = problem
        # The outputs, not the inputs: differentiated again, h* depends on drive and parameters.
        ctx.save_for_backward(*output, *inputs[1 + problem.count :])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        problem: _Problem = ctx.problem
        if torch.is_grad_enabled() and problem.config.adjoint.solver != "neumann":
            raise RuntimeError(
                "to differentiate the gradient of an equilibrium again (create_graph=True) choose "
                f"adjoint solver 'neumann', not {problem.config.adjoint.solver!r}"
            )
        saved = ctx.saved_tensors
        state, tensors = saved[: problem.count], saved[problem.count :]

        def of_state(*h: Tensor) -> Tensors:
            return problem.evaluate(tensors, h)

        # Buffers and frozen parameters stand still.
        needed = ctx.needs_input_grad[1 + problem.count :]
        moving = [index for index, wanted in enumerate(needed) if wanted]

        def of_tensors(*values: Tensor) -> Tensors:
            everything = list(tensors)
            for index, value in zip(moving, values, strict=True):
                everything[index] = value
            return problem.evaluate(tuple(everything), state)

        vjp = _transposed(of_state, state)
        # Compiled graphs and transforms cannot write into an object outside of them.
        record = problem.record if is_plain(gradients[0]) else None
        adjoint = solve_adjoint(vjp, gradients, problem.config.adjoint, record)
        report(problem.config, problem.record.failed, "the adjoint solve diverged")
        vjp_tensors = torch.func.vjp(of_tensors, *(tensors[index] for index in moving))[1]
        found = dict(zip(moving, vjp_tensors(adjoint), strict=True))
        nothing: tuple[None, ...] = (None,) * (1 + problem.count)
        return (*nothing, *(found.get(index) for index in range(len(tensors))))


def _transposed(function: Callable[..., Tensors], state: Tensors) -> Callable[[Tensors], Tensors]:
    vjp = torch.func.vjp(function, *state)[1]
    return lambda vectors: vjp(tuple(vectors))


def _column_sums(step: CellStep, state: State) -> Tensors:
    """``J^T 1`` at ``state``, with its graph, by a way that compiles where that is wanted."""
    if is_plain(to_tensors(step.drive)[0]):
        previous = as_leaves(state)
        with twice_differentiable(step.cell):
            last = step(previous)
        return StepJacobian(to_tensors(last), to_tensors(previous)).column_sums()
    tensors = step.tensors

    def of_state(*h: Tensor) -> Tensors:
        return to_tensors(step.evaluate(tensors, like(h, state)))

    vjp = _transposed(of_state, to_tensors(state))
    return vjp(tuple(torch.ones_like(t) for t in to_tensors(state)))
