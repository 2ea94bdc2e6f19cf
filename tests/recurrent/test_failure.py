"""What happens where no equilibrium is reached, or its adjoint system has no solution."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from rpanoptic.recurrent import (
    AdjointConfig,
    EquilibriumError,
    ForwardConfig,
    GradientConfig,
    RecurrentBlock,
    RecurrentCell,
    StopReason,
)


class Linear(RecurrentCell):
    """h' = w a h + x, with a factor a of each sample's own in the drive's second channel."""

    def __init__(self) -> None:
        super().__init__(1, drive_channels=2)
        self.weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, drive: Tensor, state: Tensor) -> Tensor:  # type: ignore[override]
        return self.weight * drive[:, 1:] * state + drive[:, :1]


def drive_of(factors: list[float]) -> Tensor:
    drive = torch.ones(len(factors), 2, 2, 2, dtype=torch.float64)
    drive[:, 1] = torch.tensor(factors, dtype=torch.float64)[:, None, None]
    return drive.requires_grad_()


def gradient(drive: Tensor, **options) -> tuple[Tensor, RecurrentBlock]:
    """The drive's gradient of each sample, its first pixel."""
    block = RecurrentBlock(Linear(), **{"steps": 12, "gradient": "rbp", **options})
    block(drive).output.sum().backward()
    return drive.grad[:, :, 0, 0], block


@pytest.mark.parametrize("backend", ["tape", "functional"])
def test_divergence_warns_and_stands_in_the_record(backend: str) -> None:
    with pytest.warns(RuntimeWarning, match="adjoint solve diverged in some samples"):
        found, block = gradient(drive_of([0.5, -2.0]), backend=backend)
    assert torch.isfinite(found).all()
    record = block.last.adjoint
    assert record.failed.tolist() == [False, True]
    assert record.reason[1] == StopReason.DIVERGED
    assert record.terms[1] == 0  # u = g, the one-step gradient
    assert found[1, 0] == 1.0


@pytest.mark.parametrize("backend", ["tape", "functional"])
def test_raise(backend: str) -> None:
    with pytest.raises(EquilibriumError, match="adjoint solve diverged in 1 of 2 samples"):
        gradient(drive_of([0.5, -2.0]), on_failure="raise", backend=backend)
    with pytest.raises(EquilibriumError, match=r"1e-06 relative change in 1 of 2 samples"):
        gradient(
            drive_of([0.1, 0.9]),
            on_failure="raise",
            forward=ForwardConfig(tol=1e-6),
            backend=backend,
        )
    with pytest.raises(EquilibriumError, match="a finite state in 1 of 2 samples"):
        gradient(drive_of([0.1, float("inf")]), on_failure="raise", backend=backend)


def test_record_says_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, block = gradient(drive_of([0.5, -2.0]), on_failure="record")
    assert block.last.adjoint.failed.tolist() == [False, True]


def test_no_warning_where_nothing_fails() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Too few terms and too few steps for an exact gradient are a choice, not a failure.
        gradient(drive_of([0.5, 0.9]), adjoint=AdjointConfig(max_steps=2))


@pytest.mark.parametrize("truncation", [1, 3, 12, 20])
def test_fall_back_gives_failed_samples_the_gradient_of_truncated_bptt(truncation: int) -> None:
    factors = [0.5, -2.0, 0.4, float("nan")]
    exact = AdjointConfig(max_steps=200, tol=1e-14)
    options = {"truncation": truncation, "adjoint": exact, "steps": 12}
    found, block = gradient(drive_of(factors), on_failure="tbptt", **options)
    truncated, _ = gradient(drive_of(factors), gradient="tbptt", **options)
    implicit, _ = gradient(drive_of(factors), on_failure="record", **options)
    torch.testing.assert_close(found[1], truncated[1], rtol=1e-12, atol=0)
    torch.testing.assert_close(found[[0, 2]], implicit[[0, 2]], rtol=1e-12, atol=0)
    assert (truncation == 1) == torch.equal(implicit[1], truncated[1])
    assert block.last.adjoint.failed[:3].tolist() == [False, True, False]
    assert not block.last.finite[3]


def test_fall_back_where_the_forward_run_did_not_settle() -> None:
    options = {"truncation": 4, "forward": ForwardConfig(tol=1e-2), "steps": 12}
    found, _ = gradient(drive_of([0.1, 0.99]), on_failure="tbptt", **options)
    truncated, _ = gradient(drive_of([0.1, 0.99]), gradient="tbptt", **options)
    implicit, block = gradient(drive_of([0.1, 0.99]), on_failure="record", **options)
    assert block.last.residual[0] <= 1e-2 < block.last.residual[1]
    torch.testing.assert_close(found[0], implicit[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(found[1], truncated[1], rtol=1e-12, atol=0)


def test_fall_back_reaches_the_parameters_too() -> None:
    weights = {}
    for options in ({"on_failure": "tbptt"}, {"gradient": "tbptt"}):
        _, block = gradient(drive_of([-2.0]), truncation=3, **options)
        weights["gradient" in options] = block.cell.weight.grad
    torch.testing.assert_close(weights[True], weights[False], rtol=1e-12, atol=0)


def test_an_infinite_gradient_is_no_failure_and_reaches_the_parameters() -> None:
    # As under a loss scale that is too large: the scaler must see it, and nothing is to be raised.
    block = RecurrentBlock(Linear(), steps=12, gradient="rbp", on_failure="raise")
    (block(drive_of([0.5])).output * float("inf")).sum().backward()
    assert not torch.isfinite(block.cell.weight.grad)


def test_a_state_that_falls_to_zero_is_no_failure() -> None:
    class Zero(RecurrentCell):
        def forward(self, drive: Tensor, state: Tensor) -> Tensor:  # type: ignore[override]
            return 0 * (drive + state)

    block = RecurrentBlock(Zero(1), steps=1, gradient="rbp", on_failure="raise")
    block(torch.ones(1, 1, 2, 2, requires_grad=True), state=torch.full((1, 1, 2, 2), 100.0))
    assert block.last.residual == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on_failure": "ignore"}, ["on_failure", "record", "warn", "raise", "tbptt"]),
        ({"backend": "graph"}, ["backend", "tape", "functional"]),
        ({"truncation": 0}, ["truncation", "1"]),
        ({"backend": "functional", "on_failure": "tbptt"}, ["tbptt", "tape"]),
        ({"backend": "functional", "adjoint": AdjointConfig(solver="cg")}, ["cg", "tape"]),
        (
            {"on_failure": "tbptt", "forward": ForwardConfig(acceleration="anderson")},
            ["tbptt", "acceleration"],
        ),
    ],
)
def test_impossible_options_are_named(options, words) -> None:
    with pytest.raises(ValueError) as caught:
        GradientConfig(**options)
    assert all(word in str(caught.value) for word in words)


def test_cg_rbp_has_the_tape_only() -> None:
    with pytest.raises(ValueError, match=r"'cg_rbp'.*'tape'"):
        RecurrentBlock(Linear(), gradient="cg_rbp", backend="functional")
