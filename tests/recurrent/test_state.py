"""States as tuples of tensors, and as rows."""

from __future__ import annotations

import pytest
import torch

from rpanoptic.recurrent.state import Packing, relative_change, row_products, sample_norms

SHAPES = [(2, 3, 4, 5), (2, 7), (2, 1, 2, 2)]


def make(channels_last: bool = False) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    tensors = [torch.randn(shape) for shape in SHAPES]
    if channels_last:
        tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    return tuple(tensors)


@pytest.mark.parametrize("channels_last", [False, True])
def test_rows_and_back(channels_last: bool) -> None:
    tensors = make(channels_last)
    packing = Packing(tensors)
    rows = packing.pack(tensors)
    assert rows.shape == (2, 60 + 7 + 4)
    for one, other in zip(packing.unpack(rows), tensors, strict=True):
        assert torch.equal(one, other) and one.stride() == other.stride()


def test_numbers_keep_their_places_whatever_the_layout_of_a_gradient() -> None:
    tensors = make(channels_last=True)
    other_layout = tuple(t.contiguous() for t in tensors)
    packing = Packing(tensors)
    assert torch.equal(packing.pack(other_layout), packing.pack(tensors))


def test_types_are_kept_and_rows_hold_the_widest() -> None:
    half, single, double = make()
    tensors = (half.half(), single, double.double())
    packing = Packing(tensors)
    rows = packing.pack(tensors)
    assert rows.dtype == torch.float64
    assert [t.dtype for t in packing.unpack(rows)] == [t.dtype for t in tensors]
    assert Packing((half.half(),)).pack((half.half(),)).dtype == torch.float32


def test_norms_of_samples_are_those_of_their_rows() -> None:
    half, single, double = make()
    tensors = (half.half(), single, double.double())
    rows = Packing(tensors).pack(tensors)
    torch.testing.assert_close(sample_norms(tensors), rows.norm(dim=1))


@pytest.mark.parametrize("shapes", [[(0, 3, 2, 2)], [(2, 3, 0, 2)], [(2, 0), (2, 4)]])
def test_nothing_to_lay_out(shapes) -> None:
    tensors = tuple(torch.ones(shape) for shape in shapes)
    packing = Packing(tensors)
    assert [t.shape for t in packing.unpack(packing.pack(tensors))] == [t.shape for t in tensors]
    assert sample_norms(tensors).shape == shapes[0][:1]


def test_relative_change_at_and_around_zero() -> None:
    zero, one = torch.zeros(1, 3), torch.ones(1, 3)
    assert relative_change(one, one) == 0 and relative_change(zero, zero) == 0
    assert relative_change(zero, one) == 1 and relative_change(one, zero) == 1
    assert relative_change(one, one * float("nan")).isnan()


def test_products_of_rows_stay_precise_under_autocast() -> None:
    rows = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    expected = row_products(rows, rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(row_products(rows, rows), expected)
