"""Gradients of the equilibrium: against dense algebra, against BPTT, and in every use."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from rpanoptic.recurrent import GRADIENTS, AdjointConfig, LipschitzPenalty, RecurrentBlock
from rpanoptic.recurrent.state import to_tensors

from .helpers import (
    CELLS_UNDER_TEST,
    assert_gradients_close,
    contractive_hgru,
    dense_jacobian,
    flat,
    settle,
    unflat,
)

EXACT = AdjointConfig(max_steps=2000, tol=1e-13)


def gradients_of(block: RecurrentBlock, drive: torch.Tensor, weights: torch.Tensor):
    """Gradients of <weights, h_T> for the drive and every parameter of the cell."""
    drive = drive.clone().requires_grad_()
    loss = (flat(block(drive).state) * weights).sum()
    return torch.autograd.grad(loss, [drive, *block.parameters()])


def problem(name: str, seed: int, size: tuple[int, int] = (3, 4)):
    cell = CELLS_UNDER_TEST[name](seed)
    drive = torch.randn(1, cell.channels, *size, dtype=torch.float64)
    weights = torch.randn(flat(cell.initial_state(drive)).numel(), dtype=torch.float64)
    return cell, drive, weights


@pytest.mark.parametrize("name", CELLS_UNDER_TEST)
@pytest.mark.parametrize(("seed", "size"), [(0, (3, 4)), (1, (5, 2))])
@pytest.mark.parametrize("gradient", ["rbp", "crbp"])
def test_equals_the_dense_solve(name: str, seed: int, size: tuple[int, int], gradient: str) -> None:
    cell, drive, g = problem(name, seed, size)
    equilibrium = settle(cell, drive)
    jacobian = dense_jacobian(cell, drive, equilibrium)
    assert torch.linalg.eigvals(jacobian).abs().max() < 0.95  # the premise of the series
    adjoint = torch.linalg.solve(torch.eye(len(g), dtype=g.dtype) - jacobian.T, g)
    leaf = drive.clone().requires_grad_()
    expected = torch.autograd.grad(
        to_tensors(cell(leaf, equilibrium)),
        [leaf, *cell.parameters()],
        to_tensors(unflat(adjoint, equilibrium)),
    )
    actual = gradients_of(
        RecurrentBlock(cell, steps=400, gradient=gradient, adjoint=EXACT), drive, g
    )
    # The series is cut at 1e-13 of g; its rest is amplified by at most 1 / (1 - rho) = 20.
    assert_gradients_close(actual, expected, 1e-8)


@pytest.mark.parametrize("name", CELLS_UNDER_TEST)
def test_equals_bptt_run_to_convergence(name: str) -> None:
    cell, drive, weights = problem(name, seed=2)
    bptt = gradients_of(RecurrentBlock(cell, steps=400, gradient="bptt"), drive, weights)
    rbp = gradients_of(
        RecurrentBlock(cell, steps=400, gradient="rbp", adjoint=EXACT), drive, weights
    )
    assert_gradients_close(rbp, bptt, 1e-8)


@pytest.mark.parametrize("terms", [0, 1, 3, 10])
def test_truncated_series_is_the_partial_sum(terms: int) -> None:
    cell, drive, g = problem("hgru", seed=3)
    equilibrium = settle(cell, drive, steps=6)  # h_{T-1}: truncation is exact anywhere
    jacobian = dense_jacobian(cell, drive, equilibrium)
    partial = term = g
    for _ in range(terms):
        term = jacobian.T @ term
        partial = partial + term
    leaf = drive.clone().requires_grad_()
    expected = torch.autograd.grad(
        cell(leaf, equilibrium), [leaf, *cell.parameters()], unflat(partial, equilibrium)
    )
    config = AdjointConfig(max_steps=terms, tol=0)
    actual = gradients_of(RecurrentBlock(cell, steps=7, gradient="rbp", adjoint=config), drive, g)
    assert_gradients_close(actual, expected, 1e-10)


@pytest.mark.parametrize("name", CELLS_UNDER_TEST)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_forward_is_bit_equal_under_every_method(name: str, steps: int) -> None:
    cell, drive, _ = problem(name, seed=4)
    states = [flat(RecurrentBlock(cell, steps=steps, gradient=g)(drive).state) for g in GRADIENTS]
    with torch.no_grad():
        states.append(flat(RecurrentBlock(cell, steps=steps)(drive).state))
    assert len(states) > 2
    assert all(torch.equal(states[0], state) for state in states[1:])


def test_parameter_names_do_not_depend_on_the_method() -> None:
    cell = contractive_hgru(0)
    names = [set(RecurrentBlock(cell, gradient=g).state_dict()) for g in GRADIENTS]
    assert all(one == names[0] for one in names)


def test_two_uses_in_one_graph() -> None:
    cell, drive, weights = problem("hgru", seed=5)
    other = torch.randn_like(drive)
    block = RecurrentBlock(cell, steps=50, gradient="rbp")
    parameters = list(block.parameters())
    first = gradients_of(block, drive, weights)[1:]
    second = gradients_of(block, other, weights)[1:]
    loss = sum((flat(block(x).state) * weights).sum() for x in (drive, other))
    apart = [a + b for a, b in zip(first, second, strict=True)]
    assert_gradients_close(torch.autograd.grad(loss, parameters), apart, 1e-12)


def test_backward_twice_is_bit_equal() -> None:
    cell, drive, weights = problem("hgru", seed=6)
    block = RecurrentBlock(cell, steps=20, gradient="crbp")
    loss = (flat(block(drive).state) * weights).sum()
    parameters = list(block.parameters())
    once = torch.autograd.grad(loss, parameters, retain_graph=True)
    again = torch.autograd.grad(loss, parameters)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_create_graph_is_an_error() -> None:
    cell, drive, weights = problem("hgru", seed=7)
    drive.requires_grad_()
    loss = (flat(RecurrentBlock(cell, steps=5, gradient="rbp")(drive).state) * weights).sum()
    with pytest.raises(RuntimeError, match=r"create_graph=True.*'bptt'"):
        torch.autograd.grad(loss, drive, create_graph=True)


def test_frozen_parameters_and_constant_drive() -> None:
    cell, drive, weights = problem("hgru", seed=8)
    cell.inhibition.weight.requires_grad_(False)
    block = RecurrentBlock(cell, steps=20, gradient="rbp")
    (flat(block(drive).state) * weights).sum().backward()
    assert cell.inhibition.weight.grad is None
    assert cell.excitation.weight.grad is not None


def test_joint_backward_with_the_penalty() -> None:
    cell, drive, weights = problem("hgru", seed=9)
    # A low threshold, so that the penalty is at work.
    block = RecurrentBlock(cell, steps=20, penalty=LipschitzPenalty(tau=0.1, weight=1.0))
    parameters = list(block.parameters())
    output = block(drive)
    task = (flat(output.state) * weights).sum()
    kwargs = {"retain_graph": True, "materialize_grads": True}
    apart = [
        a + b
        for a, b in zip(
            torch.autograd.grad(task, parameters, **kwargs),
            torch.autograd.grad(output.penalty, parameters, **kwargs),
            strict=True,
        )
    ]
    joint = torch.autograd.grad(task + output.penalty, parameters)
    assert_gradients_close(joint, apart, 1e-12)


@pytest.mark.parametrize("backward", [True, False])
def test_nothing_is_kept_alive(backward: bool) -> None:
    cell, drive, weights = problem("hgru", seed=10)
    block = RecurrentBlock(cell, steps=5, gradient="crbp")
    gc.collect()
    gc.disable()
    try:
        output = block(drive)
        state = weakref.ref(output.state)
        if backward:
            (flat(output.state) * weights).sum().backward()
        del output
        assert state() is None
    finally:
        gc.enable()


def test_unknown_method_lists_the_known() -> None:
    with pytest.raises(
        ValueError,
        match=r"unknown gradient method 'cbp'; known: bptt, cbptt, cg_rbp, "
        r"checkpointed_bptt, crbp, phantom, rbp, tbptt",
    ):
        RecurrentBlock(contractive_hgru(0), gradient="cbp")


def test_the_update_gate_has_no_gradient_at_an_equilibrium() -> None:
    """h* = (1 - g2) h* + g2 h~ means h* = h~, whatever the gate g2: README says so."""
    cell, drive, weights = problem("hgru", seed=11)
    block = RecurrentBlock(cell, steps=400, gradient="rbp", adjoint=EXACT)
    (flat(block(drive).state) * weights).sum().backward()
    assert float(cell.update_gate.weight.grad.norm()) < 1e-10
    assert float(cell.excitation.weight.grad.norm()) > 1e-2
