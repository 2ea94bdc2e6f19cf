"""The Neumann series: each sample for itself, at any scale, and honest when it fails."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rpanoptic.recurrent import AdjointConfig, AdjointRecord, StopReason, solve_adjoint


def diagonal_vjp(factors: Tensor):
    """J^T of a system in which sample i is multiplied by ``factors[i]``."""
    return lambda vectors: (factors[:, None] * vectors[0],)


def solve(factors: list[float], gradient: Tensor, **limits):
    record = AdjointRecord()
    vjp = diagonal_vjp(torch.tensor(factors, dtype=gradient.dtype))
    (total,) = solve_adjoint(vjp, (gradient,), AdjointConfig(**limits), record)
    return total, record


def test_geometric_series_and_its_record() -> None:
    gradient = torch.ones(3, 2, dtype=torch.float64)
    total, record = solve([0.5, 0.9, 0.0], gradient, max_steps=1000, tol=1e-12)
    expected = torch.tensor([2.0, 10.0, 1.0], dtype=torch.float64)
    # What is cut off is at most tol / (1 - 0.9).
    torch.testing.assert_close(total[:, 0], expected, rtol=1e-10, atol=0)
    # 0.5^40 < 1e-12 < 0.5^39, 0.9^263 < 1e-12 < 0.9^262.
    assert record.terms.tolist() == [40, 263, 1]
    assert record.reason.tolist() == [StopReason.CONVERGED] * 3
    assert (record.residual <= 1e-12).all()


def test_a_sample_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    factors = [0.3, 0.99, 1.5, float("nan"), 0.7]
    gradient = torch.randn(5, 4)
    together, record = solve(factors, gradient, max_steps=30, tol=1e-4)
    for i, factor in enumerate(factors):
        alone, record_alone = solve([factor], gradient[i : i + 1], max_steps=30, tol=1e-4)
        assert torch.equal(together[i : i + 1], alone)
        assert record.terms[i] == record_alone.terms[0]
        assert record.reason[i] == record_alone.reason[0]


@pytest.mark.parametrize("scale", [65536.0, 2.0**-20])
def test_a_loss_scale_changes_nothing(scale: float) -> None:
    torch.manual_seed(0)
    gradient = torch.randn(4, 8)
    factors = [0.2, 0.9, 0.99, 1.3]
    plain, record = solve(factors, gradient, max_steps=15)
    scaled, record_scaled = solve(factors, scale * gradient, max_steps=15)
    # Scales are powers of two: not a bit of the mantissa may change.
    assert torch.equal(scaled, scale * plain)
    assert torch.equal(record.terms, record_scaled.terms)


def test_divergence_keeps_the_last_accepted_sum() -> None:
    gradient = torch.ones(2, 3)
    total, record = solve([2.0, 0.5], gradient, max_steps=15, tol=1e-3)
    assert torch.equal(total[0], gradient[0])
    assert record.reason.tolist() == [StopReason.DIVERGED, StopReason.CONVERGED]
    assert record.terms[0] == 0


def test_slow_divergence_is_found_too() -> None:
    # 1.05^k exceeds the limit in all, 10, after 47 terms; no single step is steep.
    _, record = solve([1.05], torch.ones(1, 3), max_steps=200)
    assert record.reason.tolist() == [StopReason.DIVERGED]
    assert record.terms.tolist() == [47]


def test_what_is_not_finite_is_flagged_and_stays_apart() -> None:
    gradient = torch.ones(3, 2)
    gradient[1, 0] = float("inf")
    total, record = solve([float("nan"), 0.5, 0.5], gradient, max_steps=60)
    bad = StopReason.NON_FINITE
    assert record.reason.tolist() == [bad, bad, StopReason.CONVERGED]
    assert torch.equal(total[0], gradient[0])
    torch.testing.assert_close(total[2], torch.full((2,), 2.0))


def test_zero_gradient_is_solved_at_once() -> None:
    total, record = solve([0.9], torch.zeros(1, 3), max_steps=15)
    assert torch.equal(total, torch.zeros(1, 3))
    assert record.reason.tolist() == [StopReason.CONVERGED]
    assert record.terms.tolist() == [0]


def test_no_samples() -> None:
    total, record = solve([], torch.zeros(0, 3), max_steps=15)
    assert total.shape == (0, 3) and record.terms.shape == (0,)


def test_half_precision_norms_do_not_overflow() -> None:
    # The square of 60000 is beyond float16, whose largest number is 65504.
    gradient = torch.full((1, 4), 30000.0, dtype=torch.float16)
    total, record = solve([0.5], gradient, max_steps=15, tol=1e-2)
    assert record.reason.tolist() == [StopReason.CONVERGED]
    assert torch.isfinite(total).all()


@pytest.mark.parametrize(
    ("limits", "word"), [({"max_steps": -1}, "max_steps"), ({"tol": -1.0}, "tol")]
)
def test_impossible_limits_are_named(limits, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        AdjointConfig(**limits)
