"""Halting at inference: settled samples leave the batch, and nobody else notices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rpanoptic.recurrent import ForwardConfig, RecurrentBlock, RecurrentCell, build_cell
from rpanoptic.recurrent.state import State, relative_change, to_tensors

from .helpers import CELLS_UNDER_TEST, contractive_hgru
from .test_relaxation import Decay, decay_drive


class TupleDrive(RecurrentCell):
    """Two decays side by side: a tuple drives a tuple."""

    def forward(self, drive: Any, state: State) -> State:
        (a, b), (x, y) = to_tensors(state), drive
        return 0.5 * a + x, 0.7 * b + 0.1 * a[..., :2, :2] + y

    def check_drive(self, drive: Any) -> None:
        pass

    def initial_state(self, drive: Any) -> State:
        return tuple(torch.zeros_like(tensor) for tensor in drive)


def block_of(cell: RecurrentCell, tol: float, steps: int = 100, **options: Any) -> RecurrentBlock:
    block = RecurrentBlock(cell, steps=steps, halt_tol=tol, gradient="rbp", **options)
    return block.eval()


def count_samples(cell: RecurrentCell) -> list[int]:
    """Filled with the number of samples of each step that the cell takes from now on."""
    counts: list[int] = []
    cell.register_forward_hook(lambda _, args, out: counts.append(len(to_tensors(args[0])[0])))
    return counts


@torch.no_grad()
def test_steps_are_those_of_the_rule_and_no_sample_pays_for_another() -> None:
    factors = [0.5, 1.0, 0.0, 0.9]
    cell, drive = Decay(), decay_drive(factors)
    counts = count_samples(cell)
    output = block_of(cell, 1e-3, steps=60)(drive)
    # h_t = (1 - a^t) / (1 - a): step t changes it by a^(t-1), relatively a^(t-1) / h_t.
    expected = [
        next((t for t in range(1, 60) if a ** (t - 1) <= 1e-3 * sum(a**k for k in range(t))), 60)
        for a in factors
    ]
    assert output.diagnostics.steps.tolist() == expected == [10, 60, 2, 45]
    # Each step runs the samples that have steps to take, and nothing else runs.
    assert counts == [sum(steps > t for steps in expected) for t in range(60)]
    assert sum(counts) == sum(expected)
    for i, (a, steps) in enumerate(zip(factors, expected, strict=True)):
        by_hand = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
        for _ in range(steps):
            before, by_hand = by_hand, cell(drive[i : i + 1], by_hand)
        assert torch.equal(output.output[i : i + 1], by_hand), a
        assert output.diagnostics.residual[i] == relative_change(by_hand, before)[0]
    assert (output.diagnostics.residual[[0, 2, 3]] <= 1e-3).all()
    assert output.diagnostics.finite.all()


@torch.no_grad()
@pytest.mark.parametrize("name", [*CELLS_UNDER_TEST, "tuple drive"])
def test_a_sample_alone_and_in_a_batch(name: str) -> None:
    torch.manual_seed(3)
    if name == "tuple drive":
        cell: RecurrentCell = TupleDrive(2)
        scale = torch.tensor([0.01, 1.0, 30.0]).double()[:, None, None, None]
        sizes = ((3, 2, 4, 4), (3, 2, 2, 2))
        drive: Any = tuple(scale * torch.randn(*size).double() for size in sizes)
        drive[1][0] *= 50  # slow, and a large part of the first sample
    else:
        cell = CELLS_UNDER_TEST[name](0)
        drive = torch.randn(3, cell.drive_channels, 3, 4, dtype=torch.float64)
        drive[1] *= 10
    block = block_of(cell, 1e-4, steps=300)
    together = block(drive)
    steps = together.diagnostics.steps
    assert len(set(steps.tolist())) > 1, "all stop together: nothing is tested"
    for i in range(3):
        alone = block(_samples(drive, slice(i, i + 1)))
        assert alone.diagnostics.steps.tolist() == [steps[i]]
        for one, other in zip(to_tensors(alone.state), to_tensors(together.state), strict=True):
            # Convolutions of one sample may round in another order than those of three.
            torch.testing.assert_close(one, other[i : i + 1], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            alone.diagnostics.residual, together.diagnostics.residual[i : i + 1], rtol=1e-6, atol=0
        )


def _samples(drive: Any, which: slice) -> Any:
    return drive[which] if isinstance(drive, Tensor) else tuple(t[which] for t in drive)


@torch.no_grad()
def test_without_a_tolerance_all_take_all_steps() -> None:
    cell, drive = Decay(), decay_drive([0.0, 0.9])
    counts = count_samples(cell)
    plain = block_of(cell, 0.0, steps=7)(drive)
    assert plain.diagnostics.steps.tolist() == [7, 7] and counts == [2] * 7
    # One that nobody reaches changes nothing, to the last bit.
    never = block_of(cell, 1e-300, steps=7)(drive[1:])
    assert torch.equal(never.output, plain.output[1:])
    assert never.diagnostics.steps.tolist() == [7]


@torch.no_grad()
def test_steps_at_test_are_the_most() -> None:
    block = block_of(Decay(), 1e-3, steps=3, steps_test=20)
    drive = decay_drive([0.0, 0.9])
    assert block(drive).diagnostics.steps.tolist() == [2, 20]
    assert block(drive, steps=1).diagnostics.steps.tolist() == [1, 1]


def test_neither_training_nor_gradients_halt() -> None:
    block = block_of(contractive_hgru(0), 0.5, steps=6)
    drive = torch.randn(2, 4, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        assert (block(drive).diagnostics.steps < 6).all()
        assert block.train()(drive).diagnostics.steps.tolist() == [6, 6]
    output = block.eval()(drive)
    assert output.diagnostics.steps.tolist() == [6, 6] and output.output.requires_grad


@torch.no_grad()
def test_the_tolerance_of_the_forward_run_gives_way() -> None:
    drive = decay_drive([0.5, 0.9])
    block = block_of(Decay(), 1e-3, steps=60, forward=ForwardConfig(tol=0.1))
    assert block(drive).diagnostics.steps.tolist() == [10, 45]


@torch.no_grad()
def test_what_is_not_finite_stops_and_stays_apart() -> None:
    cell, drive = Decay(), decay_drive([0.5, float("nan"), 1e200, 0.2])
    counts = count_samples(cell)
    output = block_of(cell, 1e-6, steps=40)(drive)
    assert output.diagnostics.finite.tolist() == [True, False, False, True]
    # The third is 1 + 1e200 after the second step, too large for its norm.
    assert output.diagnostics.steps.tolist() == [20, 1, 2, 10]
    assert sum(counts) == 20 + 1 + 2 + 10
    alone = block_of(cell, 1e-6, steps=40)(drive[:1])
    assert torch.equal(alone.output, output.output[:1])


@torch.no_grad()
def test_an_infinite_first_state_may_recover() -> None:
    class Saturating(RecurrentCell):
        def forward(self, drive: Tensor, state: Tensor) -> Tensor:  # type: ignore[override]
            return torch.tanh(0.5 * state) + drive

    block = block_of(Saturating(1), 1e-3)
    state = torch.full((1, 1, 2, 2), torch.inf)
    output = block(torch.zeros(1, 1, 2, 2), state)
    assert output.diagnostics.finite.all() and output.diagnostics.steps[0] > 1


@torch.no_grad()
def test_no_samples() -> None:
    output = block_of(contractive_hgru(0), 1e-3)(torch.zeros(0, 4, 3, 3, dtype=torch.float64))
    assert output.output.shape == (0, 4, 3, 3)
    assert output.diagnostics.steps.shape == (0,)
    assert output.diagnostics.steps.dtype == torch.int64


@torch.no_grad()
def test_memory_format_is_kept() -> None:
    cell = build_cell("conv_gru", 4)
    drive = torch.randn(3, 4, 5, 5) * torch.tensor([0.01, 1.0, 9.0])[:, None, None, None]
    drive = drive.contiguous(memory_format=torch.channels_last)
    output = block_of(cell, 1e-2)(drive)
    assert len(set(output.diagnostics.steps.tolist())) > 1
    assert output.output.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_compiled_and_transformed_runs_take_all_steps() -> None:
    class Halving(RecurrentCell):
        def forward(self, drive: Tensor, state: Tensor) -> Tensor:  # type: ignore[override]
            return 0.5 * state + drive

    block, drive = block_of(Halving(1), 0.5, steps=5), torch.ones(2, 1, 3, 3)
    assert (block(drive).diagnostics.steps < 5).all()
    mapped = torch.func.vmap(lambda one: block(one[None]).output[0])(drive)
    compiled = torch.compile(block, backend="eager", fullgraph=True)(drive)
    full = block_of(Halving(1), 0.0, steps=5)(drive).output
    assert torch.equal(mapped, full) and torch.equal(compiled.output, full)
    assert compiled.diagnostics.steps.tolist() == [5, 5]


@pytest.mark.parametrize(
    ("cell", "options", "words"),
    [
        ("hgru", {"halt_tol": -0.1}, "halt_tol must be a number of at least 0"),
        ("hgru", {"halt_tol": float("nan")}, "halt_tol must be a number"),
        ("conv_gru BN", {"halt_tol": 0.1}, "halt_tol needs .* norm 'BN'"),
        (
            "hgru",
            {"halt_tol": 0.1, "forward": ForwardConfig(acceleration="anderson")},
            "halt_tol needs forward acceleration 'none', not 'anderson'",
        ),
    ],
)
def test_impossible_options_are_named(cell: str, options: dict[str, Any], words: str) -> None:
    name, *norm = cell.split()
    made = build_cell(name, 4, **({"norm": norm[0]} if norm else {}))
    with pytest.raises(ValueError, match=words):
        RecurrentBlock(made, gradient="rbp", **options)


def test_batch_norm_with_running_statistics_keeps_samples_apart() -> None:
    class Normed(Decay):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(1)

    assert block_of(Normed(), 0.1).halt_tol == 0.1


@torch.no_grad()
def test_under_autocast_no_sample_changes_another() -> None:
    torch.manual_seed(0)
    block = block_of(build_cell("conv_gru", 4), 0.02)
    drive = torch.randn(3, 4, 5, 5) * torch.tensor([0.01, 1.0, 9.0])[:, None, None, None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        together = block(drive)
        steps = together.diagnostics.steps
        assert len(set(steps.tolist())) > 1 and (steps < 100).all()
        for i in range(3):
            alone = block(drive[i : i + 1])
            assert alone.diagnostics.steps[0] == steps[i]
            # To a rounding of bfloat16, 2^-8 of the largest values, which are about 1.
            torch.testing.assert_close(
                alone.output[0], together.output[i], rtol=1e-2, atol=1e-2, check_dtype=True
            )
