"""Time decay against its closed form."""

from __future__ import annotations

import pytest
import torch

from rpanoptic.recurrent import build_cell


def test_equals_the_sum_that_it_stands_for() -> None:
    """T steps give the geometric sum u (1 + tau + ... + tau^(T - 1))."""
    torch.manual_seed(0)
    cell = build_cell("time_decay", 3, tau_init=-0.7).double()
    drive = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    state = cell.initial_state(drive)
    for steps in range(1, 6):
        state = cell(drive, state)
        tau = cell.tau.detach()
        expected = drive * (1 - tau**steps) / (1 - tau)
        # Two formulas for the same float64 numbers differ by rounding alone.
        torch.testing.assert_close(state, expected, rtol=1e-12, atol=1e-12)


def test_settles_where_it_should() -> None:
    cell = build_cell("time_decay", 1, tau_init=0.5).double()
    drive = torch.randn(1, 1, 2, 2, dtype=torch.float64)
    state = cell.initial_state(drive)
    for _ in range(60):
        state = cell(drive, state)
    # 2^-60 of the way is left.
    torch.testing.assert_close(state, 2 * drive, rtol=1e-12, atol=0)


def test_starts_as_a_bypass_with_one_parameter() -> None:
    cell = build_cell("time_decay", 16)
    assert [p.numel() for p in cell.parameters()] == [1]
    drive, state = torch.randn(2, 1, 16, 3, 3)
    assert torch.equal(cell(drive, state), drive)


def test_a_drive_of_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"drive_channels must equal channels \(8\).*got 4"):
        build_cell("time_decay", 8, drive_channels=4)
