"""The top-down cell: its equations, the sizes that it joins, its count and how it starts."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from rpanoptic.recurrent import RecurrentBlock, build_cell
from tests.recurrent.cells import plain
from tests.recurrent.cells.plain import conv, phi, sigma


def nearest(value: Tensor, height: int, width: int) -> Tensor:
    """Nearest-neighbour resizing by index: pixel i is taken from floor(i * from / to)."""
    rows = torch.arange(height) * value.shape[2] // height
    columns = torch.arange(width) * value.shape[3] // width
    return value[:, :, rows][:, :, :, columns]


@pytest.mark.parametrize("norm", plain.NORMS)
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize(("lower", "higher"), [(4, 9), (6, 6), (8, 3), (5, 1)])
@pytest.mark.parametrize("size", [(6, 8), (5, 9)])
def test_equals_its_equations(norm, kernel_size, lower, higher, size) -> None:
    torch.manual_seed(0)
    options = {"drive_channels": higher, "kernel_size": kernel_size, "norm": norm}
    cell = build_cell("top_down", lower, **options).double()
    p = plain.parameters_off_their_start(cell)
    q = torch.randn(3, higher, 3, 4, dtype=torch.float64)
    state = torch.randn(3, lower, *size, dtype=torch.float64)

    feedback = phi(conv(p, "remap_out", phi(conv(p, "remap_in", nearest(q, *size)))))
    g1 = sigma(conv(p, "inhibition_gate", feedback))
    c1 = plain.NORMS[norm](p, "inhibition_norm", conv(p, "inhibition", feedback * g1))
    z = phi(state - phi(c1 * (p["alpha"] * feedback + p["mu"])))
    g2 = sigma(conv(p, "update_gate", z))
    c2 = plain.NORMS[norm](p, "excitation_norm", conv(p, "excitation", z))
    candidate = phi(p["kappa"] * (z + c2) + p["omega"] * z * c2)
    expected = (1 - g2) * state + g2 * candidate

    torch.testing.assert_close(cell(q, state), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("lower", "higher", "between"), [(4, 9, 6), (8, 3, 5), (2, 1, 1)])
def test_feedback_passes_a_middle_number_of_channels(lower, higher, between) -> None:
    cell = build_cell("top_down", lower, drive_channels=higher)
    assert between == lower + (higher - lower) // 2
    assert cell.remap_in.weight.shape[:2] == (between, higher)
    assert cell.remap_out.weight.shape[:2] == (lower, between)


@pytest.mark.parametrize(
    ("lower", "higher", "kernel_size", "expected"),
    [(256, 512, 3, 1_608_832), (256, 512, 1, 560_256), (8, 3, 3, 1_428)],
)
def test_parameter_count(lower, higher, kernel_size, expected) -> None:
    between = (lower + higher) // 2
    remaps = higher * between + between + between * lower + lower
    gates = 2 * (lower * lower + lower)
    # Two kernels, two norms, and alpha, mu, kappa and omega.
    rest = 2 * lower * lower * kernel_size**2 + 2 * 2 * lower + 4 * lower
    assert remaps + gates + rest == expected
    cell = build_cell("top_down", lower, drive_channels=higher, kernel_size=kernel_size)
    assert plain.count(cell) == expected


@pytest.mark.parametrize("height", [5, 6, 7])
@pytest.mark.parametrize("width", [7, 8, 9])
def test_sizes_that_a_stride_of_two_halves(height: int, width: int) -> None:
    cell = build_cell("top_down", 4, drive_channels=6)
    state = torch.randn(2, 4, height, width)
    assert cell(torch.randn(2, 6, 3, 4), state).shape == state.shape


@pytest.mark.parametrize("size", [(4, 8), (8, 8), (6, 6), (6, 10), (3, 4)])
def test_other_sizes_are_refused_by_both_shapes(size) -> None:
    cell = build_cell("top_down", 4, drive_channels=6)
    drive, state = torch.randn(2, 6, 3, 4), torch.randn(2, 4, *size)
    words = f"{re.escape(str(tuple(state.shape)))}.*{re.escape(str(tuple(drive.shape)))}"
    with pytest.raises(ValueError, match=words):
        cell(drive, state)


def test_the_state_starts_at_twice_the_size_of_the_drive() -> None:
    cell = build_cell("top_down", 4, drive_channels=6)
    start = cell.initial_state(torch.randn(2, 6, 3, 5, dtype=torch.float64))
    assert torch.equal(start, torch.zeros(2, 4, 6, 10, dtype=torch.float64))
    block = RecurrentBlock(cell, steps=3)
    assert block(torch.randn(2, 6, 3, 5)).state.shape == (2, 4, 6, 10)


def test_kernels_start_orthogonal() -> None:
    torch.manual_seed(0)
    plain.assert_orthogonal_kernels(build_cell("top_down", 8, drive_channels=20))


def test_starting_values() -> None:
    cell = build_cell("top_down", 8, drive_channels=4)
    for name, value in {"alpha": 0.1, "mu": 1.0, "kappa": 0.5, "omega": 0.5}.items():
        assert torch.equal(getattr(cell, name), torch.full((8, 1, 1), value))
    for norm in (cell.inhibition_norm, cell.excitation_norm):
        assert torch.equal(norm.weight, torch.full((8,), 0.1)) and not norm.bias.any()
    assert not cell.remap_in.bias.any() and not cell.remap_out.bias.any()


@pytest.mark.parametrize("bias_init", ["chrono", "legacy"])
def test_gate_biases(bias_init: str) -> None:
    torch.manual_seed(0)
    options = {"kernel_size": 1, "bias_init": bias_init, "max_steps": 12}
    cell = build_cell("top_down", 512, drive_channels=4, **options)
    opening, update = cell.inhibition_gate.bias, cell.update_gate.bias
    assert torch.equal(update, -opening)
    plain.assert_uniform(opening.exp() if bias_init == "chrono" else opening, 1, 11)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "batch"}, ["norm", "GN", "batch"]),
        ({"kernel_size": 2}, ["kernel_size", "odd", "2"]),
        ({"bias_init": "log"}, ["bias_init", "chrono", "legacy", "log"]),
        ({"drive_channels": 0}, ["drive_channels", "0"]),
    ],
)
def test_impossible_options_are_named(options, words) -> None:
    with pytest.raises(ValueError) as caught:
        build_cell("top_down", 8, **options)
    assert all(word in str(caught.value) for word in words)
