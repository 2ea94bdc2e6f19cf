"""The hGRU against an independent statement of its equations, and its initialisation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rpanoptic.recurrent import RecurrentBlock, build_cell


def restated_step(p: dict[str, Tensor], x: Tensor, h: Tensor, nl, *, gala: bool, norm: bool):
    """One step written from the paper's equations, on a plain dictionary of parameters."""

    def conv(value, name):
        weight = p[f"{name}.weight"]
        return F.conv2d(value, weight, p.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def group_norm(value, name):
        if not norm:
            return value
        n, c, height, width = value.shape
        groups = value.view(n, math.gcd(32, c), -1)
        mean = groups.mean(-1, keepdim=True)
        variance = ((groups - mean) ** 2).mean(-1, keepdim=True)
        unit = ((groups - mean) / torch.sqrt(variance + 1e-5)).view(n, c, height, width)
        scale, shift = p[f"{name}.weight"], p[f"{name}.bias"]
        return unit * scale[None, :, None, None] + shift[None, :, None, None]

    if gala:
        a = conv(nl(conv(h, "inhibition_gate.channel_squeeze")), "inhibition_gate.channel_expand")
        s = conv(nl(conv(h, "inhibition_gate.spatial_squeeze")), "inhibition_gate.spatial_map")
        logit = a * s + p["inhibition_gate.bias"][None, :, None, None]
    else:
        logit = conv(h, "inhibition_gate")
    g1 = 1 / (1 + torch.exp(-logit))
    c0 = group_norm(conv(h * g1, "inhibition"), "inhibition_norm")
    z = nl(x - c0 * (p["alpha"] * h + p["mu"]))
    g2 = 1 / (1 + torch.exp(-conv(z, "update_gate")))
    e = nl(group_norm(conv(z, "excitation"), "excitation_norm"))
    candidate = z + nl(p["omega"] * z * e) if "omega" in p else e
    return (1 - g2) * h + g2 * candidate


NONLINEARITIES = {
    "softplus": lambda v: torch.log1p(torch.exp(v)),
    "tanh": lambda v: (torch.exp(v) - torch.exp(-v)) / (torch.exp(v) + torch.exp(-v)),
    "relu": lambda v: v.clamp(min=0),
    "sigmoid": lambda v: 1 / (1 + torch.exp(-v)),
}


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("gala", [True, False])
@pytest.mark.parametrize("less_softplus", [True, False])
@pytest.mark.parametrize("norm", ["GN", ""])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_equals_its_equations(nonlinearity, gala, less_softplus, norm, kernel_size) -> None:
    torch.manual_seed(0)
    cell = build_cell(
        "hgru",
        8,
        kernel_size=kernel_size,
        gala=gala,
        nonlinearity=nonlinearity,
        norm=norm,
        less_softplus=less_softplus,
    ).double()
    with torch.no_grad():
        # Away from their starting values, so that a forgotten parameter shows.
        for parameter in cell.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x, h = torch.randn(2, 2, 8, 5, 6, dtype=torch.float64)
    parameters = dict(cell.named_parameters())
    nl = NONLINEARITIES[nonlinearity]
    expected = restated_step(parameters, x, h, nl, gala=gala, norm=bool(norm))
    # Two formulas for the same float64 numbers differ by rounding alone.
    torch.testing.assert_close(cell(x, h), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("gala", "expected"), [(True, 1_576_256), (False, 1_312_768)])
def test_published_parameter_count(gala: bool, expected: int) -> None:
    cell = build_cell("hgru", 256, gala=gala)
    assert sum(p.numel() for p in cell.parameters()) == expected


@pytest.mark.parametrize(
    ("bias_init", "low", "high"), [("chrono", 0, math.log(19)), ("legacy", 1, 19)]
)
def test_gate_biases(bias_init: str, low: float, high: float) -> None:
    torch.manual_seed(0)
    cell = build_cell("hgru", 4096, kernel_size=1, gala=False, bias_init=bias_init, max_steps=20)
    opening, update = cell.inhibition_gate.bias.detach(), cell.update_gate.bias.detach()
    torch.testing.assert_close(update, -opening, rtol=0, atol=0)
    assert low <= opening.min() and opening.max() <= high
    # u is uniform on (1, 19), mean 10; four standard errors of 4096 draws are 0.33.
    draws = opening.exp() if bias_init == "chrono" else opening
    assert abs(float(draws.mean()) - 10) < 0.33


@pytest.mark.parametrize("max_steps", [1, 2])
def test_gate_biases_without_an_interval(max_steps: int) -> None:
    cell = build_cell("hgru", 8, max_steps=max_steps)
    assert torch.equal(cell.update_gate.bias, torch.zeros(8))


def test_starting_values() -> None:
    torch.manual_seed(0)
    cell = build_cell("hgru", 64, less_softplus=False)
    for name, value in (("alpha", 0.1), ("mu", 1.0), ("omega", 0.5)):
        assert torch.equal(getattr(cell, name), torch.full((64, 1, 1), value))
    assert torch.equal(cell.inhibition_norm.weight, torch.full((64,), 0.1))
    assert torch.equal(cell.excitation_norm.weight, torch.full((64,), 0.1))
    # Kaiming normal: variance 2 / fan-in; 36,864 draws give the deviation to 2 %.
    expected = math.sqrt(2 / (64 * 9))
    assert abs(float(cell.inhibition.weight.std()) / expected - 1) < 0.02


def test_state_dict_round_trip() -> None:
    torch.manual_seed(0)
    first, second = build_cell("hgru", 8), build_cell("hgru", 8)
    x, h = torch.randn(2, 1, 8, 4, 4)
    assert not torch.equal(first(x, h), second(x, h))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x, h), second(x, h))


def test_a_sample_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    block = RecurrentBlock(build_cell("hgru", 8).double(), steps=20)
    drive = torch.randn(3, 8, 6, 6, dtype=torch.float64)
    together = block(drive).state
    for i in range(3):
        # A convolution may be computed by another algorithm for another batch size.
        alone = block(drive[i : i + 1]).state
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nonlinearity": "swish"}, ["nonlinearity", "softplus", "swish"]),
        ({"norm": "batch"}, ["norm", "GN", "batch"]),
        ({"kernel_size": 4}, ["kernel_size", "odd", "4"]),
        ({"bias_init": "log"}, ["bias_init", "chrono", "legacy", "log"]),
    ],
)
def test_impossible_options_are_named(options, words) -> None:
    with pytest.raises(ValueError) as caught:
        build_cell("hgru", 8, **options)
    assert all(word in str(caught.value) for word in words)


def test_unknown_cell_lists_the_known() -> None:
    with pytest.raises(
        ValueError, match=r"unknown cell 'hgur'; known: .*hgru.*Did you mean 'hgru'"
    ):
        build_cell("hgur", 8)
