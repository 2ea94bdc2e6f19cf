"""Where a sample has no equilibrium, or its adjoint system no solution: found out and reported."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from rpanoptic.recurrent.gradients.base import GradientConfig
from rpanoptic.recurrent.state import State, relative_change, sample_norms, to_tensors


class EquilibriumError(RuntimeError):
    """A recurrence reached no equilibrium, or the adjoint system of one could not be solved."""


def unsettled(last: State, previous: State, config: GradientConfig) -> Tensor:
    """``(N,)`` bool: samples that reached no equilibrium, as far as one was asked for.

    Without a tolerance of the forward run, only a state that is not finite counts.

    Raises:
        EquilibriumError: there are some and the policy is "raise".
    """
    tol = config.forward.tol
    with torch.no_grad():
        if tol > 0:
            failed, asked = ~(relative_change(last, previous) <= tol), f"{tol:g} relative change"
        else:
            failed, asked = ~torch.isfinite(sample_norms(to_tensors(last))), "a finite state"
    report(config, failed, f"the recurrence did not come to {asked}")
    return failed


def report(config: GradientConfig, failed: Tensor | None, what: str) -> None:
    """Warn or raise, as the policy is, if any sample ``failed`` ``(N,)``."""
    if config.on_failure not in ("warn", "raise") or torch.compiler.is_compiling():
        return
    count = 0 if failed is None else int(failed.sum())
    if failed is None or not count:
        return
    if config.on_failure == "raise":
        raise EquilibriumError(f"{what} in {count} of {failed.numel()} samples")
    # The same words every time, so that Python says them once and not at every iteration.
    warnings.warn(
        f"{what} in some samples; the block's diagnostics tell which", RuntimeWarning, stacklevel=3
    )
