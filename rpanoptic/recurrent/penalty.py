"""The Lipschitz coefficient penalty of C-RBP: keeps the column sums of the state Jacobian small."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rpanoptic.recurrent.checks import check_choice, check_number

REDUCTIONS = ("sum", "mean", "per_sample")


@dataclass(frozen=True)
class LipschitzPenalty:
    """``weight * reduce_j max(r_j - tau, 0)^2`` with ``r = J^T 1``, the column sums of J.

    J is the Jacobian of the last step at the state before it (Linsley et al., NeurIPS 2020). The
    sums are signed, so they bound no norm of J; where gates carry the state and J is mostly not
    negative, holding them below 1 makes the step a contraction in practice.

    Args:
        tau: column sums above it are penalised; in (0, 1) to ask for a contraction.
        weight: factor of the penalty; 0 switches it off.
        reduction: "sum" over all features of all samples (the paper's mask head); "mean" over
            them (its Pathfinder model); "per_sample", the sum over a sample's features averaged
            over samples, which keeps the scale of "sum" whatever the number of samples.
        two_sided: penalise sums below ``-tau`` too: ``max(|r_j| - tau, 0)^2``.

    Raises:
        ValueError: a value is out of its range.
    """

    tau: float = 0.95
    weight: float = 0.001
    reduction: str = "sum"
    two_sided: bool = False

    def __post_init__(self) -> None:
        check_choice("penalty reduction", self.reduction, REDUCTIONS)
        check_number("penalty weight", self.weight, least=0.0)
        check_number("penalty tau", self.tau, least=0.0)
        if self.tau == 0:
            raise ValueError("penalty tau must be above 0, got 0")

    def __call__(self, column_sums: tuple[Tensor, ...]) -> Tensor:
        """Return the weighted penalty, a scalar that can be differentiated (double backward).

        Args:
            column_sums: ``J^T 1``, tensors of the state's shapes ``(N, ...)``, with their graph.
        """
        # Squares of half-precision numbers underflow: sum them in float32 at least.
        excess = sum(
            self._excess(r.to(torch.promote_types(r.dtype, torch.float32))).square().sum()
            for r in column_sums
        )
        assert isinstance(excess, Tensor)
        if self.reduction == "mean":
            excess = excess / max(sum(r.numel() for r in column_sums), 1)
        elif self.reduction == "per_sample":
            excess = excess / max(column_sums[0].shape[0], 1)
        return self.weight * excess

    def _excess(self, sums: Tensor) -> Tensor:
        # At most one of the two sides is not zero.
        excess = F.relu(sums - self.tau)
        return excess + F.relu(-sums - self.tau) if self.two_sided else excess
