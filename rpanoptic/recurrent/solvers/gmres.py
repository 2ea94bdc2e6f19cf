"""GMRES: the smallest residual over a growing Krylov space."""

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


@SOLVERS.register("gmres")
class GMRES(AdjointSolver):
    """GMRES on ``(I - J^T) u = g``, restarted after ``memory`` products (Saad & Schultz 1986).

    It needs no contraction, only that 1 is no eigenvalue of J, and its residual never grows. One
    vector-Jacobian product a step and one more at each restart; ``memory + 1`` vectors are kept.
    """

    def solve(self, products: JacobianProducts, g: Tensor, progress: Progress) -> Tensor:
        u, residual = torch.zeros_like(g), g
        while True:
            cycle = _Cycle(residual)
            while cycle.length < self.memory and progress.spend():
                cycle.extend(products, progress)
            u = u + cycle.correction()
            # A restart costs a product, and is of use only if another follows.
            if cycle.length < self.memory or progress.left < 2 or not progress.spend():
                break
            residual = progress.mask(g - u + products.vjp(progress.mask(u)))
        # Before the first product the best known solution is g, the one-step gradient.
        return torch.where((progress.terms > 0)[:, None], u, g)


class _Cycle:
    """One cycle between restarts: Arnoldi's basis, and the least squares by Givens rotations.

    Everything is kept a sample at a time, so that each has a Krylov space of its own. The column
    of a finished sample is a unit vector with right-hand side 0: it corrects nothing.
    """

    def __init__(self, residual: Tensor) -> None:
        self._rest = row_norms(residual)
        self._basis = [safe_divide(residual, self._rest[:, None])]
        self._columns: list[list[Tensor]] = []
        self._right: list[Tensor] = []
        self._rotations: list[tuple[Tensor, Tensor]] = []

    @property
    def length(self) -> int:
        return len(self._columns)

    def extend(self, products: JacobianProducts, progress: Progress) -> None:
        """Spend one product: a new basis vector, a new column, a smaller residual."""
        newest = progress.mask(self._basis[-1])
        image = newest - products.vjp(newest)
        column = [torch.zeros_like(self._rest) for _ in self._basis]
        # Twice is enough: one pass of Gram-Schmidt loses orthogonality in single precision.
        for _ in range(2):
            for index, vector in enumerate(self._basis):
                overlap = row_products(vector, image)
                image = image - overlap[:, None] * vector
                column[index] = column[index] + overlap
        size = row_norms(image)
        column.append(size)
        for index, (cosine, sine) in enumerate(self._rotations):
            above, below = column[index], column[index + 1]
            column[index] = cosine * above + sine * below
            column[index + 1] = cosine * below - sine * above
        above, below = column[-2:]
        length = torch.hypot(above, below)
        # A column that the rotations leave nothing of: the system is singular on this space.
        rounding = 10 * torch.finfo(size.dtype).eps * torch.stack(column).norm(dim=0)
        singular = length <= rounding
        usable = progress.active & length.isfinite() & ~singular
        cosine = torch.where(usable, safe_divide(above, length), 1.0)
        sine = torch.where(usable, safe_divide(below, length), 0.0)
        rest = -sine * self._rest
        column = [torch.where(usable, entry, 0.0) for entry in column[:-2]]
        self._columns.append([*column, torch.where(usable, length, 1.0)])
        self._right.append(torch.where(usable, cosine * self._rest, 0.0))
        self._rotations.append((cosine, sine))
        reached = torch.where(length.isfinite(), rest.abs(), torch.inf)
        progress.settle(reached, accepted=usable, diverged=singular)
        self._rest = torch.where(usable, rest, self._rest)
        self._basis.append(progress.mask(safe_divide(image, size[:, None])))

    def correction(self) -> Tensor:
        """What the cycle adds to the solution, ``(N, D)``."""
        correction = torch.zeros_like(self._basis[0])
        weights: list[Tensor] = []
        for row in reversed(range(self.length)):
            known = sum(
                self._columns[row + 1 + offset][row] * weight
                for offset, weight in enumerate(reversed(weights))
            )
            weights.append((self._right[row] - known) / self._columns[row][row])
            correction = correction + weights[-1][:, None] * self._basis[row]
        return correction
