"""BiCGStab: a Krylov method whose memory does not grow with its steps."""

from __future__ import annotations

import torch
from torch import Tensor

from rpanoptic.recurrent.solvers.base import (
    GROWTH_IN_ALL,
    SOLVERS,
    AdjointSolver,
    JacobianProducts,
    Progress,
    safe_divide,
)
from rpanoptic.recurrent.state import row_norms, row_products


@SOLVERS.register("bicgstab")
class BiCGStab(AdjointSolver):
    """BiCGStab on ``(I - J^T) u = g`` (van der Vorst 1992).

    Two vector-Jacobian products a step and seven vectors, however many steps. Its residual goes up
    and down; the iterate with the smallest one is returned.
    """

    def solve(self, products: JacobianProducts, g: Tensor, progress: Progress) -> Tensor:
        def apply(vector: Tensor) -> Tensor:
            vector = progress.mask(vector)
            return vector - products.vjp(vector)

        u, residual, shadow = torch.zeros_like(g), g, g
        direction = image = torch.zeros_like(g)
        rho = alpha = omega = torch.ones_like(progress.size)
        best, best_size = g, torch.full_like(progress.size, torch.inf)
        while progress.spend(2):
            last_rho, rho = rho, row_products(shadow, residual)
            beta = safe_divide(rho, last_rho) * safe_divide(alpha, omega)
            direction = residual + beta[:, None] * (direction - omega[:, None] * image)
            image = apply(direction)
            alpha = safe_divide(rho, row_products(shadow, image))
            half = residual - alpha[:, None] * image
            turned = apply(half)
            omega = safe_divide(row_products(turned, half), row_products(turned, turned))
            u = u + alpha[:, None] * direction + omega[:, None] * half
            residual = half - omega[:, None] * turned

            size = row_norms(residual)
            # Both factors 0: the Krylov spaces have become orthogonal, nothing can be gained.
            stuck = (alpha == 0) & (omega == 0)
            accepted = progress.active & (size < best_size)
            best = torch.where(accepted[:, None], u, best)
            best_size = torch.where(accepted, size, best_size)
            # The residual may rise far above its start and still come down.
            diverged = stuck | (size > GROWTH_IN_ALL**3 * progress.size)
            progress.settle(size, accepted, diverged)
            u, residual, direction, image = map(progress.mask, (u, residual, direction, image))
        return best
