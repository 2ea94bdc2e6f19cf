"""The Neumann series: one vector-Jacobian product a term, nothing kept."""

from __future__ import annotations

from torch import Tensor

from rpanoptic.recurrent.solvers.base import (
    GROWTH_IN_ALL,
    SOLVERS,
    AdjointSolver,
    JacobianProducts,
    Progress,
)
from rpanoptic.recurrent.state import row_norms

# A term may exceed the one before by this factor: the Jacobian of a contraction need not be
# normal, so its terms can grow a little before they decay.
GROWTH_PER_TERM = 1.1


@SOLVERS.register("neumann")
class Neumann(AdjointSolver):
    """``u_K = g + J^T g + ... + (J^T)^K g`` (Liao et al., ICML 2018).

    It converges when the spectral radius of J is below 1. The sum ends where a term is small
    enough, and stays at the last accepted partial sum where a term grows or is not finite.
    """

    def solve(self, products: JacobianProducts, g: Tensor, progress: Progress) -> Tensor:
        total = term = g
        last_size = progress.size
        while progress.spend():
            term = products.vjp(progress.mask(term))
            size = row_norms(term.detach())
            grows = (size > GROWTH_PER_TERM * last_size) | (size > GROWTH_IN_ALL * progress.size)
            accepted = progress.active & ~grows & size.isfinite()
            progress.settle(size, accepted, diverged=grows)
            total = total + term.where(accepted[:, None], term.new_zeros(()))
            last_size = size
        return total
