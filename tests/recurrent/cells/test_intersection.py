"""The IntersectionRNN against an independent statement of its equations."""

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


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_equals_its_equations(kernel_size) -> None:
    torch.manual_seed(0)
    cell = build_cell("intersection_rnn", 4, kernel_size=kernel_size).double()
    p = parameters_off_their_start(cell)
    u, h, y = torch.randn(3, 2, 4, 5, 6, dtype=torch.float64)
    state = h, y
    for _ in range(3):
        parts = conv(p, "gates_and_candidates", torch.cat([u, h], 1))
        g_h, c_h, g_y, c_y = parts.split(4, 1)
        h = sigma(g_h) * h + sigma(-g_h) * torch.tanh(c_h)
        y = sigma(g_y) * u + sigma(-g_y) * c_y.clamp(min=0)
        state = cell(u, state)
        # Two formulas for the same float64 numbers differ by rounding alone.
        torch.testing.assert_close(state[0], h, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(state[1], y, rtol=1e-12, atol=1e-12)
    assert cell.output(state) is state[1]


def test_published_parameter_count() -> None:
    """The shallow network of Nayebi et al.: 32,513,384, of which 4,197,736 are not its cells'."""
    cells = [build_cell("intersection_rnn", channels) for channels in (256, 256, 512)]
    count = sum(map(plain.count, cells))
    assert 4_197_736 + count == 32_513_384


@pytest.mark.parametrize(("options", "gate_bias"), [({}, 1.0), ({"gate_bias": -2.0}, -2.0)])
def test_starting_values(options, gate_bias) -> None:
    torch.manual_seed(0)
    cell = build_cell("intersection_rnn", 16, **options)
    gates = torch.tensor([gate_bias, 0.0, gate_bias, 0.0])
    layer = cell.gates_and_candidates
    assert torch.equal(layer.bias, gates.repeat_interleave(16))
    assert_xavier_uniform(layer.weight)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"drive_channels": 4}, ["drive_channels must equal channels (8)", "4"]),
        ({"kernel_size": 4}, ["kernel_size", "odd", "4"]),
    ],
)
def test_impossible_options_are_named(options, words) -> None:
    with pytest.raises(ValueError) as caught:
        build_cell("intersection_rnn", 8, **options)
    assert all(word in str(caught.value) for word in words)
