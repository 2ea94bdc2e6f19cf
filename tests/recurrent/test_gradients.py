"""Gradients of the equilibrium: against dense algebra, against BPTT, and in every use."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from rpanoptic.recurrent import (
    CELLS,
    GRADIENTS,
    SOLVERS,
    AdjointConfig,
    ForwardConfig,
    LipschitzPenalty,
    RecurrentBlock,
    StopReason,
)
from rpanoptic.recurrent.state import to_tensors

from .helpers import (
    ALL_CELLS,
    CELLS_UNDER_TEST,
    assert_gradients_close,
    contractive_hgru,
    dense_jacobian,
    flat,
    settle,
    unflat,
)

EXACT = {
    solver: AdjointConfig(max_steps=2000, tol=1e-13, solver=solver, memory=20) for solver in SOLVERS
}
# Every way to the exact gradient of an equilibrium: (method, options of the block).
IMPLICIT = {
    **{f"rbp, {solver}": ("rbp", {"adjoint": config}) for solver, config in EXACT.items()},
    "crbp": ("crbp", {"adjoint": EXACT["neumann"]}),
    "cg_rbp": ("cg_rbp", {"adjoint": EXACT["neumann"]}),
    "rbp, functional": ("rbp", {"adjoint": EXACT["neumann"], "backend": "functional"}),
    "rbp, functional, anderson": ("rbp", {"adjoint": EXACT["anderson"], "backend": "functional"}),
    "rbp, fall-back ready": ("rbp", {"adjoint": EXACT["gmres"], "on_failure": "tbptt"}),
}


def gradients_of(block: RecurrentBlock, drive: torch.Tensor, weights: torch.Tensor, state=None):
    """Gradients of <weights, h_T> for the drive and every parameter of the cell."""
    drive = drive.clone().requires_grad_()
    loss = (flat(block(drive, state).state) * weights).sum()
    # A cell may have no parameter that its state depends on at some sizes of the drive.
    return torch.autograd.grad(loss, [drive, *block.parameters()], materialize_grads=True)


def problem(name: str, seed: int, size: tuple[int, int] = (3, 4)):
    cell = ALL_CELLS[name](seed)
    drive = torch.randn(1, cell.drive_channels, *size, dtype=torch.float64)
    weights = torch.randn(flat(cell.initial_state(drive)).numel(), dtype=torch.float64)
    return cell, drive, weights


@pytest.mark.parametrize("name", ALL_CELLS)
@pytest.mark.parametrize(("seed", "size"), [(0, (3, 4)), (1, (5, 2))])
def test_equals_the_dense_solve(name: str, seed: int, size: tuple[int, int]) -> None:
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
        materialize_grads=True,
    )
    for method, options in IMPLICIT.values():
        block = RecurrentBlock(cell, steps=2, gradient=method, **options)
        # The solve is cut at 1e-13 of g; its rest is amplified by at most 1 / (1 - rho) = 20.
        assert_gradients_close(gradients_of(block, drive, g, equilibrium), expected, 1e-8)
        assert (block.last.adjoint.reason == StopReason.CONVERGED).all()


def test_an_accelerated_run_gives_the_same_gradient() -> None:
    cell, drive, weights = problem("hgru", seed=0)
    found = []
    for forward in (ForwardConfig(tol=1e-15, acceleration="anderson"), ForwardConfig()):
        options = {"forward": forward, "adjoint": EXACT["neumann"], "on_failure": "record"}
        block = RecurrentBlock(cell, steps=400, gradient="rbp", **options)
        found.append(gradients_of(block, drive, weights))
    assert_gradients_close(*found, tolerance=1e-8)


@pytest.mark.parametrize("name", ALL_CELLS)
def test_equals_bptt_run_to_convergence(name: str) -> None:
    cell, drive, weights = problem(name, seed=2)
    bptt = gradients_of(RecurrentBlock(cell, steps=400, gradient="bptt"), drive, weights)
    rbp = gradients_of(
        RecurrentBlock(cell, steps=400, gradient="rbp", adjoint=EXACT["neumann"]), drive, weights
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


@pytest.mark.parametrize("truncation", [1, 3, 9, 12])
def test_truncated_bptt_by_its_definition(truncation: int) -> None:
    cell, drive, g = problem("hgru", seed=3)
    block = RecurrentBlock(cell, steps=9, gradient="tbptt", truncation=truncation)
    state = settle(cell, drive, steps=max(9 - truncation, 0))
    leaf = drive.clone().requires_grad_()
    for _ in range(min(truncation, 9)):
        state = cell(leaf, state)
    expected = torch.autograd.grad((flat(state) * g).sum(), [leaf, *cell.parameters()])
    assert_gradients_close(gradients_of(block, drive, g), expected, 1e-12)


@pytest.mark.parametrize("name", ["hgru", "tuple state"])
@pytest.mark.parametrize("terms", [0, 1, 6])
def test_neumann_with_k_terms_is_truncated_bptt_with_one_step_more(name: str, terms: int) -> None:
    cell, drive, g = problem(name, seed=12)
    adjoint = AdjointConfig(max_steps=terms, tol=0)
    neumann = RecurrentBlock(cell, steps=400, gradient="rbp", adjoint=adjoint)
    truncated = RecurrentBlock(cell, steps=400, gradient="tbptt", truncation=terms + 1)
    # Both at the same equilibrium, to rounding.
    assert_gradients_close(
        gradients_of(neumann, drive, g), gradients_of(truncated, drive, g), 1e-10
    )


def test_phantom_is_the_gradient_of_the_last_step_alone() -> None:
    cell, drive, g = problem("hgru", seed=13)
    phantom = RecurrentBlock(cell, steps=7, gradient="phantom", adjoint=EXACT["gmres"])
    one_step = RecurrentBlock(cell, steps=7, gradient="tbptt", truncation=1)
    assert_gradients_close(gradients_of(phantom, drive, g), gradients_of(one_step, drive, g), 1e-12)


def test_every_cell_is_under_test() -> None:
    tested = {type(make(0)) for make in ALL_CELLS.values()}
    assert {CELLS.get(name) for name in CELLS} <= tested


@pytest.mark.parametrize("name", CELLS_UNDER_TEST)
def test_checkpointed_bptt_is_bptt(name: str) -> None:
    cell, drive, g = problem(name, seed=14)
    blocks = [
        RecurrentBlock(cell, steps=6, gradient=method) for method in ("checkpointed_bptt", "bptt")
    ]
    assert_gradients_close(*(gradients_of(block, drive, g) for block in blocks), 1e-12)


@pytest.mark.parametrize("name", CELLS_UNDER_TEST)
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("tol", [0.0, 0.1])
def test_forward_is_bit_equal_under_every_method(name: str, steps: int, tol: float) -> None:
    cell, drive, _ = problem(name, seed=4)
    kwargs = {"steps": steps, "forward": ForwardConfig(tol=tol), "on_failure": "record"}
    blocks = [RecurrentBlock(cell, gradient=g, **kwargs) for g in GRADIENTS]
    blocks.append(RecurrentBlock(cell, gradient="rbp", backend="functional", **kwargs))
    kwargs["on_failure"] = "tbptt"
    blocks.append(RecurrentBlock(cell, gradient="rbp", **kwargs))
    outputs = [block(drive) for block in blocks]
    with torch.no_grad():
        outputs.append(blocks[0](drive))
    assert len(outputs) > 10
    for output in outputs[1:]:
        assert torch.equal(flat(output.state), flat(outputs[0].state))
        assert torch.equal(output.diagnostics.steps, outputs[0].diagnostics.steps)


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
    with pytest.raises(RuntimeError, match=r"create_graph=True.*'functional'.*'bptt'"):
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
    block = RecurrentBlock(cell, steps=400, gradient="rbp", adjoint=EXACT["neumann"])
    (flat(block(drive).state) * weights).sum().backward()
    assert float(cell.update_gate.weight.grad.norm()) < 1e-10
    assert float(cell.excitation.weight.grad.norm()) > 1e-2
