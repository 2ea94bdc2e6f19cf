"""The ConvGRU against an independent statement of its equations, and its initialisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rpanoptic.recurrent import build_cell
from tests.recurrent.cells import plain
from tests.recurrent.cells.plain import (
    Parameters,
    assert_orthogonal_kernels,
    assert_xavier_uniform,
    conv,
    instance_norm,
    parameters_off_their_start,
    sigma,
)

# The ConvGRU of Veerabadran et al. (NeurIPS 2023).
VEERABADRAN = {"kernel_size": 7, "nonlinearity": "relu", "norm": "IN", "gate_bias": 0.0}


def joint_step(p: Parameters, u: Tensor, h: Tensor) -> Tensor:
    """One step without norms, with the candidate by one kernel over [u; r . h], as published."""
    r, z = sigma(conv(p, "gates", torch.cat([u, h], 1))).split(h.shape[1], 1)
    kernel = torch.cat([p["candidate_drive.weight"], p["candidate_state.weight"]], 1)
    joint = {"c.weight": kernel, "c.bias": p["candidate_drive.bias"]}
    return z * h + (1 - z) * torch.tanh(conv(joint, "c", torch.cat([u, r * h], 1)))


def instance_norm_step(p: Parameters, x: Tensor, h: Tensor) -> Tensor:
    """One step in the form of Veerabadran et al., whose update gate is 1 - z."""
    reset, update = conv(p, "gates", torch.cat([x, h], 1)).split(h.shape[1], 1)
    reset = sigma(instance_norm(p, "reset_norm", reset))
    update = sigma(-instance_norm(p, "update_norm", update))
    drive = instance_norm(p, "candidate_drive_norm", conv(p, "candidate_drive", x))
    state = instance_norm(p, "candidate_state_norm", conv(p, "candidate_state", reset * h))
    return (1 - update) * h + update * (drive + state).clamp(min=0)


@pytest.mark.parametrize(
    ("restated_step", "options"),
    [
        (joint_step, {}),
        (joint_step, {"kernel_size": 5, "drive_channels": 3}),
        (instance_norm_step, VEERABADRAN),
        (instance_norm_step, {**VEERABADRAN, "kernel_size": 3, "drive_channels": 6}),
    ],
)
def test_equals_its_equations(restated_step, options) -> None:
    torch.manual_seed(0)
    cell = build_cell("conv_gru", 4, **options).double()
    p = parameters_off_their_start(cell)
    u = torch.randn(2, cell.drive_channels, 5, 6, dtype=torch.float64)
    state = h = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    for _ in range(3):
        state, h = cell(u, state), restated_step(p, u, h)
        # Two formulas for the same float64 numbers differ by rounding alone.
        torch.testing.assert_close(state, h, rtol=1e-12, atol=1e-12)


def test_published_parameter_count() -> None:
    """The shallow network of Nayebi et al.: 25,434,472, of which 4,197,736 are not its cells'."""
    cells = [build_cell("conv_gru", channels) for channels in (256, 256, 512)]
    count = sum(map(plain.count, cells))
    assert 4_197_736 + count == 25_434_472


def test_published_parameter_count_with_norms() -> None:
    """The network of Veerabadran et al., 164,024, with 32 filters before 21 channels."""
    cell = build_cell("conv_gru", 21, drive_channels=32, **VEERABADRAN)
    count = plain.count(cell)
    batch_norm, readout, classifier = 2 * 32, 2 * 21 + 2, 2 * 2 + 2
    halting = (2 * 21 + 2) + (2 + 1)
    assert count + batch_norm + readout + classifier + halting == 164_024


def test_starting_values() -> None:
    torch.manual_seed(0)
    cell = build_cell("conv_gru", 32)
    assert torch.equal(cell.gates.bias, torch.ones(64))
    assert not cell.candidate_drive.bias.any() and cell.candidate_state.bias is None
    for layer in (cell.gates, cell.candidate_drive, cell.candidate_state):
        assert_xavier_uniform(layer.weight)


def test_the_reset_gate_may_start_elsewhere() -> None:
    cell = build_cell("conv_gru", 4, reset_bias=2.0)
    assert cell.gates.bias.tolist() == [2.0] * 4 + [1.0] * 4
    cell = build_cell("conv_gru", 4, norm="LN", reset_bias=2.0)
    assert (
        cell.reset_norm.bias.tolist() == [2.0] * 4 and cell.update_norm.bias.tolist() == [1.0] * 4
    )


def test_with_a_norm_the_gates_open_by_its_shift() -> None:
    cell = build_cell("conv_gru", 4, norm="LN", gate_bias=-2.0)
    assert not cell.gates.bias.any()
    for norm in (cell.reset_norm, cell.update_norm):
        assert torch.equal(norm.bias, torch.full((4,), -2.0))
    assert not cell.candidate_drive_norm.bias.any() and not cell.candidate_state_norm.bias.any()


def test_orthogonal_kernels() -> None:
    torch.manual_seed(0)
    assert_orthogonal_kernels(build_cell("conv_gru", 4, init="orthogonal"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nonlinearity": "swish"}, ["nonlinearity", "tanh", "swish"]),
        ({"norm": "batch"}, ["norm", "IN", "batch"]),
        ({"kernel_size": 4}, ["kernel_size", "odd", "4"]),
        ({"init": "zeros"}, ["init", "orthogonal", "zeros"]),
    ],
)
def test_impossible_options_are_named(options, words) -> None:
    with pytest.raises(ValueError) as caught:
        build_cell("conv_gru", 8, **options)
    assert all(word in str(caught.value) for word in words)
