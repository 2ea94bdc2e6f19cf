"""Adaptive halting: a sample that has settled leaves the batch and costs nothing from then on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rpanoptic.recurrent.gradients.base import CellStep, Rollout
from rpanoptic.recurrent.gradients.compiled import in_transform
from rpanoptic.recurrent.state import State, like, relative_change, to_tensors


def run_until_settled(step: CellStep, state: State, steps: int, tol: float) -> Rollout:
    """Run a recurrence without gradient, each sample until it settles.

    A sample is finished after the first step that changes its state by at most ``tol`` times the
    state's norm, or whose state is not finite, since no use would come of further steps. What is
    left of the batch is then gathered into a smaller one. Each sample gets what it would get alone.

    On a GPU the host waits once a step to learn which samples are finished.

    Args:
        step: the cell with its drive.
        state: first state, each tensor ``(N, ...)``.
        steps: the most steps, at least 1.
        tol: above 0.

    Returns:
        the samples in their order; ``steps`` tells how many each took.
    """
    first = to_tensors(state)[0]
    samples = torch.arange(first.shape[0], device=first.device)
    finished: list[_Finished] = []
    for taken in range(1, steps + 1):
        new = step(state)
        if taken == steps:
            break
        change = relative_change(new, state)
        # Not "<=": the change of a state that is not finite is not a number.
        settled = ~(change > tol)
        count = int(settled.sum())
        if count == len(samples):
            break
        if count:
            leaving, staying = settled.nonzero()[:, 0], (~settled).nonzero()[:, 0]
            finished.append(
                _Finished(samples[leaving], _select(new, leaving), _select(state, leaving), taken)
            )
            samples, new = samples[staying], _select(new, staying)
            step = CellStep(step.cell, _select(step.drive, staying))
        state = new
    finished.append(_Finished(samples, new, state, taken))
    return _in_order(finished)


def can_halt() -> bool:
    """Whether Python may look at values here: not while compiling, tracing or transforming."""
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing() or in_transform())


def couples_samples(cell: nn.Module) -> bool:
    """Whether a sample's step depends on the others in its batch, in evaluation mode too."""
    return any(isinstance(m, _BatchNorm) and m.running_mean is None for m in cell.modules())


@dataclass
class _Finished:
    """Samples that stopped after the same step.

    Attributes:
        samples: their places in the batch, ``(M,)`` int64.
        state, previous: after the last step and before it.
        taken: number of that step.
    """

    samples: Tensor
    state: State
    previous: State
    taken: int


def _in_order(finished: list[_Finished]) -> Rollout:
    steps = torch.cat([part.samples.new_full(part.samples.shape, part.taken) for part in finished])
    if len(finished) == 1:
        (part,) = finished
        return Rollout(part.state, part.previous, part.state, steps)
    places = torch.cat([part.samples for part in finished]).argsort()
    state = _select(_join([part.state for part in finished]), places)
    previous = _select(_join([part.previous for part in finished]), places)
    return Rollout(state, previous, state, steps[places])


def _select(state: State, places: Tensor) -> State:
    # Indexing keeps the memory format, which index_select does not.
    return like(tuple(tensor[places] for tensor in to_tensors(state)), state)


def _join(states: list[State]) -> State:
    parts = zip(*(to_tensors(state) for state in states), strict=True)
    return like(tuple(torch.cat(tensors) for tensors in parts), states[0])
