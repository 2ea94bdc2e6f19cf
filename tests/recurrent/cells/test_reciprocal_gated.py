"""The Reciprocal Gated Cell against an independent statement of its equations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rpanoptic.recurrent import build_cell
from tests.recurrent.cells import plain
from tests.recurrent.cells.plain import (
    Parameters,
    assert_xavier_uniform,
    conv,
    parameters_off_their_start,
    sigma,
)

NONLINEARITIES = {
    "elu": lambda v: torch.where(v > 0, v, torch.exp(v.clamp(max=0)) - 1),
    "tanh": lambda v: 1 - 2 / (torch.exp(2 * v) + 1),
}


def open_gate(p: Parameters, name: str, value: Tensor) -> Tensor:
    """1 - sigmoid(W # value + b)."""
    return sigma(-conv(p, name, value))


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_equals_its_equations(nonlinearity, kernel_size) -> None:
    torch.manual_seed(0)
    options = {"kernel_size": kernel_size, "nonlinearity": nonlinearity}
    cell = build_cell("reciprocal_gated", 4, **options).double()
    p, nl = parameters_off_their_start(cell), NONLINEARITIES[nonlinearity]
    u, h, c = torch.randn(3, 2, 4, 5, 6, dtype=torch.float64)
    state = h, c
    for _ in range(3):
        h, c = (
            nl(open_gate(p, "hidden_gate", c) * u + open_gate(p, "hidden_tau", h) * h),
            nl(open_gate(p, "memory_gate", h) * u + open_gate(p, "memory_tau", c) * c),
        )
        state = cell(u, state)
        # Two formulas for the same float64 numbers differ by rounding alone.
        torch.testing.assert_close(state[0], h, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(state[1], c, rtol=1e-12, atol=1e-12)
    assert cell.output(state) is state[0]


def test_the_first_step_lets_the_drive_pass() -> None:
    cell = build_cell("reciprocal_gated", 8)
    drive = torch.randn(1, 8, 4, 4)
    for tensor in cell(drive, cell.initial_state(drive)):
        torch.testing.assert_close(tensor, F.elu(drive / 2))


def test_parameter_count() -> None:
    cell = build_cell("reciprocal_gated", 6, kernel_size=5)
    assert plain.count(cell) == 4 * 25 * 6 * 6 + 4 * 6


def test_starting_values() -> None:
    torch.manual_seed(0)
    cell = build_cell("reciprocal_gated", 48)
    for layer in (cell.hidden_tau, cell.hidden_gate, cell.memory_tau, cell.memory_gate):
        assert not layer.bias.any()
        assert_xavier_uniform(layer.weight)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"drive_channels": 4}, ["drive_channels must equal channels (8)", "4"]),
        ({"nonlinearity": "swish"}, ["nonlinearity", "elu", "swish"]),
        ({"kernel_size": 4}, ["kernel_size", "odd", "4"]),
    ],
)
def test_impossible_options_are_named(options, words) -> None:
    with pytest.raises(ValueError) as caught:
        build_cell("reciprocal_gated", 8, **options)
    assert all(word in str(caught.value) for word in words)
