"""Parts that several cells share: nonlinearities, normalisation, initialisation of gate biases."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rpanoptic.recurrent.checks import check_choice

NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
}
NORMS = ("GN", "")
BIAS_INITS = ("chrono", "legacy")
MAX_GROUPS = 32


def conv(
    in_channels: int, out_channels: int, kernel_size: int = 1, *, bias: bool = False
) -> nn.Conv2d:
    """A convolution of stride 1 with "same" padding, kaiming-normal weights and zero bias."""
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
    nn.init.kaiming_normal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def check_kernel_size(kernel_size: int) -> None:
    """Raise a ValueError unless ``kernel_size`` is odd: "same" padding needs a middle pixel."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")


def cell_norm(name: str, channels: int, *, weight: float) -> nn.Module:
    """Normalisation inside a cell: "GN" (at most 32 groups) or "" for none.

    GroupNorm keeps the samples apart. Batch statistics would couple them through the recurrence,
    and then no sample would have an equilibrium of its own.

    Args:
        weight: what the scale starts at.
    """
    check_choice("norm", name, NORMS)
    if not name:
        return nn.Identity()
    norm = nn.GroupNorm(math.gcd(MAX_GROUPS, channels), channels)
    nn.init.constant_(norm.weight, weight)
    return norm


@torch.no_grad()
def init_gate_biases_(opening: Tensor, update: Tensor, max_steps: int, bias_init: str) -> None:
    """Set the biases of an opening gate and of its opposite update gate, in place.

    "chrono" spreads the time constants of the state over the steps that it is run for: with
    ``opening = log u``, ``u ~ U(1, T - 1)``, and ``update = -opening``, an undriven update gate is
    open by ``1 / (1 + u)`` (Tallec & Ollivier 2018). "legacy" leaves the logarithm out, as the
    released C-RBP code does by mistake: its gates are slower by orders of magnitude.

    Args:
        opening, update: biases of equal shape.
        max_steps: T, the steps that the cell will be trained with. Up to T = 2 the interval is
            empty and u is 1.
        bias_init: "chrono" or "legacy".
    """
    check_choice("bias_init", bias_init, BIAS_INITS)
    opening.uniform_(1.0, max(float(max_steps - 1), 1.0))
    if bias_init == "chrono":
        opening.log_()
    update.copy_(-opening)
