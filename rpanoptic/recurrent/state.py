"""The state of a recurrent cell: one tensor, or a tuple of tensors with the samples first."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

State: TypeAlias = "Tensor | tuple[Tensor, ...]"


def to_tensors(state: State) -> tuple[Tensor, ...]:
    """The tensors of a state, always as a tuple."""
    return (state,) if isinstance(state, Tensor) else tuple(state)


def like(tensors: tuple[Tensor, ...], state: State) -> State:
    """``tensors`` in the form of ``state``: the inverse of :func:`to_tensors`."""
    return tensors[0] if isinstance(state, Tensor) else tensors


def sample_norms(tensors: tuple[Tensor, ...]) -> Tensor:
    """Euclidean norm of each sample over all of its tensors.

    Sums run in float32 at least, so that half-precision states do not overflow.

    Args:
        tensors: each ``(N, ...)``.

    Returns:
        ``(N,)``, float32 (float64 for float64 input).
    """
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    norms = [
        torch.linalg.vector_norm(t.reshape(t.shape[0], -1), dim=1, dtype=dtype)
        if t.numel()
        else t.new_zeros(t.shape[0], dtype=dtype)
        for t in tensors
    ]
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms), dim=0)


def per_sample(values: Tensor, tensor: Tensor) -> Tensor:
    """``(N,)`` values shaped to broadcast against ``(N, ...)``."""
    return values.reshape(-1, *([1] * (tensor.dim() - 1)))
