"""The UGRNN against an independent statement of its equations, and its initialisation."""

from __future__ import annotations

import pytest
import torch

from rpanoptic.recurrent import build_cell
from tests.recurrent.cells import plain
from tests.recurrent.cells.plain import (
    assert_xavier_uniform,
    conv,
    parameters_off_their_start,
    sigma,
)


@pytest.mark.parametrize(("kernel_size", "drive_channels"), [(3, None), (1, 2), (5, 6)])
def test_equals_its_equations(kernel_size, drive_channels) -> None:
    torch.manual_seed(0)
    options = {"drive_channels": drive_channels, "kernel_size": kernel_size}
    cell = build_cell("ugrnn", 4, **options).double()
    p = parameters_off_their_start(cell)
    u = torch.randn(2, cell.drive_channels, 5, 6, dtype=torch.float64)
    state = h = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    for _ in range(3):
        g, c = conv(p, "gate_and_candidate", torch.cat([u, h], 1)).split(4, 1)
        h = sigma(g) * h + sigma(-g) * torch.tanh(c)
        state = cell(u, state)
        # Two formulas for the same float64 numbers differ by rounding alone.
        torch.testing.assert_close(state, h, rtol=1e-12, atol=1e-12)


def test_published_parameter_count() -> None:
    """The shallow network of Nayebi et al.: 18,355,560, of which 4,197,736 are not its cells'."""
    cells = [build_cell("ugrnn", channels) for channels in (256, 256, 512)]
    count = sum(map(plain.count, cells))
    assert 4_197_736 + count == 18_355_560


@pytest.mark.parametrize(("options", "gate_bias"), [({}, 1.0), ({"gate_bias": -2.0}, -2.0)])
def test_starting_values(options, gate_bias) -> None:
    torch.manual_seed(0)
    cell = build_cell("ugrnn", 32, **options)
    bias = cell.gate_and_candidate.bias
    assert torch.equal(bias[:32], torch.full((32,), gate_bias)) and not bias[32:].any()
    assert_xavier_uniform(cell.gate_and_candidate.weight)


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd and positive, got 4"):
        build_cell("ugrnn", 8, kernel_size=4)
