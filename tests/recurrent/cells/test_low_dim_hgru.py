"""The hGRU of a low-dimensional state: its equations, its size and how it starts."""

from __future__ import annotations

import pytest
import torch

from rpanoptic.recurrent import build_cell
from tests.recurrent.cells import plain
from tests.recurrent.cells.plain import conv, phi, sigma


@pytest.mark.parametrize("gala", [True, False])
@pytest.mark.parametrize("norm", plain.NORMS)
@pytest.mark.parametrize(("state_channels", "drive_channels"), [(3, 8), (6, 6), (9, 4)])
def test_equals_its_equations(gala, norm, state_channels, drive_channels) -> None:
    torch.manual_seed(0)
    options = {"drive_channels": drive_channels, "gala": gala, "norm": norm}
    cell = build_cell("hgru_low_dim", state_channels, **options).double()
    p = plain.parameters_off_their_start(cell)
    x = torch.randn(3, drive_channels, 5, 7, dtype=torch.float64)
    h = torch.randn(3, state_channels, 5, 7, dtype=torch.float64)

    f = conv(p, "fan_out", h)
    gate = "inhibition_gate"
    g1 = sigma(plain.gala(p, gate, f, phi) if gala else conv(p, gate, f))
    c0 = plain.NORMS[norm](p, "inhibition_norm", conv(p, "inhibition", f * g1))
    z = phi(x - phi(c0 * (p["alpha"] * f + p["mu"])))
    g2 = sigma(conv(p, "update_gate", torch.cat([z, h], 1)))
    candidate = phi(plain.NORMS[norm](p, "excitation_norm", conv(p, "excitation", z)))
    expected = (1 - g2) * h + g2 * candidate

    torch.testing.assert_close(cell(x, h), expected, rtol=1e-12, atol=1e-12)


def parameter_count(state: int, drive: int, kernel_size: int, gala: bool) -> int:
    area = kernel_size**2
    quarter = drive // 4
    channel_branch = drive * quarter + quarter + quarter * drive
    spatial_branch = drive * quarter * area + quarter + quarter * area
    gate = channel_branch + spatial_branch + drive if gala else drive * drive + drive
    kernels = area * (state * drive + drive * drive + drive * state)
    update_gate = (drive + state) * state + state
    # The fan-out's bias, alpha and mu, and two norms.
    return kernels + gate + update_gate + drive + 2 * drive + 2 * drive + 2 * state


@pytest.mark.parametrize("gala", [True, False])
@pytest.mark.parametrize(("state", "drive", "kernel_size"), [(8, 16, 3), (16, 8, 5), (3, 5, 1)])
def test_parameter_count(gala, state, drive, kernel_size) -> None:
    options = {"drive_channels": drive, "kernel_size": kernel_size, "gala": gala}
    cell = build_cell("hgru_low_dim", state, **options)
    assert plain.count(cell) == parameter_count(state, drive, kernel_size, gala)


@pytest.mark.parametrize(("gala", "expected"), [(True, 17_376_768), (False, 15_538_944)])
def test_documented_parameter_count(gala: bool, expected: int) -> None:
    assert parameter_count(256, 1024, 3, gala) == expected


@pytest.mark.parametrize("gala", [True, False])
def test_kernels_start_orthogonal(gala: bool) -> None:
    torch.manual_seed(0)
    plain.assert_orthogonal_kernels(build_cell("hgru_low_dim", 8, drive_channels=16, gala=gala))


def test_starting_values() -> None:
    cell = build_cell("hgru_low_dim", 8, drive_channels=16)
    assert torch.equal(cell.alpha, torch.full((16, 1, 1), 0.1))
    assert torch.equal(cell.mu, torch.zeros(16, 1, 1))
    assert not cell.fan_out.bias.any()
    assert torch.equal(cell.inhibition_norm.weight, torch.full((16,), 0.1))
    assert torch.equal(cell.excitation_norm.weight, torch.full((8,), 0.1))


@pytest.mark.parametrize("gala", [True, False])
@pytest.mark.parametrize("bias_init", ["chrono", "legacy"])
def test_gate_biases(gala: bool, bias_init: str) -> None:
    torch.manual_seed(0)
    options = {"drive_channels": 400, "kernel_size": 1, "gala": gala, "bias_init": bias_init}
    cell = build_cell("hgru_low_dim", 300, max_steps=20, **options)
    opening, update = cell.inhibition_gate.bias, cell.update_gate.bias
    plain.assert_uniform(opening.exp() if bias_init == "chrono" else opening, 1, 19)
    plain.assert_uniform((-update).exp(), 1, 19)
    # Two draws, not one: the gates have different numbers of channels.
    assert not torch.allclose(opening[:300], -update)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "batch"}, ["norm", "GN", "batch"]),
        ({"kernel_size": 2}, ["kernel_size", "odd", "2"]),
        ({"bias_init": "log"}, ["bias_init", "chrono", "legacy", "log"]),
        ({"drive_channels": 0}, ["drive_channels", "0"]),
        ({"drive_channels": 3}, ["GALA", "at least 4 channels", "3"]),
    ],
)
def test_impossible_options_are_named(options, words) -> None:
    with pytest.raises(ValueError) as caught:
        build_cell("hgru_low_dim", 8, **options)
    assert all(word in str(caught.value) for word in words)
