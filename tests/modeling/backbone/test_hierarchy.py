"""Joint equilibria of several levels: their gradients, and what does not fit together."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from detectron2.modeling.backbone.resnet import BasicBlock
from torch import Tensor, nn

from rpanoptic.modeling.backbone import Hierarchy, StageHierarchy
from rpanoptic.recurrent import AdjointConfig, RecurrentBlock, RecurrentCell, StopReason, build_cell
from rpanoptic.recurrent.state import to_tensors
from tests.recurrent.helpers import assert_gradients_close, contractive

LEVELS = ("p3", "p4", "p5")
EXACT = AdjointConfig(max_steps=2000, tol=1e-13)


def levels(cell: str, channels: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Contractive cells and feedback for as many levels as there are numbers of channels."""
    widths = dict(zip(LEVELS, channels, strict=False))
    cells = {name: contractive(cell, seed, c) for seed, (name, c) in enumerate(widths.items())}
    feedback = {
        below: contractive("top_down", 10, cells[below].channels, drive_channels=widths[above])
        for below, above in pairwise(widths)
    }
    return cells, feedback


def pyramid(cell: str) -> tuple[Hierarchy, tuple[Tensor, ...]]:
    """Three levels in float64; the sizes are those of strides that round up."""
    hierarchy = Hierarchy(*levels(cell, (4, 4, 4)))
    torch.manual_seed(5)
    sizes = ((7, 6), (4, 3), (2, 2))
    return hierarchy, tuple(torch.randn(2, 4, *size, dtype=torch.float64) for size in sizes)


def staged(cell: str) -> tuple[StageHierarchy, Tensor]:
    """Two levels with a residual stage of frozen batch norms between them, in float64."""
    torch.manual_seed(3)
    stages = {
        "p4": nn.Sequential(
            BasicBlock(4, 6, stride=2, norm="FrozenBN"), BasicBlock(6, 6, norm="FrozenBN")
        ),
    }
    for stage in stages.values():
        for parameter in stage.double().parameters():
            parameter.data.mul_(0.5)
    norms = {"p3": nn.GroupNorm(2, 4).double(), "p4": nn.Identity()}
    cells, feedback = levels(cell, (4, 6))
    hierarchy = StageHierarchy(stages, cells, feedback, norms)
    return hierarchy, torch.randn(2, 4, 5, 6, dtype=torch.float64)


def gradients(block: RecurrentBlock, drive: Any) -> list[Tensor]:
    """Gradients of a weighted sum of all states for drive and every parameter of the step."""
    leaves = tuple(t.clone().requires_grad_() for t in to_tensors(drive))
    state = block(leaves if isinstance(drive, tuple) else leaves[0]).state
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in state]
    loss = sum((t * w).sum() for t, w in zip(state, weights, strict=True))
    inputs = [*leaves, *block.cell.parameters()]
    return list(torch.autograd.grad(loss, inputs, materialize_grads=True))


CASES = {
    "pyramid of hgru": lambda: pyramid("hgru"),
    "pyramid of conv_lstm": lambda: pyramid("conv_lstm"),
    "stages and hgru": lambda: staged("hgru"),
    "stages and conv_lstm": lambda: staged("conv_lstm"),
}


@pytest.mark.parametrize("name", CASES)
def test_gradient_of_the_joint_equilibrium_is_that_of_bptt(name: str) -> None:
    cell, drive = CASES[name]()
    expected = gradients(RecurrentBlock(cell, steps=200, gradient="bptt"), drive)
    assert any(g.any() for g in expected[: len(to_tensors(drive))])
    for backend in ("tape", "functional"):
        block = RecurrentBlock(cell, steps=200, gradient="crbp", adjoint=EXACT, backend=backend)
        # Both at the same equilibrium, to rounding; the solve is cut at 1e-13 of the gradient.
        assert_gradients_close(gradients(block, drive), expected, 1e-8)
        assert (block.last.residual < 1e-12).all()
        assert (block.last.adjoint.reason == StopReason.CONVERGED).all()


@pytest.mark.parametrize("backend", ["tape", "functional"])
def test_penalty_reaches_stages_cells_and_feedback(backend: str) -> None:
    cell, drive = staged("hgru")
    block = RecurrentBlock(cell, steps=2, gradient="crbp", backend=backend, on_failure="record")
    block.penalty = type(block.penalty)(tau=1e-3, weight=1.0)
    penalty = block(drive).penalty
    penalty.backward()
    parts = {"stage": cell.p4, "cell": cell.cells["p3"], "feedback": cell.feedback["p3"]}
    for part, module in parts.items():
        assert any(p.grad is not None and p.grad.any() for p in module.parameters()), part


@pytest.mark.parametrize("name", CASES)
def test_samples_that_have_settled_leave_the_batch(name: str) -> None:
    cell, drive = CASES[name]()
    block = RecurrentBlock(cell, steps=200, halt_tol=1e-6).eval()
    with torch.no_grad():
        together = block(drive)
        for sample in range(2):
            parts = tuple(t[sample : sample + 1] for t in to_tensors(drive))
            alone = block(parts if isinstance(drive, tuple) else parts[0])
            assert together.diagnostics.steps[sample] == alone.diagnostics.steps[0] < 200
            for one, all_samples in zip(alone.state, together.state, strict=True):
                torch.testing.assert_close(all_samples[sample : sample + 1], one)


def test_feedback_is_felt_below_and_all_above_within_a_step() -> None:
    hierarchy, drive = pyramid("hgru")
    state = hierarchy.initial_state(drive)
    before = hierarchy(drive, state)
    moved = hierarchy(drive, (*state[:2], state[2] + 1.0))
    assert all(not torch.equal(a, b) for a, b in zip(before, moved, strict=True))
    moved = hierarchy(drive, (state[0] + 1.0, *state[1:]))
    # Nothing leads upwards, but the drives.
    assert not torch.equal(before[0], moved[0])
    assert all(torch.equal(a, b) for a, b in zip(before[1:], moved[1:], strict=True))


def test_stages_carry_activity_upwards_within_a_step() -> None:
    hierarchy, drive = staged("hgru")
    state = hierarchy.initial_state(drive)
    before = hierarchy(drive, state)
    moved = hierarchy(drive, (state[0] + torch.randn_like(state[0]), state[1]))
    assert all(not torch.equal(a, b) for a, b in zip(before, moved, strict=True))


def test_states_of_several_tensors_stand_in_a_row() -> None:
    hierarchy, drive = pyramid("conv_lstm")
    state = hierarchy.initial_state(drive)
    assert len(state) == hierarchy.state_tensors == 6
    assert [len(level) for level in hierarchy.split(state)] == [2, 2, 2]
    assert [tuple(t.shape[2:]) for t in state] == [(7, 6)] * 2 + [(4, 3)] * 2 + [(2, 2)] * 2
    outputs = hierarchy.outputs(hierarchy(drive, state))
    assert list(outputs) == list(LEVELS)
    assert torch.equal(outputs["p3"], hierarchy.output(hierarchy(drive, state)))


def test_a_readout_that_is_not_the_first_tensor() -> None:
    hierarchy, drive = pyramid("intersection_rnn")
    state = hierarchy(drive, hierarchy.initial_state(drive))
    assert torch.equal(hierarchy.outputs(state)["p4"], state[3])


def test_the_first_state_keeps_the_memory_format() -> None:
    hierarchy, drive = staged("hgru")
    drive = drive.contiguous(memory_format=torch.channels_last)
    for tensor in hierarchy.initial_state(drive):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    expected = [(2, 4, 5, 6), (2, 6, 3, 3)]
    assert [tuple(t.shape) for t in hierarchy.initial_state(drive)] == expected


def test_borrowed_stages_are_parameters_of_the_step_but_not_saved_twice() -> None:
    hierarchy, _ = staged("hgru")
    names = dict(hierarchy.named_parameters())
    assert names["p4.0.conv1.weight"] is hierarchy.p4[0].conv1.weight
    assert len(names) == len({id(p) for p in hierarchy.parameters()})
    assert "p4.0.conv1.norm.weight" in dict(hierarchy.named_buffers())
    assert not any(key.startswith("p4.") for key in hierarchy.state_dict())
    own = {key for key, _ in nn.Module.named_parameters(hierarchy)}
    assert own == {key for key in names if not key.startswith("p4.")}
    # As the layers of a model are asked for theirs, one by one.
    assert list(hierarchy.named_parameters(recurse=False)) == []


@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
def test_statistics_of_batches_are_refused(norm: str) -> None:
    cells, feedback = levels("hgru", (4, 6))
    norms = {"p3": nn.Identity(), "p4": nn.Identity()}
    stages = {"p4": nn.Sequential(BasicBlock(4, 6, stride=2, norm=norm))}
    with pytest.raises(ValueError, match=r"stage p4 .* no statistics of batches"):
        StageHierarchy(stages, cells, feedback, norms)
    stages = {"p4": nn.Sequential(BasicBlock(4, 6, stride=2, norm=""))}
    norms["p4"] = nn.BatchNorm2d(6)
    with pytest.raises(ValueError, match=r"output norm of p4 .* no statistics of batches"):
        StageHierarchy(stages, cells, feedback, norms)
    with pytest.raises(ValueError, match=r"stages must be given for \['p4'\]"):
        StageHierarchy({}, cells, feedback, norms)


def wide(channels: int, **options: Any) -> RecurrentCell:
    return build_cell("conv_gru", channels, **options)


@pytest.mark.parametrize(
    ("cells", "feedback", "message"),
    [
        ({}, {}, "at least one level"),
        ({"p3": wide(4), "p4": wide(4)}, {}, "feedback must be given for ['p3']; got []"),
        (
            {"p3": wide(4), "p4": wide(6)},
            {"p3": build_cell("top_down", 4)},
            "feedback to p3 must have 4 channels and a drive of 6; got 4 and 4",
        ),
        ({"p3": build_cell("top_down", 4)}, {}, "level p3 needs a cell whose state is as high"),
    ],
)
def test_levels_that_do_not_fit(cells: Any, feedback: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Hierarchy(cells, feedback)


def test_drives_that_do_not_fit() -> None:
    block = RecurrentBlock(pyramid("hgru")[0])
    x = torch.zeros(1, 4, 8, 8, dtype=torch.float64)
    with pytest.raises(ValueError, match="tuple of 3 tensors; got a single one"):
        block(x)
    with pytest.raises(ValueError, match="tuple of 3 tensors; got 2"):
        block((x, x))
    with pytest.raises(ValueError, match=r"level p4: drive must be \(N, 4, H, W\)"):
        block((x, x[:, :2], x))
    with pytest.raises(ValueError, match="twice the height and width"):
        block((x, x, x))
    with pytest.raises(ValueError, match=r"drive must be \(N, 4, H, W\)"):
        RecurrentBlock(staged("hgru")[0])(x[:, :3])
