"""The ConvLSTM against an independent statement of its equations, and its initialisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rpanoptic.recurrent import build_cell
from tests.recurrent.cells import plain
from tests.recurrent.cells.plain import (
    Parameters,
    assert_xavier_uniform,
    conv,
    layer_norm,
    parameters_off_their_start,
    sigma,
)


def restated_step(
    p: Parameters, u: Tensor, h: Tensor, c: Tensor, *, norm: bool
) -> tuple[Tensor, Tensor]:
    """One step with a kernel for the drive, which has the bias, and one for the state."""
    normalised = layer_norm if norm else plain.NORMS[""]
    drive_kernel, state_kernel = p["gates.weight"].split([u.shape[1], h.shape[1]], 1)
    kernels = {"u.weight": drive_kernel, "u.bias": p["gates.bias"], "h.weight": state_kernel}
    i, j, f, o = (conv(kernels, "u", u) + conv(kernels, "h", h)).split(h.shape[1], 1)
    old = [p.get(f"{gate}_peephole", torch.zeros(())) * c for gate in ("input", "forget", "output")]
    i = sigma(normalised(p, "input_norm", i) + old[0])
    f = sigma(normalised(p, "forget_norm", f) + old[1])
    j = torch.tanh(normalised(p, "candidate_norm", j))
    o = sigma(normalised(p, "output_norm", o) + old[2])
    c = normalised(p, "memory_norm", f * c + i * j)
    return o * torch.tanh(c), c


@pytest.mark.parametrize("peephole_size", [None, (5, 6)])
@pytest.mark.parametrize("norm", ["", "LN"])
@pytest.mark.parametrize(("kernel_size", "drive_channels"), [(3, None), (1, 2), (2, 3), (4, 6)])
def test_equals_its_equations(norm, kernel_size, drive_channels, peephole_size) -> None:
    torch.manual_seed(0)
    options = {
        "drive_channels": drive_channels,
        "kernel_size": kernel_size,
        "norm": norm,
        "peephole_size": peephole_size,
    }
    cell = build_cell("conv_lstm", 4, **options).double()
    p = parameters_off_their_start(cell)
    u = torch.randn(2, cell.drive_channels, 5, 6, dtype=torch.float64)
    h, c = torch.randn(2, 2, 4, 5, 6, dtype=torch.float64)
    state = h, c
    for _ in range(3):
        state = cell(u, state)
        h, c = restated_step(p, u, h, c, norm=bool(norm))
        # Two formulas for the same float64 numbers differ by rounding alone.
        torch.testing.assert_close(state[0], h, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(state[1], c, rtol=1e-12, atol=1e-12)
    assert cell.output(state) is state[0]


def test_published_parameter_count() -> None:
    """The shallow network of Nayebi et al.: 32,513,384, of which 4,197,736 are not its cells'."""
    cells = [build_cell("conv_lstm", channels) for channels in (256, 256, 512)]
    count = sum(map(plain.count, cells))
    assert 4_197_736 + count == 32_513_384


def test_parameter_count_of_the_searched_network() -> None:
    """The same network as the search left it, narrower after its first cell: 21,126,248.

    Each cell by hand: four gates with a bias, five norms, three peepholes.
    """
    first = build_cell("conv_lstm", 128, drive_channels=256, kernel_size=2, norm="LN")
    second = build_cell("conv_lstm", 256, kernel_size=3, norm="LN", peephole_size=14)
    third = build_cell("conv_lstm", 256, drive_channels=512, kernel_size=4, norm="LN")
    counts = [plain.count(cell) for cell in (first, second, third)]
    assert counts == [
        4 * (4 * 384 * 128) + 512 + 1280,
        4 * (9 * 512 * 256) + 1024 + 2560 + 3 * 14 * 14 * 256,
        4 * (16 * 768 * 256) + 1024 + 2560,
    ]
    convolutions = [(3, 64, 7), (64, 128, 3), (128, 256, 3), (128, 256, 3), (256, 512, 3)]
    convolutions.append((256, 1000, 2))
    feedforward = sum(c_in * c_out * k * k + c_out for c_in, c_out, k in convolutions)
    assert feedforward + sum(counts) == 21_126_248


def test_pathfinder_parameter_count() -> None:
    """The Pathfinder baseline: 1,126,452 with its first convolution, batch norm and readout."""
    cell = build_cell("conv_lstm", 25, kernel_size=15, forget_bias=0.0)
    count = plain.count(cell)
    convolution, batch_norm, readout = 7 * 7 * 25 + 25, 2 * 25, 2 * 25 + 2
    assert count + convolution + batch_norm + readout == 1_126_452


def test_five_norms() -> None:
    bare, normed = build_cell("conv_lstm", 6), build_cell("conv_lstm", 6, norm="LN")
    assert plain.count(normed) - plain.count(bare) == 5 * 2 * 6


def test_starting_values() -> None:
    torch.manual_seed(0)
    cell = build_cell("conv_lstm", 16, drive_channels=32, forget_bias=0.5)
    expected = torch.zeros(4, 16)
    expected[2] = 0.5
    assert torch.equal(cell.gates.bias, expected.flatten())
    assert_xavier_uniform(cell.gates.weight)


def test_with_a_norm_the_forget_gate_opens_by_its_shift() -> None:
    cell = build_cell("conv_lstm", 4, norm="LN")
    assert not cell.gates.bias.any()
    assert torch.equal(cell.forget_norm.bias, torch.ones(4))
    for norm in (cell.input_norm, cell.candidate_norm, cell.output_norm, cell.memory_norm):
        assert not norm.bias.any() and torch.equal(norm.weight, torch.ones(4))


def test_peepholes_start_shut_and_have_one_size() -> None:
    torch.manual_seed(0)
    cell = build_cell("conv_lstm", 4, peephole_size=6)
    for peephole in (cell.input_peephole, cell.forget_peephole, cell.output_peephole):
        assert peephole.shape == (4, 6, 6) and not peephole.any()
    drive = torch.randn(1, 4, 6, 5)
    message = r"peepholes are made for maps of \(6, 6\).*peephole_size.*\(6, 5\)"
    with pytest.raises(ValueError, match=message):
        cell.check_drive(drive)
    with pytest.raises(ValueError, match=message):
        cell(drive, cell.initial_state(drive))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "batch"}, ["norm", "LN", "batch"]),
        ({"kernel_size": 0}, ["kernel_size", "positive", "0"]),
        ({"peephole_size": 0}, ["peephole_size", "at least 1", "0"]),
        ({"peephole_size": (4, 5, 6)}, ["peephole_size", "height and a width", "(4, 5, 6)"]),
    ],
)
def test_impossible_options_are_named(options, words) -> None:
    with pytest.raises(ValueError) as caught:
        build_cell("conv_lstm", 8, **options)
    assert all(word in str(caught.value) for word in words)
