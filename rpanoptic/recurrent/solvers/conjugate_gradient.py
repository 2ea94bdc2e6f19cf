"""Conjugate gradients on the normal equations of the adjoint system."""

from __future__ import annotations

import torch
from torch import Tensor

from rpanoptic.recurrent.solvers.base import (
    SOLVERS,
    AdjointSolver,
    JacobianProducts,
    Progress,
    safe_divide,
)
from rpanoptic.recurrent.state import row_norms, row_products


@SOLVERS.register("cg")
class ConjugateGradient(AdjointSolver):
    """CG on ``(I - J)(I - J^T) u = (I - J) g`` (Liao et al., ICML 2018), in the form of CGLS.

    A step takes one vector-Jacobian and one Jacobian-vector product, and steps of length and
    direction of each sample's own. J need not be a contraction, but the normal equations square
    the condition of the system: with few steps the Neumann series is closer where both converge.

    With ``ridge`` it minimises ``|g - (I - J^T) u|^2 + ridge |u|^2`` instead, a bias.
    """

    def solve(self, products: JacobianProducts, g: Tensor, progress: Progress) -> Tensor:
        if products.jvp is None:
            raise ValueError("adjoint solver 'cg' needs Jacobian-vector products (jvp)")
        u, residual = torch.zeros_like(g), g
        slope = progress.mask(g - products.jvp(progress.mask(g)))
        direction = slope
        steepness = row_products(slope, slope)
        # Slopes that are rounding errors lead away again.
        level = (10 * torch.finfo(g.dtype).eps) ** 2 * steepness
        while progress.spend():
            direction = progress.mask(direction)
            image = direction - products.vjp(direction)
            curvature = row_products(image, image)
            if self.ridge:
                curvature = curvature + self.ridge * row_products(direction, direction)
            length = safe_divide(steepness, curvature)[:, None]
            next_u = u + length * direction
            next_residual = residual - length * image
            size = row_norms(next_residual)
            accepted = progress.active & size.isfinite()
            u = torch.where(accepted[:, None], next_u, u)
            residual = torch.where(accepted[:, None], next_residual, residual)
            # Without a slope nothing can be gained: a singular system, or the end.
            progress.settle(size, accepted, diverged=curvature == 0)
            slope = progress.mask(residual)
            slope = slope - products.jvp(slope) - self.ridge * u
            last, steepness = steepness, row_products(slope, slope)
            progress.finish(steepness <= level)
            direction = slope + safe_divide(steepness, last)[:, None] * direction
        return torch.where((progress.terms > 0)[:, None], u, g)
