"""Products with the state Jacobian of a step that stands on the tape."""

from __future__ import annotations

import torch
from torch import Tensor

from rpanoptic.recurrent.state import State, like, to_tensors

Tensors = tuple[Tensor, ...]


class StepJacobian:
    """``J = d last / d previous``, through any number of products with J and its transpose.

    Args:
        last: the tensors of the state after a step.
        previous: those before it, in whose graph ``last`` stands.
    """

    def __init__(self, last: Tensors, previous: Tensors) -> None:
        self._last = last
        self._previous = previous
        self._cotangents: Tensors = ()
        self._pullback: Tensors = ()

    def vjp(self, vectors: Tensors) -> Tensors:
        """``J^T v``."""
        return _gradients(self._last, self._previous, vectors)

    def jvp(self, vectors: Tensors) -> Tensors:
        """``J v``: the derivative of ``u -> J^T u``, which is linear, along v."""
        if not self._cotangents:
            with torch.enable_grad():
                self._cotangents = tuple(torch.zeros_like(t).requires_grad_() for t in self._last)
                self._pullback = _gradients(
                    self._last, self._previous, self._cotangents, create_graph=True
                )
        return _gradients(self._pullback, self._cotangents, vectors)

    def column_sums(self) -> Tensors:
        """``J^T 1``, the signed column sums of J, with their graph."""
        ones = tuple(torch.ones_like(t) for t in self._last)
        return _gradients(self._last, self._previous, ones, create_graph=True)


def as_leaves(state: State) -> State:
    """The same state as the beginning of a new tape."""
    return like(tuple(t.detach().requires_grad_() for t in to_tensors(state)), state)


def _gradients(
    outputs: Tensors, inputs: Tensors, vectors: Tensors, *, create_graph: bool = False
) -> Tensors:
    # A cell may leave a part of its state out, or hand a constant on.
    pairs = [(t, v) for t, v in zip(outputs, vectors, strict=True) if t.requires_grad]
    if not pairs:
        return tuple(torch.zeros_like(t) for t in inputs)
    reached, weights = zip(*pairs, strict=True)
    return torch.autograd.grad(
        reached,
        inputs,
        weights,
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
