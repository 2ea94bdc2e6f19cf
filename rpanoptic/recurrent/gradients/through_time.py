"""Gradient methods that differentiate the steps themselves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from rpanoptic.recurrent.convolution import convolutions_as_here
from rpanoptic.recurrent.gradients.base import (
    GRADIENTS,
    CellStep,
    GradientConfig,
    GradientMethod,
    Rollout,
)
from rpanoptic.recurrent.gradients.compiled import twice_differentiable
from rpanoptic.recurrent.jacobian import StepJacobian
from rpanoptic.recurrent.relaxation import Relaxation
from rpanoptic.recurrent.state import State, like, to_tensors


@GRADIENTS.register("bptt")
class BPTT(GradientMethod):
    """Back-propagation through time: differentiates all T steps. Memory grows with T.

    Raises:
        ValueError: the forward run is to be accelerated. Then there is no recurrence through time
            whose steps could be differentiated.
    """

    def __init__(self, config: GradientConfig | None = None) -> None:
        super().__init__(config)
        if self.config.forward.acceleration != "none":
            raise ValueError(
                f"forward acceleration {self.config.forward.acceleration!r} needs a gradient "
                "method of the equilibrium; the one chosen differentiates the steps themselves"
            )

    def __call__(self, step: CellStep, state: State, steps: int) -> Rollout:
        run = Relaxation(state, self.config.forward)
        run.advance(self.taped(step), steps - 1)
        return self._finish(step, run)

    def taped(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The step, or any function of tensors that stands for it, as it is put on the tape."""
        return step

    def _finish(self, step: CellStep, run: Relaxation) -> Rollout:
        previous = run.state
        if self.penalised:
            # After a single step the column sums are taken at the first state, a constant.
            tensors = to_tensors(previous)
            tensors = tuple(t if t.requires_grad else t.detach().requires_grad_() for t in tensors)
            previous = like(tensors, previous)
        with twice_differentiable(step.cell) if self.penalised else nullcontext():
            last = self.taped(step)(previous)
        jacobian = StepJacobian(to_tensors(last), to_tensors(previous))
        return Rollout(last, previous, last, run.steps + 1, jacobian.column_sums)


@GRADIENTS.register("tbptt")
class TBPTT(BPTT):
    """Truncated back-propagation through time: differentiates the last ``truncation`` steps.

    The state before them counts as a constant. At an equilibrium, k steps give the Neumann series
    with k - 1 terms beyond the first.
    """

    def __call__(self, step: CellStep, state: State, steps: int) -> Rollout:
        run = Relaxation(state, self.config.forward)
        constant = steps - self.config.truncation
        if constant > 0:
            with torch.no_grad():
                run.advance(step, constant)
            run.detach()
        run.advance(step, min(self.config.truncation, steps) - 1)
        return self._finish(step, run)


@GRADIENTS.register("checkpointed_bptt")
class CheckpointedBPTT(BPTT):
    """BPTT that keeps one state a step and computes the rest again in the backward pass.

    Gradients are those of "bptt". Memory still grows with T, by a state a step instead of by
    everything that a step computes; time grows by one more forward run.
    """

    def taped(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The step as one that is computed again in the backward pass."""
        # A cell draws no random numbers, so that there is no generator to be put back.
        again = convolutions_as_here()
        return lambda state: checkpoint(
            step,
            state,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), again()),
        )


@GRADIENTS.register("cbptt")
class CBPTT(BPTT):
    """Contractor BPTT: BPTT, with the Lipschitz coefficient penalty on the last step.

    The penalty's gradient too flows through all steps (Linsley et al., NeurIPS 2020).
    """

    penalised = True
