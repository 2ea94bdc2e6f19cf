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
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
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


class Packing:
    """Lays the tensors of a state side by side, a row a sample, and takes them apart again.

    Solvers work on rows: each is one vector of the state space, whatever the number of tensors.
    Half-precision states are packed as float32, so that sums over a row do not overflow.

    Args:
        tensors: the tensors of a state, each ``(N, ...)``; they set shapes, types and the order
            of the numbers in a row, which is that of memory (channels last or not).
    """

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self.shapes = [t.shape for t in tensors]
        self.dtypes = [t.dtype for t in tensors]
        self.channels_last = [_is_channels_last(t) for t in tensors]
        self.sizes = [t.shape[1:].numel() for t in tensors]
        self.dtype = torch.float32
        for dtype in self.dtypes:
            self.dtype = torch.promote_types(self.dtype, dtype)

    def pack(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """The tensors as rows ``(N, D)``, float32 (float64 for float64 states)."""
        rows = [
            (t.permute(0, 2, 3, 1) if last else t).flatten(1).to(self.dtype)
            for t, last in zip(tensors, self.channels_last, strict=True)
        ]
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)

    def unpack(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Rows ``(N, D)`` as tensors of the state's shapes, types and memory formats."""
        tensors = []
        for part, shape, dtype, last in zip(
            rows.split(self.sizes, dim=1),
            self.shapes,
            self.dtypes,
            self.channels_last,
            strict=True,
        ):
            part = part.contiguous()
            if last:
                samples, channels, height, width = shape
                part = part.reshape(samples, height, width, channels).permute(0, 3, 1, 2)
            else:
                part = part.reshape(shape)
            tensors.append(part.to(dtype))
        return tuple(tensors)


def _is_channels_last(tensor: Tensor) -> bool:
    return (
        tensor.dim() == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )


def row_norms(rows: Tensor) -> Tensor:
    """Euclidean norms ``(N,)`` of rows ``(N, D)``."""
    return torch.linalg.vector_norm(rows, dim=1)


def row_products(rows: Tensor, others: Tensor) -> Tensor:
    """Inner products ``(N,)`` of rows ``(N, D)``, sample by sample."""
    # Autocast would take these products in half precision.
    with torch.autocast(rows.device.type, enabled=False):
        return torch.linalg.vecdot(rows, others, dim=1)


def where(
    keep: Tensor, tensors: tuple[Tensor, ...], others: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """``tensors`` for the samples of which ``keep`` ``(N,)`` is true, ``others`` for the rest."""
    return tuple(
        torch.where(per_sample(keep, t), t, o) for t, o in zip(tensors, others, strict=True)
    )


def relative_change(new: State, old: State) -> Tensor:
    """``|new - old| / |new|`` of each sample, ``(N,)``; 0 at an equilibrium.

    Where the new state is 0 it is 1, unless the old one was 0 too.
    """
    after, before = to_tensors(new), to_tensors(old)
    size = sample_norms(after)
    size = torch.where(size == 0, sample_norms(before), size)
    change = sample_norms(tuple(a - b for a, b in zip(after, before, strict=True)))
    return change / size.clamp_min(torch.finfo(size.dtype).tiny)
