"""Stopping a training whose losses are not finite, before the weights are spoilt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rpanoptic.errors import NonFiniteError


def check_losses(
    losses: Mapping[str, Tensor], *, model: nn.Module, data: list[dict[str, Any]], iteration: int
) -> None:
    """Stop if a loss is infinite or not a number.

    To be called in every process, after the backward pass and before the optimizer's step: there
    reading the losses costs no more than writing them to the log does.

    Args:
        losses: scalars by name.
        model: the model that gave them, wrapped or not.
        data: its input.
        iteration: of the training.

    Raises:
        NonFiniteError: a loss is not finite.
    """
    bad = [name for name, loss in losses.items() if not bool(torch.isfinite(loss))]
    if bad:
        raise NonFiniteError(f"iteration {iteration}: not finite: {', '.join(bad)}.")
