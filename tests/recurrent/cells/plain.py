"""Plain statements that the tests of cells check against: no module, dictionaries of tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rpanoptic.recurrent import RecurrentCell
from rpanoptic.recurrent.state import to_tensors

Parameters = dict[str, Tensor]


def parameters_off_their_start(cell: nn.Module) -> Parameters:
    """Move every parameter a little, so that a forgotten one shows, and return them by name."""
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return dict(cell.state_dict())


def conv(p: Parameters, name: str, value: Tensor) -> Tensor:
    """A convolution that keeps the size; the larger half of an odd padding is right and below."""
    weight = p[f"{name}.weight"]
    before, after = (weight.shape[-1] - 1) // 2, weight.shape[-1] // 2
    value = F.pad(value, (before, after, before, after))
    # A kernel within the channels has a single channel of input.
    groups = value.shape[1] // weight.shape[1]
    return F.conv2d(value, weight, p.get(f"{name}.bias"), groups=groups)


def _grouped_norm(p: Parameters, name: str, value: Tensor, groups: int) -> Tensor:
    parts = value.reshape(value.shape[0], groups, -1)
    mean = parts.mean(-1, keepdim=True)
    variance = ((parts - mean) ** 2).mean(-1, keepdim=True)
    unit = ((parts - mean) / torch.sqrt(variance + 1e-5)).reshape(value.shape)
    return unit * p[f"{name}.weight"][:, None, None] + p[f"{name}.bias"][:, None, None]


def group_norm(p: Parameters, name: str, value: Tensor) -> Tensor:
    """GroupNorm with as many groups as divide both 32 and the channels."""
    return _grouped_norm(p, name, value, math.gcd(32, value.shape[1]))


def layer_norm(p: Parameters, name: str, value: Tensor) -> Tensor:
    """Normalisation by the statistics of a whole sample."""
    return _grouped_norm(p, name, value, 1)


def instance_norm(p: Parameters, name: str, value: Tensor) -> Tensor:
    """Normalisation of each channel by its own statistics."""
    return _grouped_norm(p, name, value, value.shape[1])


def batch_norm(p: Parameters, name: str, value: Tensor) -> Tensor:
    """Normalisation by the statistics of the batch."""
    mean = value.mean((0, 2, 3), keepdim=True)
    variance = ((value - mean) ** 2).mean((0, 2, 3), keepdim=True)
    unit = (value - mean) / torch.sqrt(variance + 1e-3)
    return unit * p[f"{name}.weight"][:, None, None] + p[f"{name}.bias"][:, None, None]


NORMS = {"GN": group_norm, "BN": batch_norm, "": lambda p, name, value: value}


def gala(p: Parameters, name: str, value: Tensor, nl) -> Tensor:
    """The logit of a gate by global and local attention."""
    a = conv(p, f"{name}.channel_expand", nl(conv(p, f"{name}.channel_squeeze", value)))
    s = conv(p, f"{name}.spatial_map", nl(conv(p, f"{name}.spatial_squeeze", value)))
    return a * s + p[f"{name}.bias"][:, None, None]


def sigma(value: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-value))


def phi(value: Tensor) -> Tensor:
    return torch.log1p(torch.exp(value))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def effect_of_batch_mates(cell: RecurrentCell) -> float:
    """How far a step of a sample depends on the sample beside it, relative, in evaluation mode."""
    cell.double().eval()
    drive = torch.randn(2, cell.drive_channels, 5, 5, dtype=torch.float64)
    state = torch.randn_like(to_tensors(cell.initial_state(drive))[0])
    with torch.no_grad():
        alone = cell.output(cell(drive[:1], state[:1]))
        together = cell.output(cell(drive, state))[:1]
    return float((together - alone).norm() / alone.norm())


def assert_orthogonal_kernels(cell: nn.Module) -> None:
    """Rows of flattened kernels, or columns where these are fewer, are orthonormal."""
    kernels = [(n, p.detach()) for n, p in cell.named_parameters() if p.dim() == 4]
    assert kernels
    for name, kernel in kernels:
        matrix = kernel.flatten(1)
        if matrix.shape[0] > matrix.shape[1]:
            matrix = matrix.T
        unit = torch.eye(matrix.shape[0])
        torch.testing.assert_close(matrix @ matrix.T, unit, rtol=0, atol=1e-5, msg=name)


def assert_xavier_uniform(weight: Tensor) -> None:
    """Uniform within sqrt(6 / (fan-in + fan-out)); for kernels of many numbers."""
    bound = math.sqrt(6 / (weight[:, 0].numel() + weight[0].numel()))
    assert_uniform(weight, -bound, bound)


def assert_uniform(draws: Tensor, low: float, high: float) -> None:
    """Draws look like U(low, high): in range, and every quantile where it belongs."""
    ranks = (draws.detach().double().flatten().sort().values - low) / (high - low)
    # Rounding of exp(log(u)) in float32 may leave the interval by a hair.
    assert ranks[0] > -1e-5 and ranks[-1] < 1 + 1e-5
    expected = (torch.arange(len(ranks)) + 0.5) / len(ranks)
    # Kolmogorov: a true sample exceeds 2 / sqrt(n) with a chance of 0.07 %.
    assert float((ranks - expected).abs().max()) < 2 / math.sqrt(len(ranks))
