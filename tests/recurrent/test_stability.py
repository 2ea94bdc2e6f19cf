"""Probes of stability against dense algebra, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice

import pytest
import torch
from torch import Tensor

from rpanoptic.recurrent import CELLS, RecurrentBlock, RecurrentCell, build_cell
from rpanoptic.recurrent.stability import (
    PowerEstimate,
    largest_singular_value,
    past_trained_steps,
    principal_components,
    residual_curve,
    spectral_radius,
)
from rpanoptic.recurrent.state import State, like, to_tensors

from .helpers import CELLS_UNDER_TEST, contractive_hgru, dense_jacobian, settle, two_tensor_cell

Probe = Callable[..., PowerEstimate]
PROBES: tuple[Probe, ...] = (spectral_radius, largest_singular_value)


class LinearCell(RecurrentCell):
    """``h' = A h + x`` with a matrix ``A`` a sample: a recurrence of known spectrum."""

    def __init__(self, matrices: Tensor) -> None:
        super().__init__(matrices.shape[-1])
        self.matrices = torch.nn.Parameter(matrices)

    def forward(self, drive: Tensor, state: State) -> State:
        return torch.einsum("nij,njhw->nihw", self.matrices, state) + drive


class IgnorantCell(RecurrentCell):
    """Its first tensor ignores the state, its second hands a constant on."""

    def forward(self, drive: Tensor, state: State) -> State:
        return 2 * drive, torch.ones_like(drive)

    def initial_state(self, drive: Tensor) -> State:
        return torch.zeros_like(drive), torch.zeros_like(drive)


def rotation(radius: float, angle: float) -> Tensor:
    c, s = radius * math.cos(angle), radius * math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


def linear(*matrices: Tensor) -> tuple[LinearCell, Tensor]:
    """The cell, and a drive of zeros, which is the state at rest too."""
    stacked = torch.stack(matrices)
    drive = torch.zeros(len(matrices), stacked.shape[-1], 1, 1, dtype=torch.float64)
    return LinearCell(stacked), drive


def random_drive(cell: RecurrentCell, samples: int, seed: int = 0, size: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (samples, cell.drive_channels, size, size)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def sample(state: State, number: int) -> State:
    return like(tuple(t[number : number + 1] for t in to_tensors(state)), state)


@pytest.mark.parametrize("angle", [0.3, math.pi / 2, 2.0])
def test_radius_of_a_rotation(angle: float) -> None:
    # Its Rayleigh quotient is 0.9 cos(angle), 0 at a right angle.
    found = spectral_radius(*repeat_state(linear(rotation(0.9, angle))))
    assert found.value.item() == pytest.approx(0.9, abs=1e-12)
    assert found.change.item() < 1e-12


def repeat_state(pair: tuple[LinearCell, Tensor]) -> tuple[LinearCell, Tensor, Tensor]:
    cell, drive = pair
    return cell, drive, drive


def test_radius_of_a_complex_pair_that_is_far_from_normal() -> None:
    # A circle becomes an ellipse ten times as long as wide: norms swing by that in each turn.
    stretch = torch.diag(torch.tensor([1.0, 10.0], dtype=torch.float64))
    matrix = stretch @ rotation(0.9, 1.0) @ stretch.inverse()
    cell, drive, state = repeat_state(linear(matrix))
    found = spectral_radius(cell, drive, state, iterations=200)
    assert found.value.item() == pytest.approx(0.9, abs=1e-3)
    sigma = largest_singular_value(cell, drive, state).value.item()
    assert sigma == pytest.approx(torch.linalg.matrix_norm(matrix, ord=2).item(), rel=1e-12)
    assert sigma > 7  # far from normal indeed


def test_radius_of_a_random_matrix_beside_its_singular_value() -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(4, 12, 12, generator=generator, dtype=torch.float64) / 12**0.5
    cell, drive, state = repeat_state(linear(*matrices))
    radius = spectral_radius(cell, drive, state, iterations=400)
    expected = torch.linalg.eigvals(matrices).abs().amax(dim=1)
    # Three of four have a complex pair on top, whose beat falls with the square of the iterations.
    torch.testing.assert_close(radius.value, expected, rtol=1e-3, atol=0)
    sigma = largest_singular_value(cell, drive, state, iterations=200)
    expected = torch.linalg.matrix_norm(matrices, ord=2)
    torch.testing.assert_close(sigma.value, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", CELLS_UNDER_TEST)
def test_probes_of_cells_against_the_dense_jacobian(name: str) -> None:
    cell = CELLS_UNDER_TEST[name](0).eval()
    drive = random_drive(cell, samples=2)
    state = settle(cell, drive)
    radius = spectral_radius(cell, drive, state, iterations=200)
    sigma = largest_singular_value(cell, drive, state, iterations=200)
    assert radius.value.shape == radius.change.shape == sigma.value.shape == (2,)
    for number in range(2):
        jacobian = dense_jacobian(cell, drive[number : number + 1], sample(state, number))
        expected = torch.linalg.eigvals(jacobian).abs().max().item()
        assert radius.value[number].item() == pytest.approx(expected, rel=1e-2)
        expected = torch.linalg.matrix_norm(jacobian, ord=2).item()
        assert sigma.value[number].item() == pytest.approx(expected, rel=1e-3)
        assert sigma.value[number] >= radius.value[number]


@pytest.mark.parametrize("name", CELLS)
def test_singular_value_of_every_cell_against_the_dense_jacobian(name: str) -> None:
    torch.manual_seed(0)
    cell = build_cell(name, 8).double().eval()
    drive = random_drive(cell, samples=1, size=2)
    with torch.no_grad():
        state = cell(drive, cell.initial_state(drive))
    found = largest_singular_value(cell, drive, state, iterations=100)
    expected = torch.linalg.matrix_norm(dense_jacobian(cell, drive, state), ord=2)
    # 0.5 %: gates leave singular values close to each other, which takes many iterations.
    torch.testing.assert_close(found.value[0], expected, rtol=5e-3, atol=1e-9)


@pytest.mark.parametrize("probe", PROBES)
def test_samples_of_a_batch_are_as_each_alone(probe: Probe) -> None:
    matrices = [rotation(0.2, 1.0), rotation(0.9, 0.1), rotation(3.0, 2.0), rotation(0.0, 0.0)]
    cell, drive, state = repeat_state(linear(*matrices))
    together = probe(cell, drive, state).value
    assert together.tolist() == pytest.approx([0.2, 0.9, 3.0, 0.0], abs=1e-12)
    alone = [probe(*repeat_state(linear(matrix))).value for matrix in matrices]
    # Rounding alone: vectorised loops round by where a number stands.
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-13, atol=0)


@pytest.mark.parametrize("probe", PROBES)
def test_a_sample_that_is_not_finite_is_nan_and_leaves_the_others_alone(probe: Probe) -> None:
    matrices = [rotation(0.5, 1.0), torch.full((2, 2), torch.inf, dtype=torch.float64)]
    found = probe(*repeat_state(linear(*matrices)))
    assert found.value[0].item() == pytest.approx(0.5, abs=1e-12)
    assert found.value[1].isnan() and found.change[1].isnan()


def test_a_nilpotent_jacobian_has_radius_0_and_a_singular_value() -> None:
    matrix = torch.tensor([[0.0, 5.0], [0.0, 0.0]], dtype=torch.float64)
    cell, drive, state = repeat_state(linear(matrix))
    assert spectral_radius(cell, drive, state).value.item() == 0
    assert largest_singular_value(cell, drive, state).value.item() == pytest.approx(5.0)


@pytest.mark.parametrize("probe", PROBES)
def test_a_cell_that_ignores_its_state_has_no_growth(probe: Probe) -> None:
    cell = IgnorantCell(2)
    drive = random_drive(cell, samples=2)
    assert probe(cell, drive, cell.initial_state(drive)).value.tolist() == [0, 0]


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("make", [contractive_hgru, two_tensor_cell])
def test_no_sample_gives_no_number(probe: Probe, make: Callable[[int], RecurrentCell]) -> None:
    cell = make(0)
    drive = random_drive(cell, samples=0)
    found = probe(cell, drive, cell.initial_state(drive))
    assert found.value.shape == found.change.shape == (0,)
    assert residual_curve(cell, drive, steps=3).shape == (3, 0)
    assert past_trained_steps(cell, drive, trained_steps=2, steps=3).distance.shape == (3, 0)


@pytest.mark.parametrize("probe", PROBES)
def test_probes_leave_no_trace(probe: Probe) -> None:
    cell = contractive_hgru(0)
    drive = random_drive(cell, samples=1).requires_grad_()
    state = settle(cell, drive)
    frozen = next(cell.parameters()).requires_grad_(False)
    torch.manual_seed(5)
    with torch.no_grad():
        found = probe(cell, drive, state)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))  # the caller's random numbers are not used up
    assert torch.equal(found.value, probe(cell, drive, state).value)
    assert not found.value.requires_grad
    assert drive.grad is None and not state.requires_grad
    assert all(p.grad is None and p.requires_grad != (p is frozen) for p in cell.parameters())
    assert cell.training


@pytest.mark.parametrize("probe", PROBES)
def test_generator_chooses_the_start(probe: Probe) -> None:
    cell = contractive_hgru(0)
    drive = random_drive(cell, samples=1)
    state = settle(cell, drive)

    def found(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return probe(cell, drive, state, iterations=2, generator=generator).value

    assert torch.equal(found(1), found(1))
    assert not torch.equal(found(1), found(2))


@pytest.mark.parametrize("probe", PROBES)
def test_change_tells_of_iterations_that_were_too_few(probe: Probe) -> None:
    cell = contractive_hgru(0)
    drive = random_drive(cell, samples=1)
    state = settle(cell, drive)
    few, many = (probe(cell, drive, state, iterations=count) for count in (4, 100))
    assert few.change > 10 * many.change


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("iterations", [1, 0, 2.5, True])
def test_too_few_iterations(probe: Probe, iterations: object) -> None:
    cell, drive, state = repeat_state(linear(rotation(0.9, 1.0)))
    with pytest.raises(ValueError, match="iterations must be an integer of at least 2"):
        probe(cell, drive, state, iterations=iterations)


@pytest.mark.parametrize("make", [contractive_hgru, two_tensor_cell])
def test_residual_curve_is_the_relative_change_at_each_step(
    make: Callable[[int], RecurrentCell],
) -> None:
    cell = make(0)
    drive = random_drive(cell, samples=2)
    curve = residual_curve(cell, drive, steps=5)
    assert curve.shape == (5, 2) and not curve.requires_grad
    assert curve[0].tolist() == pytest.approx([1, 1])  # from zeros
    states = [cell.initial_state(drive), *islice(RecurrentBlock(cell).iterate(drive), 5)]
    for step in range(5):
        before, after = (torch.cat([t[1] for t in to_tensors(s)]) for s in states[step : step + 2])
        expected = (after - before).norm() / after.norm()
        torch.testing.assert_close(curve[step, 1], expected)


def test_residual_curve_falls_at_the_spectral_radius() -> None:
    cell = contractive_hgru(0)
    drive = random_drive(cell, samples=1)
    curve = residual_curve(cell, drive, steps=30)
    radius = spectral_radius(cell, drive, settle(cell, drive), iterations=200).value
    # Near the equilibrium, and above rounding, the step is its Jacobian.
    assert ((curve[29] / curve[19]) ** (1 / 10)).item() == pytest.approx(radius.item(), rel=2e-2)


def test_residual_curve_goes_on_from_a_given_state() -> None:
    cell = contractive_hgru(0)
    drive = random_drive(cell, samples=1)
    (*_, third) = islice(RecurrentBlock(cell).iterate(drive), 3)
    assert torch.equal(
        residual_curve(cell, drive, steps=2, state=third), residual_curve(cell, drive, steps=5)[3:]
    )
    with pytest.raises(ValueError, match="steps must be an integer of at least 1, got 0"):
        residual_curve(cell, drive, steps=0)


@pytest.mark.parametrize("make", [contractive_hgru, two_tensor_cell])
def test_past_the_trained_steps_a_contraction_stays(make: Callable[[int], RecurrentCell]) -> None:
    cell = make(0)
    drive = random_drive(cell, samples=2)
    found = past_trained_steps(cell, drive, trained_steps=40, steps=80)
    assert found.trained_steps == 40 and found.distance.shape == (80, 2) and found.score is None
    assert (found.distance[39] == 0).all() and (found.distance[0] > 0.01).all()
    assert (found.distance[40:] < 1e-3).all()


def test_past_the_trained_steps_a_growing_recurrence_leaves() -> None:
    cell, drive = linear(torch.diag(torch.tensor([2.0, 2.0], dtype=torch.float64)))
    found = past_trained_steps(
        cell, drive, trained_steps=3, steps=5, state=torch.ones_like(drive), score=norm_of
    )
    # h_t = 2^t: |2^t - 8| / 8.
    assert found.distance[:, 0].tolist() == pytest.approx([0.75, 0.5, 0, 1, 3])
    assert found.score[:, 0].tolist() == pytest.approx([2**t * 2**0.5 for t in range(1, 6)])


def norm_of(output: Tensor) -> Tensor:
    return output.flatten(1).norm(dim=1)


def test_score_sees_what_is_read_out() -> None:
    cell = two_tensor_cell(0)
    drive = random_drive(cell, samples=2)
    found = past_trained_steps(cell, drive, trained_steps=2, steps=3, score=norm_of)
    (*_, last) = islice(RecurrentBlock(cell).iterate(drive), 3)
    torch.testing.assert_close(found.score[2], norm_of(last[0]))


def test_past_trained_steps_refuses_impossible_arguments() -> None:
    cell, drive = linear(rotation(0.9, 1.0))
    for arguments, message in [
        ({"trained_steps": 0, "steps": 3}, "trained_steps must be an integer of at least 1"),
        ({"trained_steps": 4, "steps": 3}, "steps must be an integer of at least 4, got 3"),
        (
            {"trained_steps": 1, "steps": 1, "score": lambda output: output.sum()},
            r"score must give \(1,\) values",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            past_trained_steps(cell, drive, **arguments)


def test_principal_components_against_a_singular_value_decomposition() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(7, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    found = principal_components(list(points), components=3)
    assert found.projections.shape == (7, 2, 3) and found.explained.shape == (2, 3)
    for number in range(2):
        centred = points[:, number].flatten(1)
        centred = centred - centred.mean(dim=0)
        left, values, _ = torch.linalg.svd(centred, full_matrices=False)
        expected = left[:, :3] * values[:3]
        signs = (found.projections[:, number] * expected).sum(dim=0).sign()
        torch.testing.assert_close(found.projections[:, number], expected * signs)
        share = values[:3] ** 2 / (values**2).sum()
        torch.testing.assert_close(found.explained[number], share)
    peak = found.projections.abs().argmax(dim=0, keepdim=True)
    assert (found.projections.gather(0, peak) > 0).all()


def test_principal_components_of_a_circle_and_of_a_line() -> None:
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    line = torch.arange(8, dtype=torch.float64)[:, None] * torch.tensor([3.0, 4.0])
    states = torch.stack([circle, line], dim=1)
    found = principal_components([s[:, :, None, None] for s in states])
    torch.testing.assert_close(found.explained[0], torch.full((2,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(found.projections[:, 0].norm(dim=1), torch.ones_like(angle))
    assert found.explained[1].tolist() == pytest.approx([1, 0], abs=1e-12)
    assert sorted(found.projections[:, 1, 0].diff().abs().tolist()) == pytest.approx([5] * 7)


def test_principal_components_take_tuple_states_together() -> None:
    cell = two_tensor_cell(0)
    states = list(islice(RecurrentBlock(cell).iterate(random_drive(cell, samples=2)), 6))
    joined = [torch.cat(state, dim=1) for state in states]
    one, other = principal_components(states), principal_components(joined)
    torch.testing.assert_close(one.projections, other.projections)


def test_principal_components_at_rest_of_nothing_and_of_nan() -> None:
    still = principal_components([torch.ones(1, 2, 3, 3)] * 4)
    assert (still.projections == 0).all() and (still.explained == 0).all()
    nothing = principal_components([torch.ones(0, 2, 3, 3)] * 4)
    assert nothing.projections.shape == (4, 0, 2) and nothing.explained.shape == (0, 2)
    states = torch.rand(4, 2, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    states[2, 0, 0, 0, 0] = torch.nan
    found = principal_components(list(states))
    assert found.projections[:, 0].isnan().all() and found.projections[:, 1].isfinite().all()


@pytest.mark.parametrize(
    ("count", "size", "components", "message"),
    [
        (3, 3, 0, "components must be an integer of at least 1"),
        (3, 3, 3, "components must be at most 2 for 3 states of 18 numbers; got 3"),
        (9, 1, 3, "components must be at most 2 for 9 states of 2 numbers; got 3"),
        (1, 3, 1, "at least 2 states, got 1"),
    ],
)
def test_more_components_than_there_are(
    count: int, size: int, components: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        principal_components([torch.ones(1, 2, size, size)] * count, components)
