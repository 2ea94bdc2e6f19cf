"""The hGRU against an independent statement of its equations, and its initialisation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rpanoptic.recurrent import RecurrentBlock, build_cell
from tests.recurrent.cells import plain
from tests.recurrent.cells.plain import Parameters, conv, phi, sigma


def restated_step(
    p: Parameters, x: Tensor, h: Tensor, nl, *, gala: bool, norm: str, extra_softplus: bool
) -> Tensor:
    """One step written from the paper's equations, on a plain dictionary of parameters."""
    normalised = plain.NORMS[norm]
    gate = "inhibition_gate"
    g1 = sigma(plain.gala(p, gate, h, nl) if gala else conv(p, gate, h))
    c0 = normalised(p, "inhibition_norm", conv(p, "inhibition", h * g1))
    suppression = c0 * (p["alpha"] * h + p["mu"])
    z = nl(nl(x) - nl(suppression)) if "kappa" in p else nl(x - suppression)
    g2 = sigma(conv(p, "update_gate", z))
    e = nl(normalised(p, "excitation_norm", conv(p, "excitation", z)))
    if "kappa" in p:
        candidate = nl(p["kappa"] * (z + e) + p["omega"] * z * e)
    elif "omega" in p:
        candidate = z + nl(p["omega"] * z * e)
    else:
        candidate = e
    mixed = (1 - g2) * h + g2 * candidate
    return phi(mixed) if extra_softplus else mixed


NONLINEARITIES = {
    "softplus": phi,
    "tanh": lambda v: (torch.exp(v) - torch.exp(-v)) / (torch.exp(v) + torch.exp(-v)),
    "relu": lambda v: v.clamp(min=0),
    "sigmoid": sigma,
    "elu": lambda v: torch.where(v > 0, v, torch.exp(v) - 1),
}


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("gala", [True, False])
@pytest.mark.parametrize("less_softplus", [True, False])
@pytest.mark.parametrize("extra_softplus", [True, False])
@pytest.mark.parametrize(("norm", "kernel_size"), [("GN", 1), ("GN", 3), ("BN", 3), ("", 5)])
def test_equals_its_equations(
    nonlinearity, gala, less_softplus, extra_softplus, norm, kernel_size
) -> None:
    torch.manual_seed(0)
    cell = build_cell(
        "hgru",
        8,
        kernel_size=kernel_size,
        gala=gala,
        nonlinearity=nonlinearity,
        norm=norm,
        less_softplus=less_softplus,
        extra_softplus=extra_softplus,
    ).double()
    parameters = plain.parameters_off_their_start(cell)
    x, h = torch.randn(2, 2, 8, 5, 6, dtype=torch.float64)
    forms = {"gala": gala, "norm": norm, "extra_softplus": extra_softplus}
    expected = restated_step(parameters, x, h, NONLINEARITIES[nonlinearity], **forms)
    # Two formulas for the same float64 numbers differ by rounding alone.
    torch.testing.assert_close(cell(x, h), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("gala", "expected"), [(True, 1_576_256), (False, 1_312_768)])
def test_published_parameter_count(gala: bool, expected: int) -> None:
    assert plain.count(build_cell("hgru", 256, gala=gala)) == expected


def test_forms_differ_by_their_gains_alone() -> None:
    """Options add parameters at the end and take no random number: weights fit across forms."""

    def parameters(**options: bool) -> Parameters:
        torch.manual_seed(0)
        return build_cell("hgru", 8, **options).state_dict()

    papers = parameters()
    assert set(parameters(extra_softplus=True)) == set(papers)
    assert set(parameters(less_softplus=False)) == {*papers, "omega"}
    most = parameters(extra_softplus=True, less_softplus=False)
    assert set(most) == {*papers, "omega", "kappa"}
    assert torch.equal(most["kappa"], torch.full((8, 1, 1), 0.5))
    assert all(torch.equal(most[name], value) for name, value in papers.items())


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


def test_starting_values() -> None:
    torch.manual_seed(0)
    cell = build_cell("hgru", 64, less_softplus=False)
    for name, value in (("alpha", 0.1), ("mu", 1.0), ("omega", 0.5)):
        assert torch.equal(getattr(cell, name), torch.full((64, 1, 1), value))
    assert torch.equal(cell.inhibition_norm.weight, torch.full((64,), 0.1))
    assert torch.equal(cell.excitation_norm.weight, torch.full((64,), 0.1))
    # Kaiming normal: variance 2 / fan-in; 36,864 draws give the deviation to 2 %.
    expected = math.sqrt(2 / (64 * 9))
    assert abs(float(cell.inhibition.weight.detach().std()) / expected - 1) < 0.02


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
