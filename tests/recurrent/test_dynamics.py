"""RecurrentBlock: numbers of steps, given states, diagnostics."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from rpanoptic.recurrent import (
    GRADIENTS,
    AdjointConfig,
    ForwardConfig,
    LipschitzPenalty,
    RecurrentBlock,
    RecurrentCell,
    build_cell,
)

from .helpers import assert_gradients_close, contractive, contractive_hgru, settle

DRIVE = torch.linspace(-1, 1, 4 * 9, dtype=torch.float64).view(1, 4, 3, 3)


def test_steps_in_training_evaluation_and_by_call() -> None:
    block = RecurrentBlock(contractive_hgru(0), steps=3, steps_test=5)
    states = list(islice(block.iterate(DRIVE), 7))
    assert torch.equal(block(DRIVE).state, states[2]) and block.last.steps == 3
    assert torch.equal(block(DRIVE, steps=7).state, states[6]) and block.last.steps == 7
    block.eval()
    assert torch.equal(block(DRIVE).state, states[4]) and block.last.steps == 5
    block.steps_test = 0
    assert torch.equal(block(DRIVE).state, states[2])


@pytest.mark.parametrize("gradient", ["bptt", "checkpointed_bptt"])
def test_step_by_step(gradient: str) -> None:
    block = RecurrentBlock(contractive_hgru(0), steps=3, steps_test=5, gradient=gradient)
    parameters = list(block.parameters())
    outputs = list(block.run_stepwise(DRIVE))
    assert [int(o.diagnostics.steps) for o in outputs] == [1, 2, 3] and block.last.steps == 3
    for steps, output in enumerate(outputs, start=1):
        whole = block(DRIVE, steps=steps)
        assert torch.equal(output.state, whole.state)
        found = torch.autograd.grad(output.output.sin().sum(), parameters, retain_graph=True)
        assert_gradients_close(
            found, torch.autograd.grad(whole.output.sin().sum(), parameters), 1e-12
        )
    # On from there, on another drive.
    (_, state, _) = (output.state for output in outputs)
    further = list(block.run_stepwise(2 * DRIVE, 2, state=state, taken=2))
    assert [int(o.diagnostics.steps) for o in further] == [3, 4] and block.last.steps == 4
    assert torch.equal(further[-1].state, block(2 * DRIVE, state, steps=2).state)
    assert len(list(block.eval().run_stepwise(DRIVE))) == 5
    assert len(list(block.run_stepwise(DRIVE, steps=2))) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gradient": "crbp"}, "through all steps, 'bptt' or .*; got 'crbp'"),
        ({"gradient": "cbptt"}, "plain back-propagation .* got 'cbptt'"),
        ({"gradient": "bptt", "halt_tol": 0.1}, "no tolerance to stop at"),
        ({"gradient": "bptt", "forward": ForwardConfig(tol=0.1)}, "no tolerance to stop at"),
    ],
)
def test_what_cannot_be_run_step_by_step(options: dict[str, Any], words: str) -> None:
    block = RecurrentBlock(contractive_hgru(0), **options)
    with pytest.raises(ValueError, match=f"a run step by step needs .*{words}"):
        next(block.run_stepwise(DRIVE))


@pytest.mark.parametrize("gradient", list(GRADIENTS))
def test_a_given_state_is_gone_on_from(gradient: str) -> None:
    block = RecurrentBlock(contractive_hgru(0), steps=5, gradient=gradient)
    halfway = block(DRIVE, steps=2).state.detach()
    assert torch.equal(block(DRIVE, state=halfway, steps=3).state, block(DRIVE).state)


def test_residual_is_the_last_relative_change() -> None:
    block = RecurrentBlock(contractive_hgru(0), steps=6)
    *_, before, after = islice(block.iterate(DRIVE), 6)
    expected = (after - before).norm() / after.norm()
    torch.testing.assert_close(block(DRIVE).diagnostics.residual, expected[None])


def test_residual_vanishes_at_the_equilibrium() -> None:
    cell = contractive_hgru(0)
    block = RecurrentBlock(cell, steps=1)
    assert block(DRIVE, state=settle(cell, DRIVE)).diagnostics.residual < 1e-12
    assert block(DRIVE).diagnostics.residual > 0.1


def test_diagnostics_of_the_adjoint_come_with_the_backward_pass() -> None:
    block = RecurrentBlock(contractive_hgru(0), steps=6, gradient="rbp")
    output = block(DRIVE.expand(2, -1, -1, -1))
    assert output.diagnostics.adjoint.terms is None
    output.state.sum().backward()
    assert block.last.adjoint.terms.shape == (2,)
    assert (block.last.adjoint.terms > 0).all()


@pytest.mark.parametrize(
    "arguments", [{"steps": 0}, {"steps": 2.5}, {"steps": True}, {"steps_test": -1}]
)
def test_impossible_steps_are_named(arguments) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        RecurrentBlock(build_cell("hgru", 4), **arguments)


@pytest.mark.parametrize(
    ("steps", "got"),
    [
        (True, r"True \(bool\)"),
        (2.0, r"2\.0 \(float\)"),
        ("3", r"'3' \(str\)"),
        (np.int64(0), "0$"),
    ],
)
def test_what_is_no_number_of_steps_is_named_with_its_type(steps: Any, got: str) -> None:
    with pytest.raises(ValueError, match=f"^steps must be an integer of at least 1, got {got}"):
        RecurrentBlock(contractive_hgru(0), steps=steps)


def test_integers_of_numpy_are_numbers_of_steps() -> None:
    block = RecurrentBlock(contractive_hgru(0), steps=np.int64(3))
    assert type(block.steps) is int and block.steps == 3
    assert int(block(DRIVE, steps=np.int32(2)).diagnostics.steps[0]) == 2


def test_least_steps_of_a_cell() -> None:
    cell = contractive_hgru(0)
    cell.least_steps = 3
    for steps in ({"steps": 2}, {"steps": 3, "steps_test": 2}):
        with pytest.raises(ValueError, match=r"must be at least 3, got 2: .* output of HGRU"):
            RecurrentBlock(cell, **steps)
    block = RecurrentBlock(cell, steps=3)
    with pytest.raises(ValueError, match="steps must be at least 3, got 2"):
        block(DRIVE, steps=2)
    # From a state, the drive may have arrived before.
    halfway = block(DRIVE).state
    assert torch.equal(block(DRIVE, halfway, steps=1).state, block(DRIVE, steps=4).state)


def test_impossible_steps_by_call() -> None:
    with pytest.raises(ValueError, match="steps must be an integer of at least 1, got 0"):
        RecurrentBlock(contractive_hgru(0))(DRIVE, steps=0)


def test_a_drive_of_another_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(N, 4, H, W\).*got \(1, 3, 5, 5\)"):
        RecurrentBlock(contractive_hgru(0))(torch.zeros(1, 3, 5, 5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("cell", "state", "words"),
    [
        ("hgru", torch.zeros(1, 4, 2, 3), [r"(1, 4, 3, 3)", r"(1, 4, 2, 3)"]),
        ("hgru", (torch.zeros(1, 4, 3, 3),) * 2, [r"[(1, 4, 3, 3)]"]),
        ("conv_lstm", torch.zeros(1, 4, 3, 3), [r"[(1, 4, 3, 3), (1, 4, 3, 3)]"]),
    ],
)
def test_a_state_of_another_form_is_named(cell: str, state, words: list[str]) -> None:
    block = RecurrentBlock(build_cell(cell, 4))
    with pytest.raises(ValueError) as caught:
        block(torch.zeros(1, 4, 3, 3), state=state)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("backend", ["tape", "functional"])
def test_where_nothing_wants_a_gradient_there_is_none(backend: str) -> None:
    cell = contractive_hgru(0).requires_grad_(False)
    block = RecurrentBlock(cell, gradient="rbp", backend=backend)
    assert not block(DRIVE).output.requires_grad
    assert block(DRIVE.clone().requires_grad_()).output.requires_grad


@pytest.mark.parametrize("gradient", list(GRADIENTS))
def test_the_output_may_be_changed_in_place(gradient: str) -> None:
    block = RecurrentBlock(contractive_hgru(0), steps=4, gradient=gradient)
    parameters = list(block.parameters())
    expected = torch.autograd.grad(torch.relu(block(DRIVE).output - 0.1).sum(), parameters)
    output = block(DRIVE).output
    output -= 0.1
    assert_gradients_close(
        torch.autograd.grad(torch.relu_(output).sum(), parameters), expected, 1e-12
    )


@pytest.mark.parametrize("steps", [1, 2])
def test_penalty_of_a_state_of_which_a_part_is_constant(steps: int) -> None:
    class Half(RecurrentCell):
        def __init__(self) -> None:
            super().__init__(4)
            self.inner = contractive_hgru(0)

        def forward(self, drive, state):
            return self.inner(drive, state[0]), torch.ones_like(drive)

        def initial_state(self, drive):
            return torch.zeros_like(drive), torch.zeros_like(drive)

    block = RecurrentBlock(
        Half(), steps=steps, gradient="cbptt", penalty=LipschitzPenalty(0.1, 1.0)
    )
    block(DRIVE).penalty.backward()
    assert block.cell.inner.excitation.weight.grad.any()


def test_output_is_what_the_cell_reads_out() -> None:
    torch.manual_seed(0)
    block = RecurrentBlock(build_cell("intersection_rnn", 4), steps=3, gradient="bptt")
    output = block(torch.randn(2, 4, 3, 3))
    hidden, shown = output.state
    assert torch.equal(output.output, shown) and not torch.equal(output.output, hidden)


def test_all_of_the_state_takes_part_in_the_adjoint() -> None:
    """The memory of a ConvLSTM acts on later outputs; released C-RBP code leaves it out."""
    cell = contractive("conv_lstm", 0)
    drive = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    exact = AdjointConfig(max_steps=500, tol=1e-13)
    found = {}
    for gradient in ("bptt", "rbp"):
        block = RecurrentBlock(cell, steps=400, gradient=gradient, adjoint=exact)
        # Only h is read out, so that all that c's gradient gets comes through the recurrence.
        found[gradient] = torch.autograd.grad(
            block(drive).output.sin().sum(), list(cell.parameters())
        )
    assert_gradients_close(found["rbp"], found["bptt"], 1e-8)


def test_a_state_in_channels_last_keeps_its_layout() -> None:
    torch.manual_seed(0)
    cell = build_cell("hgru", 8)
    drive = torch.randn(2, 8, 6, 6)
    gradients = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        leaf = drive.clone(memory_format=memory_format).requires_grad_()
        output = RecurrentBlock(cell, steps=6, on_failure="record")(leaf).output
        assert output.is_contiguous(memory_format=memory_format)
        gradients.append(torch.autograd.grad(output.square().sum(), [leaf, *cell.parameters()]))
    # float32, with sums in another order.
    assert_gradients_close(*gradients, tolerance=1e-4)
