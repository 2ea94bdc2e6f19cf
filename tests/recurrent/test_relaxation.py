"""The forward run: tolerance, frozen samples, acceleration."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rpanoptic.recurrent import ForwardConfig, RecurrentBlock, RecurrentCell
from rpanoptic.recurrent.state import relative_change, to_tensors

from .helpers import CELLS_UNDER_TEST, contractive_hgru, flat, settle


class Decay(RecurrentCell):
    """h' = a h + x; the factor a stands in the drive's second channel, one a sample."""

    def __init__(self) -> None:
        super().__init__(1, drive_channels=2)

    def forward(self, drive: Tensor, state: Tensor) -> Tensor:  # type: ignore[override]
        return drive[:, 1:] * state + drive[:, :1]


def decay_drive(factors: list[float]) -> Tensor:
    drive = torch.ones(len(factors), 2, 3, 3, dtype=torch.float64)
    drive[:, 1] = torch.tensor(factors, dtype=torch.float64)[:, None, None]
    return drive


def run(drive: Tensor, steps: int, **options) -> tuple[Tensor, RecurrentBlock]:
    config = ForwardConfig(**options)
    block = RecurrentBlock(
        Decay(), steps=steps, gradient="rbp", forward=config, on_failure="record"
    )
    with torch.no_grad():
        return block(drive).output, block


def test_samples_stop_where_they_are_settled() -> None:
    factors = [0.0, 0.5, 0.9, 1.0]
    output, block = run(decay_drive(factors), 200, tol=1e-3)
    # h_t = (1 - a^t) / (1 - a): the relative change a^(t-1) (1 - a) / (1 - a^t) of step t.
    expected = []
    for a in factors:
        taken = next(
            (t for t in range(1, 200) if a ** (t - 1) <= 1e-3 * sum(a**k for k in range(t))), 199
        )
        expected.append(taken + 1)  # and the last step, which all take
    assert block.last.steps.tolist() == expected
    assert block.last.steps.tolist()[:3] == [3, 11, 46]
    assert (block.last.residual[:3] <= 1e-3).all() and block.last.residual[3] > 1e-3
    assert output[3].unique().tolist() == [200.0]


def test_a_sample_alone_and_in_a_batch() -> None:
    factors = [0.0, 0.5, 0.9, 0.99]
    together, block = run(decay_drive(factors), 50, tol=1e-3)
    for i, factor in enumerate(factors):
        alone, own = run(decay_drive([factor]), 50, tol=1e-3)
        assert torch.equal(together[i : i + 1], alone)
        assert block.last.steps[i] == own.last.steps[0]


def test_stops_early_once_all_are_settled() -> None:
    calls = 0

    class Counting(Decay):
        def forward(self, drive: Tensor, state: Tensor) -> Tensor:  # type: ignore[override]
            nonlocal calls
            calls += 1
            return super().forward(drive, state)

    block = RecurrentBlock(Counting(), steps=1000, forward=ForwardConfig(tol=1e-3))
    with torch.no_grad():
        block(decay_drive([0.5, 0.2]))
    assert calls == int(block.last.steps.max()) == 11


@pytest.mark.parametrize("method", ["bptt", "rbp"])
def test_gradient_of_a_run_with_tolerance(method: str) -> None:
    cell = contractive_hgru(0)
    drive = torch.randn(3, 4, 3, 4, dtype=torch.float64)
    drive[1] *= 10
    gradients = []
    for forward in (ForwardConfig(tol=1e-12), ForwardConfig()):
        block = RecurrentBlock(cell, steps=300, gradient=method, forward=forward)
        leaf = drive.clone().requires_grad_()
        gradients.append(torch.autograd.grad(block(leaf).output.sin().sum(), leaf)[0])
    # States are within 1e-12 / (1 - rho) of each other.
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", CELLS_UNDER_TEST)
def test_acceleration_comes_to_the_same_equilibrium_in_fewer_steps(name: str) -> None:
    cell = CELLS_UNDER_TEST[name](0)
    drive = torch.randn(2, cell.drive_channels, 3, 4, dtype=torch.float64)
    blocks = [
        RecurrentBlock(
            cell, steps=400, gradient="rbp", forward=ForwardConfig(tol=1e-10, acceleration=how)
        )
        for how in ("anderson", "none")
    ]
    with torch.no_grad():
        accelerated, plain = (block(drive) for block in blocks)
    expected = to_tensors(settle(cell, drive))
    for one, other in zip(to_tensors(accelerated.state), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
    assert (accelerated.diagnostics.steps <= plain.diagnostics.steps).all()
    assert relative_change(cell(drive, accelerated.state), accelerated.state).max() < 1e-9


def test_acceleration_is_worth_it_where_settling_is_slow() -> None:
    drive = decay_drive([0.98, 0.9])
    steps = {}
    for how in ("anderson", "none"):
        output, block = run(drive, 2000, tol=1e-8, acceleration=how)
        steps[how] = block.last.steps
        torch.testing.assert_close(output[0].mean(), torch.tensor(50.0).double(), rtol=1e-5, atol=0)
    assert (10 * steps["anderson"] < steps["none"]).all()


def test_an_accelerated_sample_alone_and_in_a_batch() -> None:
    cell = contractive_hgru(0)
    drive = torch.randn(3, 4, 3, 4, dtype=torch.float64)
    drive[1] *= 10
    forward = ForwardConfig(tol=1e-6, acceleration="anderson", memory=3)
    block = RecurrentBlock(cell, steps=100, gradient="rbp", forward=forward)
    with torch.no_grad():
        together = block(drive)
        steps = together.diagnostics.steps
        for i in range(3):
            alone = block(drive[i : i + 1])
            # Convolutions of one sample may round in another order than those of three.
            torch.testing.assert_close(alone.output, together.output[i : i + 1])
            assert alone.diagnostics.steps[0] == steps[i]


@pytest.mark.parametrize("acceleration", ["none", "anderson"])
def test_what_is_not_finite_stays_apart(acceleration: str) -> None:
    drive = decay_drive([0.5, float("nan"), 0.2])
    output, block = run(drive, 30, tol=1e-6, acceleration=acceleration)
    alone, _ = run(drive[:1], 30, tol=1e-6, acceleration=acceleration)
    torch.testing.assert_close(output[:1], alone)
    assert block.last.finite.tolist() == [True, False, True]


def test_acceleration_solves_the_equation_and_does_not_follow_the_recurrence() -> None:
    class Bistable(RecurrentCell):
        def forward(self, drive: Tensor, state: Tensor) -> Tensor:  # type: ignore[override]
            return torch.tanh(2 * state) + 1e-3 * drive

    drive = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    found = {}
    for how in ("none", "anderson"):
        forward = ForwardConfig(acceleration=how)
        block = RecurrentBlock(Bistable(1), steps=60, gradient="rbp", forward=forward)
        with torch.no_grad():
            found[how] = block(drive).output.item()
    # From 0 the recurrence leaves the unstable equilibrium beside it, as ForwardConfig says.
    assert abs(found["none"] - 0.958) < 1e-2 and abs(found["anderson"] + 1e-3) < 1e-6


@pytest.mark.parametrize("method", ["bptt", "tbptt", "checkpointed_bptt", "cbptt"])
def test_methods_through_time_refuse_acceleration(method: str) -> None:
    with pytest.raises(ValueError, match="acceleration 'anderson'"):
        RecurrentBlock(Decay(), gradient=method, forward=ForwardConfig(acceleration="anderson"))


def test_no_samples() -> None:
    for acceleration in ("none", "anderson"):
        config = ForwardConfig(tol=1e-3, acceleration=acceleration)
        block = RecurrentBlock(contractive_hgru(0), gradient="rbp", forward=config)
        output = block(torch.zeros(0, 4, 3, 3, dtype=torch.float64))
        output.output.sum().backward()
        assert output.diagnostics.steps.shape == (0,) and flat(output.state).numel() == 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"tol": -1.0}, "tol"),
        ({"acceleration": "andersen"}, "anderson"),
        ({"memory": 0}, "memory"),
        ({"memory": 2.5}, "memory"),
        ({"check_every": -1}, "check_every"),
    ],
)
def test_impossible_options_are_named(options, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        ForwardConfig(**options)
