"""Solvers for the adjoint system of an equilibrium, ``u = g + J^T u``.

``g`` is the gradient that arrives at the equilibrium ``h* = F(x, h*)`` and ``J = dF/dh`` its state
Jacobian. A solver sees J only through vector-Jacobian products ``v -> J^T v``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from rpanoptic.recurrent.state import per_sample, sample_norms

# v -> J^T v, over the tensors of the state.
VectorJacobianProduct = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]

# A term may exceed the one before by this factor: the Jacobian of a contraction need not be
# normal, so its terms can grow a little before they decay.
GROWTH_PER_TERM = 1.1
# ... but none may exceed the incoming gradient by this factor.
GROWTH_IN_ALL = 10.0


class StopReason(IntEnum):
    """Why the series of a sample ended."""

    MAX_STEPS = 0
    CONVERGED = 1
    DIVERGED = 2
    NON_FINITE = 3


@dataclass(frozen=True)
class AdjointConfig:
    """How far an adjoint system is solved.

    Args:
        max_steps: most vector-Jacobian products; 0 gives u = g, the one-step gradient.
        tol: a sample is solved when its last term is at most ``tol`` times its incoming gradient,
            both in Euclidean norm. Relative, so that a loss scale changes nothing.

    Raises:
        ValueError: a value is out of its range.
    """

    max_steps: int = 15
    tol: float = 1e-6

    def __post_init__(self) -> None:
        if self.max_steps < 0:
            raise ValueError(f"adjoint max_steps must be at least 0, got {self.max_steps}")
        if not self.tol >= 0:
            raise ValueError(f"adjoint tol must be at least 0, got {self.tol}")


@dataclass
class AdjointRecord:
    """What an adjoint solve did, a value a sample; filled in by the backward pass.

    Attributes:
        terms: ``(N,)`` int64, terms added beyond the first, g.
        residual: ``(N,)``, norm of the last added term over that of g.
        reason: ``(N,)`` int64, a :class:`StopReason`.
    """

    terms: Tensor | None = None
    residual: Tensor | None = None
    reason: Tensor | None = None


def neumann_series(
    vjp: VectorJacobianProduct,
    gradient: tuple[Tensor, ...],
    config: AdjointConfig,
    record: AdjointRecord | None = None,
) -> tuple[Tensor, ...]:
    """Sum ``u_K = g + J^T g + ... + (J^T)^K g``, each sample for itself.

    The series converges when the spectral radius of J is below 1. A sample's sum ends where a
    term is small enough, and falls back to the last accepted partial sum where a term grows or is
    not finite. No sample's result depends on the others in its batch.

    Args:
        vjp: ``v -> J^T v``.
        gradient: g, each tensor ``(N, ...)``.
        config: limits of the sum.
        record: filled in with what was done.

    Returns:
        u, like ``gradient``.
    """
    size = sample_norms(gradient)
    finite = torch.isfinite(size)
    active = finite & (size > 0)
    reason = torch.full_like(size, StopReason.MAX_STEPS, dtype=torch.int64)
    reason[size == 0] = StopReason.CONVERGED
    reason[~finite] = StopReason.NON_FINITE
    terms = torch.zeros_like(reason)
    residual = torch.where(size == 0, torch.zeros_like(size), torch.ones_like(size))
    last_size = size

    total = term = gradient
    for _ in range(config.max_steps if size.numel() else 0):
        # Looking at ``active`` would make the host wait for a GPU at every term.
        if active.device.type == "cpu" and not bool(active.any()):
            break
        # Finished samples go on as zeros: what is infinite in one must not reach the others.
        term = vjp(_masked(active, term))
        term_size = sample_norms(term)
        is_finite = torch.isfinite(term_size)
        grows = (term_size > GROWTH_PER_TERM * last_size) | (term_size > GROWTH_IN_ALL * size)
        accepted = active & is_finite & ~grows
        total = tuple(t + v for t, v in zip(total, _masked(accepted, term), strict=True))
        converged = accepted & (term_size <= config.tol * size)

        terms += accepted
        residual = torch.where(accepted, term_size / size, residual)
        reason[converged] = StopReason.CONVERGED
        reason[active & is_finite & grows] = StopReason.DIVERGED
        reason[active & ~is_finite] = StopReason.NON_FINITE
        last_size = torch.where(accepted, term_size, last_size)
        active = accepted & ~converged

    if record is not None:
        record.terms, record.residual, record.reason = terms, residual, reason
    return total


def _masked(keep: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # where, not a product: 0 * inf is not 0.
    return tuple(torch.where(per_sample(keep, t), t, torch.zeros_like(t)) for t in tensors)
