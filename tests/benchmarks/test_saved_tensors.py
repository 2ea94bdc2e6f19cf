from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rpanoptic.benchmarks.saved_tensors import saved_peak
from rpanoptic.recurrent import RecurrentBlock, build_cell

KIB = 1024


def leaf(kib: int) -> Tensor:
    return torch.ones(kib * KIB // 4, requires_grad=True)


def test_a_storage_counts_once() -> None:
    x = leaf(4)
    # Both factors of the square, and a view of the same memory.
    assert saved_peak(lambda: (x * x).sum().backward()) == 4 * KIB
    assert saved_peak(lambda: (x * x.view(2, -1).flatten()).sum().backward()) == 4 * KIB
    assert saved_peak(lambda: (x * x).sum().backward(), besides=[x]) == 0
    assert saved_peak(lambda: (x + x).sum().backward()) == 0


def test_sums_what_is_held_together() -> None:
    x = leaf(4)

    def chain() -> None:
        y = x
        for _ in range(3):
            y = y.exp()  # saves its result
        y.sum().backward()

    assert saved_peak(chain) == 12 * KIB

    def one_after_the_other() -> None:
        for _ in range(3):
            x.exp().sum().backward()

    assert saved_peak(one_after_the_other) == 4 * KIB


def test_gradients_are_what_they_were() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Softplus(), nn.Conv2d(3, 1, 3))
    x = torch.randn(2, 2, 8, 8)
    layer(x).sum().backward()
    expected = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    assert saved_peak(lambda: layer(x).sum().backward(), layer.parameters()) > 0
    for parameter, gradient in zip(layer.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize(("gradient", "grows"), [("bptt", True), ("crbp", False)])
def test_steps_under_both_kinds_of_gradient(gradient: str, grows: bool) -> None:
    torch.manual_seed(0)
    block = RecurrentBlock(build_cell("hgru", 4), gradient=gradient)
    drive = torch.randn(1, 4, 8, 8, requires_grad=True)

    def peak(steps: int) -> int:
        def train() -> None:
            result = block(drive, steps=steps)
            (result.output.sum() + (result.penalty or 0.0)).backward()

        return saved_peak(train, block.parameters())

    few, many, more = (peak(steps) for steps in (4, 8, 12))
    assert (few < many) is grows
    # Exact: every further step saves as much as the one before.
    assert more - many == many - few
