"""Parts that several cells share: nonlinearities, normalisation, initialisation of gate biases."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rpanoptic.recurrent.checks import check_choice
from rpanoptic.recurrent.convolution import Convolution

NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
}
NORMS = ("GN", "LN", "IN", "BN", "")
BIAS_INITS = ("chrono", "legacy")
MAX_GROUPS = 32

# Standard deviation of a standard normal distribution that is cut off at 2.
_TRUNCATED_STD = 0.87962566


def variance_scaling_(weight: Tensor, fan_in: int, scale: float = 1.0) -> None:
    """Fill with a normal distribution of variance ``scale / fan_in``, cut off at two deviations."""
    std = (scale / fan_in) ** 0.5 / _TRUNCATED_STD
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


_WEIGHT_INITS: dict[str, Callable[[Tensor], object]] = {
    "kaiming": nn.init.kaiming_normal_,
    "xavier": nn.init.xavier_uniform_,
    "orthogonal": nn.init.orthogonal_,
    "variance_scaling": lambda weight: variance_scaling_(weight, weight[0].numel()),
}


def conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    *,
    bias: bool = False,
    init: str = "kaiming",
    even: bool = False,
) -> Convolution:
    """A convolution of stride 1 with "same" padding and zero bias.

    Args:
        init: of the weights, "kaiming" (normal, fan-in), "xavier" (uniform), "orthogonal" or
            "variance_scaling" (truncated normal, variance 1 / fan-in).
        even: whether the kernel may be even, see :class:`Convolution`.
    """
    layer = Convolution(in_channels, out_channels, kernel_size, bias=bias, even=even)
    check_choice("init", init, tuple(_WEIGHT_INITS))
    _WEIGHT_INITS[init](layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def check_equal_channels(channels: int, drive_channels: int) -> None:
    """Raise a ValueError unless drive and state, which the cell adds, have as many channels."""
    if drive_channels != channels:
        raise ValueError(
            f"drive_channels must equal channels ({channels}) in this cell, got {drive_channels}"
        )


def cell_norm(name: str, channels: int, *, weight: float, bias: float = 0.0) -> nn.Module:
    """Normalisation inside a cell.

    All but "BN" keep the samples apart. Batch statistics couple them through the recurrence, so
    that no sample has an equilibrium of its own and a result depends on its batch mates; "BN" is
    there for the papers' forms that were trained with it. It uses the statistics of the batch in
    evaluation too and keeps no running ones, since a cell updates no buffer.

    Args:
        name: "GN" (GroupNorm, at most 32 groups), "LN" (one group), "IN" (a group a channel),
            "BN" (batch statistics, see above) or "" for none.
        channels: channels to normalise.
        weight: what the scale starts at.
        bias: what the shift starts at.
    """
    check_choice("norm", name, NORMS)
    if not name:
        return nn.Identity()
    norm: nn.GroupNorm | nn.BatchNorm2d
    if name == "BN":
        norm = nn.BatchNorm2d(channels, eps=1e-3, track_running_stats=False)
    else:
        groups = {"GN": math.gcd(MAX_GROUPS, channels), "LN": 1, "IN": channels}[name]
        norm = nn.GroupNorm(groups, channels)
    nn.init.constant_(norm.weight, weight)
    nn.init.constant_(norm.bias, bias)
    return norm


def channel_parameter(channels: int, value: float) -> nn.Parameter:
    """A parameter of shape (C, 1, 1), one number a channel, all equal to ``value`` at first."""
    return nn.Parameter(torch.full((channels, 1, 1), value))


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
