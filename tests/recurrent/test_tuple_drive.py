"""A drive of several tensors: every method and back end treats each as it treats a single one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rpanoptic.recurrent import GRADIENTS, AdjointConfig, RecurrentBlock, RecurrentCell, build_cell
from rpanoptic.recurrent.cells.base import Drive

from .helpers import assert_gradients_close

EXACT = AdjointConfig(max_steps=2000, tol=1e-13)


class TwoDrives(RecurrentCell):
    """A contraction that is driven by a map, and by another of half the size."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.mix = torch.nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.mix.weight.mul_(0.8)

    def forward(self, drive: tuple[Tensor, Tensor], state: Tensor) -> Tensor:  # type: ignore[override]
        fine, coarse = drive
        return (
            torch.tanh(self.mix(state) * torch.sigmoid(F.interpolate(coarse, fine.shape[2:])))
            + fine
        )

    def check_drive(self, drive: Drive) -> None:
        if not isinstance(drive, tuple) or len(drive) != 2:
            raise ValueError("drive must be two tensors")

    def initial_state(self, drive: tuple[Tensor, Tensor]) -> Tensor:
        return torch.zeros_like(drive[0])


def problem(samples: int = 1) -> tuple[TwoDrives, tuple[Tensor, Tensor], Tensor]:
    torch.manual_seed(0)
    cell = TwoDrives(3).double()
    fine = torch.randn(samples, 3, 4, 6, dtype=torch.float64)
    coarse = torch.randn(samples, 3, 2, 3, dtype=torch.float64)
    return cell, (fine, coarse), torch.randn_like(fine)


def gradients(
    block: RecurrentBlock, drive: tuple[Tensor, Tensor], weights: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of <weights, h_T> for both drives and every parameter."""
    leaves = tuple(t.clone().requires_grad_() for t in drive)
    loss = (block(leaves).output * weights).sum()
    return torch.autograd.grad(loss, [*leaves, *block.parameters()])


@pytest.mark.parametrize("backend", ["tape", "functional"])
@pytest.mark.parametrize("method", ["rbp", "crbp"])
def test_equilibrium_gradient_is_that_of_bptt(method: str, backend: str) -> None:
    cell, drive, weights = problem(samples=2)
    expected = gradients(RecurrentBlock(cell, steps=300, gradient="bptt"), drive, weights)
    block = RecurrentBlock(cell, steps=300, gradient=method, adjoint=EXACT, backend=backend)
    # Both at the same equilibrium to rounding; the solve is cut at 1e-13.
    assert_gradients_close(gradients(block, drive, weights), expected, 1e-9)


@pytest.mark.parametrize("method", list(GRADIENTS))
def test_every_method_reaches_both_drives(method: str) -> None:
    cell, drive, weights = problem()
    values = []
    for gradient in ("bptt", method):
        block = RecurrentBlock(cell, steps=4, gradient=gradient, on_failure="record")
        found = gradients(block, drive, weights)
        assert all(g.isfinite().all() and g.any() for g in found)
        values.append(block(drive).output)
    assert torch.equal(*values)


def test_a_single_drive_with_a_gradient_is_enough() -> None:
    cell, (fine, coarse), weights = problem()
    cell.requires_grad_(False)
    leaf = coarse.clone().requires_grad_()
    for backend in ("tape", "functional"):
        block = RecurrentBlock(cell, steps=200, gradient="rbp", adjoint=EXACT, backend=backend)
        (found,) = torch.autograd.grad((block((fine, leaf)).output * weights).sum(), [leaf])
        (expected,) = torch.autograd.grad(
            (RecurrentBlock(cell, steps=200, gradient="bptt")((fine, leaf)).output * weights).sum(),
            [leaf],
        )
        assert_gradients_close([found], [expected], 1e-9)


def test_samples_are_independent_when_they_halt() -> None:
    cell, drive, _ = problem(samples=3)
    block = RecurrentBlock(cell, steps=200, gradient="rbp", halt_tol=1e-6).eval()
    with torch.no_grad():
        together = block(drive)
        alone = [block(tuple(t[i : i + 1] for t in drive)) for i in range(3)]
    assert together.diagnostics.steps.tolist() == [int(a.diagnostics.steps) for a in alone]
    torch.testing.assert_close(together.output, torch.cat([a.output for a in alone]))


def test_iterate_takes_both_drives() -> None:
    cell, drive, _ = problem()
    states = RecurrentBlock(cell, steps=3).iterate(drive)
    third = [next(states) for _ in range(3)][-1]
    assert torch.equal(third, RecurrentBlock(cell, steps=3)(drive).output)


def test_the_cell_checks_its_own_drive() -> None:
    cell, (fine, _), _ = problem()
    with pytest.raises(ValueError, match="two tensors"):
        RecurrentBlock(cell)(fine)
    # A cell of one drive says what it got.
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\).*got \[\(1, 3, 4, 6\), \(1, 3, 4, 6\)\]"):
        RecurrentBlock(build_cell("conv_gru", 3))((fine, fine))
