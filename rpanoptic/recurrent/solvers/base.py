"""What every solver of the adjoint system is, and how a solve keeps count, sample by sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from rpanoptic.recurrent.registry import Registry

# A solution is given up when its residual exceeds the incoming gradient by this factor.
GROWTH_IN_ALL = 10.0


class StopReason(IntEnum):
    """Why the solve of a sample ended.

    STAGNATED: rounding, or a singular system, leaves nothing to gain; the residual tells how far
    it came.
    """

    MAX_STEPS = 0
    CONVERGED = 1
    DIVERGED = 2
    NON_FINITE = 3
    STAGNATED = 4


@dataclass(frozen=True)
class JacobianProducts:
    """Products with the state Jacobian J, on rows ``(N, D)``.

    Attributes:
        vjp: ``v -> J^T v``.
        jvp: ``v -> J v``; None where it cannot be had.
    """

    vjp: Callable[[Tensor], Tensor]
    jvp: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Limits:
    """Limits of a solve, see :class:`rpanoptic.recurrent.AdjointConfig`."""

    max_steps: int
    tol: float
    check_every: int = 0


class Progress:
    """Who is still being solved, and how the others ended.

    Args:
        size: ``(N,)`` norm of each sample's g; all are finite.
        limits: when to end.

    Attributes:
        spent: products spent so far, the same for all samples.
        active: ``(N,)`` bool, samples still being solved.
        terms: ``(N,)`` int64, products that the accepted solution is made of.
        residual: ``(N,)``, relative residual of the accepted solution.
        reason: ``(N,)`` int64, a :class:`StopReason`.
    """

    def __init__(self, size: Tensor, limits: Limits) -> None:
        self.size = size
        self.limits = limits
        self.spent = 0
        self.active = size > 0
        self.terms = torch.zeros_like(size, dtype=torch.int64)
        self.residual = self.active.to(size.dtype)
        self.reason = torch.where(self.active, int(StopReason.MAX_STEPS), int(StopReason.CONVERGED))

    @property
    def left(self) -> int:
        """Products that may still be spent."""
        return self.limits.max_steps - self.spent

    def spend(self, products: int = 1) -> bool:
        """Count ``products`` more, unless the limit forbids them or no sample has use for them."""
        if self.left < products:
            return False
        if self._may_look() and not bool(self.active.any()):
            return False
        self.spent += products
        return True

    def settle(self, residual: Tensor, accepted: Tensor, diverged: Tensor) -> None:
        """Note what a step did.

        Args:
            residual: ``(N,)`` norm of the residual that the step reached.
            accepted: ``(N,)`` bool, whether the sample's solution was replaced.
            diverged: ``(N,)`` bool, samples to give up; those without a finite residual are given
                up in any case.
        """
        accepted = accepted & self.active
        is_finite = torch.isfinite(residual)
        converged = accepted & (residual <= self.limits.tol * self.size)
        given_up = self.active & ~converged & (diverged | ~is_finite)
        self.terms = torch.where(accepted, self.spent, self.terms)
        self.residual = torch.where(accepted, residual / self.size, self.residual)
        reason = torch.where(converged, int(StopReason.CONVERGED), self.reason)
        reason = torch.where(given_up & is_finite, int(StopReason.DIVERGED), reason)
        self.reason = torch.where(given_up & ~is_finite, int(StopReason.NON_FINITE), reason)
        self.active = self.active & ~converged & ~given_up

    def finish(self, done: Tensor) -> None:
        """End the samples of which ``done`` ``(N,)`` is true: no step would change them."""
        done = done & self.active
        self.reason = torch.where(done, int(StopReason.STAGNATED), self.reason)
        self.active = self.active & ~done

    def give_up(self, samples: Tensor) -> None:
        """Note that the solutions of ``samples`` ``(N,)``, bool, are replaced by g."""
        self.reason = torch.where(samples, int(StopReason.DIVERGED), self.reason)
        self.terms = torch.where(samples, 0, self.terms)
        self.residual = torch.where(samples, torch.nan, self.residual)

    def mask(self, rows: Tensor) -> Tensor:
        """``rows`` ``(N, D)`` with zeros for the finished samples.

        What is infinite in one sample must not reach the others, and 0 * inf is not 0.
        """
        return torch.where(self.active[:, None], rows, 0.0)

    def _may_look(self) -> bool:
        # A look at ``active`` makes the host wait for a GPU, and cannot be compiled or captured.
        if torch.compiler.is_compiling():
            return False
        if self.active.device.type == "cpu":
            return True
        every = self.limits.check_every
        return every > 0 and self.spent > 0 and self.spent % every == 0


class AdjointSolver(ABC):
    """A way to solve ``u = g + J^T u``.

    Args:
        memory: vectors that may be kept; solvers of short recurrences ignore it.
        ridge: regularisation, for the solvers that have one.
    """

    def __init__(self, *, memory: int = 5, ridge: float = 0.0) -> None:
        self.memory = memory
        self.ridge = ridge

    @abstractmethod
    def solve(self, products: JacobianProducts, g: Tensor, progress: Progress) -> Tensor:
        """Return u.

        Args:
            products: with J, on rows.
            g: right-hand sides ``(N, D)``, finite.
            progress: says how long to go on; filled in.

        Returns:
            ``(N, D)``, the best solution of each sample; g itself if no step was taken.
        """


SOLVERS: Registry[AdjointSolver] = Registry("adjoint solver")


def safe_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, 0 where the denominator is 0: finished samples go on as zeros."""
    zero = denominator == 0
    return torch.where(zero, 0.0, numerator / torch.where(zero, 1.0, denominator))
