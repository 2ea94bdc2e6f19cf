"""The adjoint system of an equilibrium, ``u = g + J^T u``: its limits, its record, its solution.

``g`` is the gradient that arrives at the equilibrium ``h* = F(x, h*)`` and ``J = dF/dh`` its state
Jacobian. The solvers stand in :mod:`rpanoptic.recurrent.solvers`; here is what they share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rpanoptic.recurrent.solvers import SOLVERS, JacobianProducts, Limits, Progress, StopReason
from rpanoptic.recurrent.state import Packing, row_norms

# v -> J^T v (or J v), over the tensors of the state.
TensorProduct = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class AdjointConfig:
    """How an adjoint system is solved, and how far.

    Args:
        max_steps: most vector-Jacobian products; 0 gives u = g, the one-step gradient.
        tol: a sample is solved when its residual (for "neumann": its last term) is at most
            ``tol`` times its incoming gradient, both in Euclidean norm. Relative, so that a loss
            scale changes nothing.
        solver: a name in :data:`rpanoptic.recurrent.SOLVERS`.
        memory: vectors that "anderson" mixes, or that "gmres" collects before it restarts.
        ridge: for "cg", added to the diagonal of the normal equations. It makes singular systems
            solvable and biases all others; 0 solves the system itself.
        check_every: on a GPU, products between two looks at whether all samples are done. Each
            look makes the host wait; 0 never looks and always spends ``max_steps``. On a CPU a
            look is free and taken every time.

    Raises:
        ValueError: a value is out of its range, or the solver is unknown.
    """

    max_steps: int = 15
    tol: float = 1e-6
    solver: str = "neumann"
    memory: int = 5
    ridge: float = 0.0
    check_every: int = 0

    def __post_init__(self) -> None:
        for name, least in (("max_steps", 0), ("tol", 0), ("ridge", 0), ("check_every", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(
                    f"adjoint {name} must be at least {least}, got {getattr(self, name)}"
                )
        if self.memory < 1:
            raise ValueError(f"adjoint memory must be at least 1, got {self.memory}")
        SOLVERS.get(self.solver)


@dataclass
class AdjointRecord:
    """What an adjoint solve did, a value a sample; filled in by the backward pass.

    Attributes:
        terms: ``(N,)`` int64, vector-Jacobian products that the sample's solution is made of; for
            "neumann", the terms beyond the first, g.
        residual: ``(N,)``, norm of ``g + J^T u - u`` over that of g (for "neumann" the norm of
            the last added term, which bounds it while the terms decay).
        reason: ``(N,)`` int64, a :class:`StopReason`.
        finite: ``(N,)`` bool, whether u is.
        failed: ``(N,)`` bool, whether the solve itself diverged or broke down. A gradient that
            arrives infinite, as under a loss scale that is too large, is no failure of the solve.
    """

    terms: Tensor | None = None
    residual: Tensor | None = None
    reason: Tensor | None = None
    finite: Tensor | None = None
    failed: Tensor | None = None


def solve_adjoint(
    vjp: TensorProduct,
    gradient: tuple[Tensor, ...],
    config: AdjointConfig,
    record: AdjointRecord | None = None,
    jvp: TensorProduct | None = None,
) -> tuple[Tensor, ...]:
    """Solve ``u = g + J^T u``, each sample for itself.

    The solution falls back to the best that was reached where the iteration diverges or breaks
    down. No sample's result depends on the others in its batch.

    Args:
        vjp: ``v -> J^T v``.
        gradient: g, each tensor ``(N, ...)``.
        config: solver and limits.
        record: filled in with what was done.
        jvp: ``v -> J v``, for the solvers that need it ("cg").

    Returns:
        u, like ``gradient``. Where g is not finite it is returned as it is, so that a gradient
        scaler sees it.
    """
    packing = Packing(gradient)
    g = packing.pack(gradient)
    size = row_norms(g.detach())
    finite = torch.isfinite(size)
    scale = _power_of_two(torch.where(finite, size, 1.0) / math.sqrt(max(g.shape[1], 1)))
    scaled = torch.where(finite[:, None], g / scale[:, None], 0.0)
    progress = Progress(
        row_norms(scaled.detach()), Limits(config.max_steps, config.tol, config.check_every)
    )
    products = JacobianProducts(_on_rows(vjp, packing), jvp and _on_rows(jvp, packing))
    solver = SOLVERS.get(config.solver)(memory=config.memory, ridge=config.ridge)
    solution = solver.solve(products, scaled, progress) if g.numel() else scaled
    solution = torch.where(finite[:, None], solution * scale[:, None], g)

    if record is not None:
        record.terms = progress.terms
        record.residual = torch.where(finite, progress.residual, torch.inf)
        record.reason = torch.where(finite, progress.reason, int(StopReason.NON_FINITE))
        record.finite = torch.isfinite(row_norms(solution.detach()))
        record.failed = finite & (progress.reason >= StopReason.DIVERGED)
    return packing.unpack(solution)


def _power_of_two(sizes: Tensor) -> Tensor:
    # Numbers of about 1 neither overflow nor vanish in half-precision products, and a power of two
    # leaves every digit as it is: a loss scale of 2^16 changes no bit of the solution.
    exponent = torch.log2(sizes.clamp_min(torch.finfo(sizes.dtype).tiny)).round()
    return torch.exp2(exponent)


def _on_rows(product: TensorProduct, packing: Packing) -> Callable[[Tensor], Tensor]:
    return lambda rows: packing.pack(product(packing.unpack(rows)))
