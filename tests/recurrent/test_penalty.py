"""The Lipschitz coefficient penalty against the dense Jacobian."""

from __future__ import annotations

import pytest
import torch

from rpanoptic.recurrent import LipschitzPenalty, RecurrentBlock
from rpanoptic.recurrent.jacobian import StepJacobian, as_leaves
from rpanoptic.recurrent.state import to_tensors

from .helpers import CELLS_UNDER_TEST, contractive_hgru, dense_jacobian, settle


def exceeded_tau(cell, drive, state) -> float:
    """A threshold that a quarter of the column sums exceeds, so that the penalty is at work."""
    sums = dense_jacobian(cell, drive, state).sum(dim=0)
    tau = float(sums.quantile(0.75))
    assert tau > 0
    return tau


def column_sums(cell, drive, state):
    previous = as_leaves(state)
    return StepJacobian(to_tensors(cell(drive, previous)), to_tensors(previous)).column_sums()


@pytest.mark.parametrize("name", CELLS_UNDER_TEST)
@pytest.mark.parametrize("reduction", ["sum", "mean", "per_sample"])
def test_equals_the_dense_column_sums(name: str, reduction: str) -> None:
    cell = CELLS_UNDER_TEST[name](0)
    drive = torch.randn(2, cell.channels, 3, 3, dtype=torch.float64)
    previous = settle(cell, drive, steps=5)
    # The whole batch as one system: the sums are over everything that a number acts upon.
    sums = dense_jacobian(cell, drive, previous).sum(dim=0)
    tau = exceeded_tau(cell, drive, previous)
    squares = (sums - tau).clamp(min=0) ** 2
    expected = {"sum": squares.sum(), "mean": squares.mean(), "per_sample": squares.sum() / 2}
    actual = LipschitzPenalty(tau, 3.0, reduction)(column_sums(cell, drive, previous))
    torch.testing.assert_close(actual.detach(), 3.0 * expected[reduction], rtol=1e-10, atol=0)


def test_both_sides() -> None:
    sums = torch.tensor([[-3.0, -0.5, 0.5, 2.0]], requires_grad=True)
    one, both = (LipschitzPenalty(1.0, 1.0, two_sided=two) for two in (False, True))
    assert one((sums,)).item() == 1.0
    assert both((sums,)).item() == 5.0
    (gradient,) = torch.autograd.grad(both((sums,)), sums)
    assert gradient.tolist() == [[-4.0, 0.0, 0.0, 2.0]]


@pytest.mark.parametrize("name", CELLS_UNDER_TEST)
def test_gradient_by_finite_differences(name: str) -> None:
    cell = CELLS_UNDER_TEST[name](1)
    drive = torch.randn(1, cell.channels, 2, 3, dtype=torch.float64)
    parameters = list(cell.parameters())
    state = settle(cell, drive, steps=5)
    tau = exceeded_tau(cell, drive, state)

    def penalty() -> torch.Tensor:
        return LipschitzPenalty(tau, 1.0, "sum")(column_sums(cell, drive, state))

    gradients = torch.autograd.grad(penalty(), parameters, materialize_grads=True)
    direction = [torch.randn_like(p) for p in parameters]
    expected = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    width = 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(sign * width * d)
        values.append(penalty().detach())
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(sign * width * d)
    measured = (values[0] - values[1]) / (2 * width)
    # Central differences of width 1e-6 in float64 are good to about 1e-8 of the values.
    torch.testing.assert_close(measured, expected, rtol=1e-5, atol=1e-7)


def test_training_with_it_makes_the_system_contract() -> None:
    torch.manual_seed(0)
    cell = contractive_hgru(0)
    block = RecurrentBlock(cell, steps=10, penalty=LipschitzPenalty(0.3, 1.0, "mean"))
    optimizer = torch.optim.Adam(block.parameters(), lr=1e-2)
    drive = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    first = block(drive).penalty
    for _ in range(40):
        optimizer.zero_grad()
        block(drive).penalty.backward()
        optimizer.step()
    assert float(block(drive).penalty) < 0.1 * float(first)


def test_nothing_is_computed_where_it_is_not_wanted() -> None:
    cell = contractive_hgru(0)
    drive = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    assert RecurrentBlock(cell, penalty=LipschitzPenalty(weight=0.0))(drive).penalty is None
    assert RecurrentBlock(cell, gradient="rbp")(drive).penalty is None
    assert RecurrentBlock(cell, gradient="bptt")(drive).penalty is None
    assert RecurrentBlock(cell, gradient="cbptt", steps=1)(drive).penalty is not None
    assert RecurrentBlock(cell).eval()(drive).penalty is None
    with torch.no_grad():
        assert RecurrentBlock(cell)(drive).penalty is None
    assert RecurrentBlock(cell)(drive).penalty is not None


@pytest.mark.parametrize("reduction", ["sum", "mean", "per_sample"])
def test_no_samples_give_a_connected_zero(reduction: str) -> None:
    block = RecurrentBlock(contractive_hgru(0), penalty=LipschitzPenalty(reduction=reduction))
    penalty = block(torch.zeros(0, 4, 3, 3, dtype=torch.float64)).penalty
    assert penalty == 0
    penalty.backward()


@pytest.mark.parametrize(
    ("options", "word"),
    [({"weight": -1.0}, "weight"), ({"tau": 0.0}, "tau"), ({"reduction": "max"}, "per_sample")],
)
def test_impossible_values_are_named(options, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        LipschitzPenalty(**options)
