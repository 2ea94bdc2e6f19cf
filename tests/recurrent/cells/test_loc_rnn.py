"""The LocRNN against an independent statement of its equations, and its initialisation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rpanoptic.recurrent import build_cell
from rpanoptic.recurrent.convolution import Convolution
from tests.recurrent.cells import plain
from tests.recurrent.cells.plain import (
    Parameters,
    assert_uniform,
    conv,
    layer_norm,
    parameters_off_their_start,
    sigma,
)

NONLINEARITIES = {
    "relu": lambda v: v.clamp(min=0),
    "softplus": lambda v: torch.log1p(torch.exp(v)),
}


def restated_step(
    p: Parameters, x: Tensor, e: Tensor, i: Tensor, nl, *, gates: bool, norm: bool
) -> tuple[Tensor, Tensor]:
    """One step written from the paper's equations, on a plain dictionary of parameters."""
    normalised = layer_norm if norm else plain.NORMS[""]

    def population(own: Tensor, name: str) -> Tensor:
        candidate = nl(conv(p, f"{name}_drive", x) + conv(p, name, torch.cat([e, i], 1)))
        if not gates:
            return candidate
        mix = f"{name}_mix"
        from_drive = normalised(p, f"{mix}.gate_drive_norm", conv(p, f"{mix}.gate_drive", x))
        from_state = normalised(p, f"{mix}.gate_state_norm", conv(p, f"{mix}.gate_state", own))
        gate = sigma(from_drive + from_state)
        return nl(normalised(p, f"{mix}.norm", gate * candidate + (1 - gate) * own))

    return population(e, "excitation"), population(i, "inhibition")


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize(("gates", "norm"), [(True, "LN"), (True, ""), (False, "LN")])
@pytest.mark.parametrize(
    "sizes",
    [{}, {"kernel_size": 3, "inhibition_kernel_size": 1, "drive_channels": 6}],
)
def test_equals_its_equations(nonlinearity, gates, norm, sizes) -> None:
    torch.manual_seed(0)
    options = {"gates": gates, "norm": norm, "nonlinearity": nonlinearity, **sizes}
    cell = build_cell("loc_rnn", 4, **options).double()
    p, nl = parameters_off_their_start(cell), NONLINEARITIES[nonlinearity]
    x = torch.randn(2, cell.drive_channels, 5, 6, dtype=torch.float64)
    e, i = torch.randn(2, 2, 4, 5, 6, dtype=torch.float64)
    state = e, i
    for _ in range(3):
        state = cell(x, state)
        e, i = restated_step(p, x, e, i, nl, gates=gates, norm=bool(norm))
        # Two formulas for the same float64 numbers differ by rounding alone.
        torch.testing.assert_close(state[0], e, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(state[1], i, rtol=1e-12, atol=1e-12)
    assert cell.output(state) is state[0]


def test_published_parameter_count() -> None:
    """The network of Veerabadran et al.: 160,653 trained parameters with 32 channels."""
    count = plain.count(build_cell("loc_rnn", 32))
    assert count == 158_336
    batch_norm, readout, classifier = 2 * 32, 2 * 32 + 2, 2 * 2 + 2
    halting = (2 * 32 + 2) + (2 + 1)
    # Two 1 x 1 convolutions for states to start from, which the network does not use.
    unused = 2 * (32 * 32 + 32)
    assert count + batch_norm + readout + classifier + halting + unused == 160_653


def test_without_gates_there_are_no_norms_either() -> None:
    cell = build_cell("loc_rnn", 4, gates=False)
    lateral = 8 * 4 * (7 * 7 + 5 * 5) + 2 * 4
    assert plain.count(cell) == lateral + 2 * (4 * 4 + 4)


def test_starting_values() -> None:
    torch.manual_seed(0)
    cell = build_cell("loc_rnn", 32)
    layers = [module for module in cell.modules() if isinstance(module, Convolution)]
    assert len(layers) == 8
    for layer in layers:
        bound = 1 / math.sqrt(layer.weight[0].numel())
        assert_uniform(layer.weight, -bound, bound)
        assert_uniform(layer.bias, -bound, bound)
    for mix in (cell.excitation_mix, cell.inhibition_mix):
        for norm in (mix.gate_drive_norm, mix.gate_state_norm, mix.norm):
            assert torch.equal(norm.weight, torch.ones(32)) and not norm.bias.any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nonlinearity": "swish"}, ["nonlinearity", "relu", "swish"]),
        ({"norm": "batch"}, ["norm", "LN", "batch"]),
        ({"kernel_size": 4}, ["kernel_size", "odd", "4"]),
        ({"inhibition_kernel_size": 6}, ["kernel_size", "odd", "6"]),
    ],
)
def test_impossible_options_are_named(options, words) -> None:
    with pytest.raises(ValueError) as caught:
        build_cell("loc_rnn", 8, **options)
    assert all(word in str(caught.value) for word in words)
