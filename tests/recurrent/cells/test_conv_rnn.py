"""The ConvRNN against an independent statement of its equation, and its initialisation."""

from __future__ import annotations

import pytest
import torch

from rpanoptic.recurrent import build_cell
from tests.recurrent.cells import plain
from tests.recurrent.cells.plain import (
    assert_xavier_uniform,
    conv,
    layer_norm,
    parameters_off_their_start,
)

NONLINEARITIES = {
    "elu": lambda v: torch.where(v > 0, v, torch.exp(v.clamp(max=0)) - 1),
    "relu": lambda v: v.clamp(min=0),
    "tanh": lambda v: 1 - 2 / (torch.exp(2 * v) + 1),
}


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("norm", ["", "LN"])
@pytest.mark.parametrize(("kernel_size", "drive_channels"), [(3, None), (1, 2), (5, 6)])
def test_equals_its_equation(nonlinearity, norm, kernel_size, drive_channels) -> None:
    torch.manual_seed(0)
    cell = build_cell(
        "conv_rnn",
        4,
        drive_channels=drive_channels,
        kernel_size=kernel_size,
        nonlinearity=nonlinearity,
        norm=norm,
    ).double()
    p = parameters_off_their_start(cell)
    u = torch.randn(2, drive_channels or 4, 5, 6, dtype=torch.float64)
    state = h = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    for _ in range(3):
        h = conv(p, "feedforward", u) + conv(p, "recurrent", h)
        if norm:
            h = layer_norm(p, "norm", h)
        h = NONLINEARITIES[nonlinearity](h)
        state = cell(u, state)
        # Two formulas for the same float64 numbers differ by rounding alone.
        torch.testing.assert_close(state, h, rtol=1e-12, atol=1e-12)


def test_published_parameter_count() -> None:
    """The shallow network of Nayebi et al.: 6,272,872 with its cells, each after a convolution."""
    cells = [
        build_cell("conv_rnn", channels, drive_channels=drive_channels, norm="LN")
        for drive_channels, channels in ((256, 128), (256, 256), (512, 256))
    ]
    convolutions = [(3, 64, 7), (64, 128, 3), (128, 256, 3), (128, 256, 3), (256, 512, 3)]
    convolutions.append((256, 1000, 2))
    feedforward = sum(c_in * c_out * k * k + c_out for c_in, c_out, k in convolutions)
    count = sum(map(plain.count, cells))
    assert feedforward + count == 6_272_872


def test_starting_values() -> None:
    torch.manual_seed(0)
    cell = build_cell("conv_rnn", 64, drive_channels=32, norm="LN")
    assert not cell.feedforward.bias.any() and not cell.recurrent.bias.any()
    assert torch.equal(cell.norm.weight, torch.ones(64)) and not cell.norm.bias.any()
    assert_xavier_uniform(cell.feedforward.weight)
    assert_xavier_uniform(cell.recurrent.weight)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nonlinearity": "swish"}, ["nonlinearity", "elu", "swish"]),
        ({"norm": "batch"}, ["norm", "LN", "batch"]),
        ({"kernel_size": 2}, ["kernel_size", "odd", "2"]),
        ({"drive_channels": 0}, ["drive_channels", "at least 1", "0"]),
    ],
)
def test_impossible_options_are_named(options, words) -> None:
    with pytest.raises(ValueError) as caught:
        build_cell("conv_rnn", 8, **options)
    assert all(word in str(caught.value) for word in words)
