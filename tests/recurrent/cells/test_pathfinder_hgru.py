"""The hGRU of contour tracing: its equations, its published size and how it starts."""

from __future__ import annotations

import pytest
import torch

from rpanoptic.recurrent import build_cell
from tests.recurrent.cells import plain
from tests.recurrent.cells.plain import conv, phi, sigma


@pytest.mark.parametrize("norm", plain.NORMS)
@pytest.mark.parametrize("kernel_size", [1, 5])
def test_equals_its_equations(norm, kernel_size) -> None:
    torch.manual_seed(0)
    cell = build_cell("hgru_pathfinder", 6, kernel_size=kernel_size, norm=norm).double()
    p = plain.parameters_off_their_start(cell)
    x, h = torch.randn(2, 3, 6, 5, 7, dtype=torch.float64)

    g1 = sigma(conv(p, "inhibition_gate", h))
    c1 = plain.NORMS[norm](p, "inhibition_norm", conv(p, "inhibition", h * g1))
    z = phi(x - phi(c1 * (p["alpha"] * h + p["mu"])))
    g2 = sigma(conv(p, "update_gate", z))
    c2 = plain.NORMS[norm](p, "excitation_norm", conv(p, "excitation", z))
    candidate = phi(p["kappa"] * z + p["gamma"] * c2 + p["omega"] * z * c2)
    expected = phi((1 - g2) * h + g2 * candidate)

    torch.testing.assert_close(cell(x, h), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kernel_size", "published"), [(3, 14_227), (5, 34_227), (9, 104_227), (15, 284_227)]
)
def test_published_parameter_count(kernel_size: int, published: int) -> None:
    """The published counts are of the whole model of 25 channels."""
    first_convolution = 25 * 7 * 7 + 25
    readout = 2 * 25 + 2
    # One batch norm before the readout; the released cell makes four and uses two of them, which
    # are in our count. Each has a scale and a shift.
    output_norm, unused_norms = 2 * 25, 2 * (2 * 25)
    outside = first_convolution + readout + output_norm + unused_norms
    options = {} if kernel_size == 15 else {"kernel_size": kernel_size}
    for norm in ("GN", "BN"):
        cell = build_cell("hgru_pathfinder", 25, norm=norm, **options)
        assert plain.count(cell) + outside == published


def test_kernels_start_orthogonal() -> None:
    torch.manual_seed(0)
    plain.assert_orthogonal_kernels(build_cell("hgru_pathfinder", 10, kernel_size=5))


def test_starting_values() -> None:
    cell = build_cell("hgru_pathfinder", 8, kernel_size=3)
    starts = {"alpha": 0.1, "mu": 1.0, "gamma": 1.0, "kappa": 0.5, "omega": 0.5}
    for name, value in starts.items():
        assert torch.equal(getattr(cell, name), torch.full((8, 1, 1), value))
    for norm in (cell.inhibition_norm, cell.excitation_norm):
        assert torch.equal(norm.weight, torch.full((8,), 0.1)) and not norm.bias.any()


@pytest.mark.parametrize(("bias_init", "max_steps"), [("chrono", 20), ("legacy", 8)])
def test_gate_biases(bias_init: str, max_steps: int) -> None:
    torch.manual_seed(0)
    options = {"kernel_size": 1, "bias_init": bias_init, "max_steps": max_steps}
    cell = build_cell("hgru_pathfinder", 512, **options)
    opening, update = cell.inhibition_gate.bias, cell.update_gate.bias
    assert torch.equal(update, -opening)
    draws = opening.exp() if bias_init == "chrono" else opening
    plain.assert_uniform(draws, 1, max_steps - 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "batch"}, ["norm", "GN", "batch"]),
        ({"kernel_size": 14}, ["kernel_size", "odd", "14"]),
        ({"bias_init": "log"}, ["bias_init", "chrono", "legacy", "log"]),
        ({"channels": 0}, ["channels", "0"]),
    ],
)
def test_impossible_options_are_named(options, words) -> None:
    with pytest.raises(ValueError) as caught:
        build_cell("hgru_pathfinder", **{"channels": 4, **options})
    assert all(word in str(caught.value) for word in words)
