"""The functional back end: no tape, gradients of gradients, one compiled graph."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from rpanoptic.recurrent import AdjointConfig, LipschitzPenalty, RecurrentBlock
from rpanoptic.recurrent.state import to_tensors

from .helpers import CELLS_UNDER_TEST, assert_gradients_close, contractive_hgru

EXACT = AdjointConfig(max_steps=300, tol=1e-14)
NAMES = ["hgru", "tuple state"]


def make(name: str, backend: str = "functional", **options) -> tuple[RecurrentBlock, torch.Tensor]:
    cell = CELLS_UNDER_TEST[name](0)
    options = {"steps": 200, "gradient": "rbp", "adjoint": EXACT, **options}
    drive = torch.randn(2, cell.drive_channels, 2, 2, dtype=torch.float64)
    return RecurrentBlock(cell, backend=backend, **options), drive


def states(block: RecurrentBlock, drive: torch.Tensor) -> torch.Tensor:
    return torch.cat([t.flatten(1) for t in to_tensors(block(drive).state)], dim=1)


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck_and_gradgradcheck_by_the_drive(name: str) -> None:
    block, drive = make(name)
    drive = drive[:1].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: states(block, x), drive, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: states(block, x), drive, fast_mode=True)


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck_of_the_tape_too(name: str) -> None:
    block, drive = make(name, backend="tape")
    assert torch.autograd.gradcheck(lambda x: states(block, x), drive[:1].requires_grad_())


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives_equal_those_of_the_unrolled_recurrence(name: str) -> None:
    found = []
    for options in ({}, {"gradient": "bptt", "backend": "tape"}):
        block, drive = make(name, **options)
        drive.requires_grad_()
        parameters = list(block.parameters())
        (first,) = torch.autograd.grad(states(block, drive).sin().sum(), drive, create_graph=True)
        found.append(
            torch.autograd.grad(first.square().sum(), [drive, *parameters], materialize_grads=True)
        )
    # The update gate's derivatives vanish at an equilibrium; what is left of them is rounding.
    gates = [index for index, (key, _) in enumerate(block.named_parameters()) if "update" in key]
    found = [[g for i, g in enumerate(one) if i - 1 not in gates] for one in found]
    assert_gradients_close(*found, tolerance=1e-9)


def test_second_derivatives_need_the_neumann_series() -> None:
    block, drive = make("hgru", adjoint=AdjointConfig(solver="gmres"))
    loss = states(block, drive.requires_grad_()).sum()
    with pytest.raises(RuntimeError, match=r"create_graph=True.*'neumann'.*'gmres'"):
        torch.autograd.grad(loss, drive, create_graph=True)


def test_torch_func_grad() -> None:
    block, drive = make("hgru")
    expected = torch.autograd.grad(states(block, drive.requires_grad_()).sum(), drive)[0]
    actual = torch.func.grad(lambda x: states(block, x).sum())(drive.detach())
    torch.testing.assert_close(actual, expected)
    deepcopy(block)  # nothing of the transform is left in it


def test_torch_func_with_the_tape_says_what_to_use() -> None:
    block, drive = make("hgru", backend="tape")
    with pytest.raises(RuntimeError, match="backend 'functional'"):
        torch.func.grad(lambda x: states(block, x).sum())(drive)


def test_frozen_parameters_and_a_drive_without_gradient() -> None:
    block, drive = make("hgru")
    block.cell.inhibition.weight.requires_grad_(False)
    states(block, drive).sum().backward()
    assert block.cell.inhibition.weight.grad is None
    assert block.cell.excitation.weight.grad is not None


def test_penalty_equals_that_of_the_tape_at_the_equilibrium() -> None:
    found = []
    for backend in ("tape", "functional"):
        block, drive = make(
            "hgru", backend, gradient="crbp", penalty=LipschitzPenalty(0.1, 1.0, "sum")
        )
        penalty = block(drive).penalty
        gradients = torch.autograd.grad(penalty, list(block.parameters()), materialize_grads=True)
        found.append((penalty.detach(), *gradients))
    assert found[0][0] > 0
    assert_gradients_close(*found, tolerance=1e-9)


def test_keeps_states_alone_between_the_passes() -> None:
    kept = {}
    for backend in ("tape", "functional"):
        block, drive = make("hgru", backend, steps=5)
        parameters = {p.data_ptr() for p in block.parameters()}
        sizes = []

        def pack(tensor, known=parameters, sizes=sizes):
            if tensor.data_ptr() not in known:
                sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            block(drive)
        kept[backend] = sum(sizes)
    # The drive and the state.
    assert kept["functional"] == 2 * drive.numel() < kept["tape"]


@pytest.mark.parametrize("gradient", ["rbp", "crbp", "phantom"])
def test_compiles_as_one_graph(gradient: str) -> None:
    block, drive = make(
        "hgru",
        steps=4,
        gradient=gradient,
        adjoint=AdjointConfig(max_steps=3, tol=0),
        penalty=LipschitzPenalty(0.1, 1.0),
        on_failure="record",
    )
    parameters = list(block.parameters())

    def losses(x: torch.Tensor) -> torch.Tensor:
        output = block(x)
        loss = output.output.sin().sum()
        return loss if output.penalty is None else loss + output.penalty

    expected = torch.autograd.grad(losses(drive), parameters, materialize_grads=True)
    compiled = torch.compile(losses, fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad(compiled(drive), parameters, materialize_grads=True)
    # The same operations, with other rounding where the compiler decomposes them.
    assert_gradients_close(actual, expected, tolerance=1e-9)


def test_autocast_is_that_of_the_forward_pass() -> None:
    torch.manual_seed(0)
    cell = contractive_hgru(0).float()
    drive = torch.randn(2, 4, 6, 6)
    gradients = {}
    for backend, enabled in (("functional", True), ("tape", True), ("functional", False)):
        block = RecurrentBlock(cell, steps=30, gradient="rbp", backend=backend)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = block(drive).output.float().sin().sum()
        gradients[backend, enabled] = torch.autograd.grad(loss, cell.excitation.weight)[0]
    half = gradients["functional", True]

    def error(other: torch.Tensor) -> float:
        return float((half - other).norm() / other.norm())

    # The small gradient of the excitation suffers from bfloat16's 8 bits under every method. Both
    # back ends make the same errors, but for the orders of sums; float32 does not.
    assert error(gradients["tape", True]) < 0.02
    assert error(gradients["functional", False]) > 0.1
