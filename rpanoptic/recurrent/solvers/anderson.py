"""Anderson acceleration of a fixed-point iteration, sample by sample."""

from __future__ import annotations

import torch
from torch import Tensor

from rpanoptic.recurrent.solvers.base import (
    GROWTH_IN_ALL,
    SOLVERS,
    AdjointSolver,
    JacobianProducts,
    Progress,
)
from rpanoptic.recurrent.state import row_norms, row_products


class AndersonMixer:
    """Anderson mixing of depth m for ``x = f(x)`` (Anderson 1965; Walker & Ni 2011).

    From the last m pairs of f(x) and residual ``r = f(x) - x`` it proposes::

        x' = sum_i a_i f(x_i),   a = argmin |sum_i a_i r_i|^2  with  sum_i a_i = 1

    each sample with weights of its own. It keeps 2 m vectors a sample.

    Args:
        memory: m, at least 1; with 1 it proposes f(x) itself.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self._values: list[Tensor] = []
        self._residuals: list[Tensor] = []
        self._gram: Tensor | None = None

    def __call__(self, value: Tensor, residual: Tensor) -> Tensor:
        """Enter f(x) and f(x) - x, both ``(N, D)``, and return the next x."""
        if len(self._values) == self.memory:
            del self._values[0], self._residuals[0]
        self._values.append(value)
        self._residuals.append(residual)
        weights = self._weights()
        mixed = weights[:, 0, None] * self._values[0]
        for index, kept in enumerate(self._values[1:], start=1):
            mixed = mixed.addcmul_(weights[:, index, None], kept)
        return mixed

    def _weights(self) -> Tensor:
        """``(N, count)``: solves ``C z = 1 / s``, a ~ z / s, with ``C_ij = r_i r_j / (s_i s_j)``.

        Scaling by the lengths s of the residuals keeps the old, long ones from drowning the new.
        """
        residuals, dtype = self._residuals, self._residuals[0].dtype
        row = torch.stack([row_products(r, residuals[-1]) for r in residuals], dim=1)
        # The vectors are kept in their own precision, their few products in double.
        row = row.double()
        count = len(residuals)
        gram = row.new_zeros(row.shape[0], count, count)
        if self._gram is not None and count > 1:
            gram[:, :-1, :-1] = self._gram[:, -(count - 1) :, -(count - 1) :]
        gram[:, -1, :] = gram[:, :, -1] = row
        self._gram = gram

        lengths = gram.diagonal(dim1=1, dim2=2).sqrt()
        lengths = torch.where(lengths > 0, lengths, 1.0)
        ridge = 10 * torch.finfo(dtype).eps
        system = gram / (lengths[:, :, None] * lengths[:, None, :])
        system = system + ridge * torch.eye(count, dtype=system.dtype, device=system.device)
        solution, _ = torch.linalg.solve_ex(system, (1 / lengths)[:, :, None])
        weights = solution[:, :, 0] / lengths
        weights = weights / weights.sum(dim=1, keepdim=True)
        newest = torch.zeros_like(weights)
        newest[:, -1] = 1.0
        usable = torch.isfinite(weights).all(dim=1, keepdim=True)
        return torch.where(usable, weights, newest).to(dtype)


@SOLVERS.register("anderson")
class Anderson(AdjointSolver):
    """Anderson acceleration of ``u <- g + J^T u``; one vector-Jacobian product a step.

    With few vectors kept it needs several times fewer products than the Neumann series when the
    spectral radius of J nears 1. Returns the iterate with the smallest residual.
    """

    def solve(self, products: JacobianProducts, g: Tensor, progress: Progress) -> Tensor:
        mixer = AndersonMixer(self.memory)
        best = u = g
        best_size = torch.full_like(progress.size, torch.inf)
        while progress.spend():
            value = g + products.vjp(progress.mask(u))
            residual = progress.mask(value - u)
            size = row_norms(residual)
            better = size < best_size
            diverged = size > GROWTH_IN_ALL * progress.size
            accepted = progress.active & better & ~diverged
            best = torch.where(accepted[:, None], value, best)
            best_size = torch.where(accepted, size, best_size)
            progress.settle(size, accepted, diverged)
            u = mixer(progress.mask(value), progress.mask(residual))
        return best
