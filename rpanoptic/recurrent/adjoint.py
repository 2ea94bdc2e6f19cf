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

from rpanoptic.recurrent.checks import check_count, check_number
from rpanoptic.recurrent.solvers import SOLVERS, JacobianProducts, Limits, Progress, StopReason
from rpanoptic.recurrent.state import Packing, row_norms

# v -> J^T v (or J v), over the tensors of the state.
TensorProduct = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class AdjointConfig:
    """How an adjoint system is solved, and how far.

    Args:
        max_steps: most vector-Jacobian products; 0 gives u = g, the one-step gradient. "cg" takes
            as many Jacobian-vector products besides.
        tol: a sample is solved when its residual (for "neumann": its last term) is at most
            ``tol`` times its incoming gradient, both in Euclidean norm. Relative, so that a loss
            scale changes nothing.
        solver: a name in :data:`rpanoptic.recurrent.SOLVERS`.
        memory: vectors that "anderson" mixes, or that "gmres" collects before it restarts.
        ridge: for "cg", added to the diagonal of the normal equations. It makes singular systems
            solvable and biases all others; 0 solves the system itself.
        max_growth: largest ``|u| / |g|`` that is believed. Near a singular system a solver may
            find a huge u with a small residual; such a sample falls back to u = g and counts as
            diverged.
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
    max_growth: float = 1e4
    check_every: int = 0

    def __post_init__(self) -> None:
        for name, least in (("max_steps", 0), ("memory", 1), ("check_every", 0)):
            check_count(f"adjoint {name}", getattr(self, name), least=least)
        for name, smallest in (("tol", 0.0), ("ridge", 0.0), ("max_growth", 1.0)):
            check_number(f"adjoint {name}", getattr(self, name), least=smallest)
        SOLVERS.get(self.solver)


@dataclass
class AdjointRecord:
    """What an adjoint solve did, a value a sample; filled in by the latest backward pass.

    Attributes:
        terms: ``(N,)`` int64, vector-Jacobian products that the sample's solution is made of; for
            "neumann", the terms beyond the first, g.
        residual: ``(N,)``, norm of ``g + J^T u - u`` over that of g. For "neumann" and "anderson"
            it is the one before their last product, which bounds it where J contracts: the norm
            of the last term, and the last change of u. nan where u was given up for g.
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
    scale = _scale(g.detach())
    finite = torch.isfinite(scale)
    scaled = torch.where(finite[:, None], g / scale[:, None], 0.0)
    progress = Progress(
        row_norms(scaled.detach()), Limits(config.max_steps, config.tol, config.check_every)
    )
    products = JacobianProducts(_on_rows(vjp, packing), jvp and _on_rows(jvp, packing))
    solver = SOLVERS.get(config.solver)(memory=config.memory, ridge=config.ridge)
    solution = solver.solve(products, scaled, progress) if g.numel() else scaled
    huge = row_norms(solution.detach()) > config.max_growth * progress.size
    progress.give_up(huge)
    usable = finite & ~huge
    solution = torch.where(usable[:, None], solution * scale[:, None], g)

    if record is not None:
        record.terms = progress.terms
        record.residual = torch.where(finite, progress.residual, torch.inf)
        record.reason = torch.where(finite, progress.reason, int(StopReason.NON_FINITE))
        record.finite = torch.isfinite(row_norms(solution.detach()))
        record.failed = finite & (
            (progress.reason == StopReason.DIVERGED) | (progress.reason == StopReason.NON_FINITE)
        )
    return packing.unpack(solution)


def _scale(rows: Tensor) -> Tensor:
    """``(N,)`` powers of two near the root mean square of each row; inf or nan where it is that.

    Numbers of about 1 neither overflow nor vanish in half-precision products, and a power of two
    leaves every digit as it is: a loss scale of 2^16 changes no bit of the solution.
    """
    if not rows.numel():
        return rows.new_ones(rows.shape[0])
    peak = rows.abs().amax(dim=1)
    # Squares of numbers near the largest would overflow.
    relative = row_norms(rows / peak.clamp_min(torch.finfo(rows.dtype).tiny)[:, None])
    exponent = torch.log2(peak) + torch.log2(relative / math.sqrt(rows.shape[1]))
    return torch.where(peak == 0, 1.0, torch.exp2(exponent.round()))


def _on_rows(product: TensorProduct, packing: Packing) -> Callable[[Tensor], Tensor]:
    return lambda rows: packing.pack(product(packing.unpack(rows)))
