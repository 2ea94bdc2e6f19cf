"""How stable a recurrence is: its Jacobian at a state, and its course over many steps.

Everything here looks at one cell with its drive held constant, ``h -> F(x, h)``, and gives its
numbers a sample: none depends on the others in its batch, provided that the cell keeps its samples
apart (all of ours do, unless their norm is "BN"). Nothing here changes a parameter, its gradient
or the mode of the cell.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rpanoptic.recurrent.cells.base import Drive, RecurrentCell
from rpanoptic.recurrent.checks import check_count
from rpanoptic.recurrent.convolution import shared_spectra
from rpanoptic.recurrent.jacobian import StepJacobian, as_leaves
from rpanoptic.recurrent.state import (
    State,
    like,
    per_sample,
    relative_change,
    sample_norms,
    to_tensors,
    where,
)


@dataclass
class PowerEstimate:
    """What a power iteration found.

    Attributes:
        value: ``(N,)``, the estimate; nan where the Jacobian of a sample is not finite.
        change: ``(N,)``, by how much the second half of the iterations moved it. Where that is
            not small, more iterations are needed.
    """

    value: Tensor
    change: Tensor


@dataclass
class PastTrainedSteps:
    """How a recurrence goes on after the steps that it was trained for.

    Attributes:
        trained_steps: T, the steps in training.
        distance: ``(steps, N)``, ``|h_t - h_T| / |h_T|`` for t = 1, 2, ...; 0 at t = T.
        score: ``(steps, N)``, the given score of what is read out at each step; None without one.
    """

    trained_steps: int
    distance: Tensor
    score: Tensor | None = None


@dataclass
class PrincipalComponents:
    """Trajectories in the plane, or space, in which they vary most; each sample has its own.

    Attributes:
        projections: ``(steps, N, components)`` float64, about the mean over the steps. Of a
            component's values the one of largest magnitude is positive.
        explained: ``(N, components)`` float64, share of the variance over the steps, 0 to 1 and
            falling; 0 for a trajectory that does not move.
    """

    projections: Tensor
    explained: Tensor


def spectral_radius(
    cell: RecurrentCell,
    drive: Drive,
    state: State,
    *,
    iterations: int = 100,
    generator: torch.Generator | None = None,
) -> PowerEstimate:
    """Estimate the largest modulus of an eigenvalue of ``J = dF/dh`` at a state.

    Below 1 at an equilibrium, the equilibrium attracts what is near it, and the Neumann series of
    its adjoint converges.

    The estimate is the rate at which ``|(J^T)^k v|`` grows over the later half of the iterations:
    the slope of the line that least squares fits to its logarithm, which is a weighted geometric
    mean of the ratios of successive norms. Unlike a Rayleigh quotient it is right for complex
    pairs of eigenvalues, under which v turns for ever and never settles.

    Args:
        cell: F.
        drive: x, ``(N, C, H, W)``, or a tuple of such tensors.
        state: h, each tensor ``(N, ...)``.
        iterations: vector-Jacobian products, at least 2.
        generator: draws v, the same for every sample; a fixed one by default, so that neither the
            result depends on the caller's random state nor that on this.

    Raises:
        ValueError: too few iterations.
    """
    check_count("iterations", iterations, least=2)
    jacobian = _jacobian(cell, drive, state)
    vectors = _start_vectors(state, generator)
    ratios = []
    for _ in range(iterations):
        vectors, size = _normalised(jacobian.vjp(vectors))
        ratios.append(size)
    growth = torch.stack(ratios)
    return _estimate(_growth_rate(growth), _growth_rate(growth[: iterations // 2]), growth)


def largest_singular_value(
    cell: RecurrentCell,
    drive: Drive,
    state: State,
    *,
    iterations: int = 50,
    generator: torch.Generator | None = None,
) -> PowerEstimate:
    """Estimate the largest singular value of ``J = dF/dh`` at a state, from below.

    It is the Lipschitz constant of the step at that state, at least as large as the spectral
    radius: below 1, the step contracts there in the Euclidean norm.

    The power iteration is on ``J^T J``. J itself is applied as the derivative of ``u -> J^T u``,
    so that the cell needs double backward, as the Lipschitz coefficient penalty does, and no
    forward-mode rule.

    Args:
        cell, drive, state, generator: as in :func:`spectral_radius`.
        iterations: products with J and with J^T, at least 2 of each.

    Raises:
        ValueError: too few iterations.
    """
    check_count("iterations", iterations, least=2)
    jacobian = _jacobian(cell, drive, state)
    vectors = _start_vectors(state, generator)
    sizes = []
    for _ in range(iterations):
        images = jacobian.jvp(vectors)
        sizes.append(sample_norms(images))
        vectors, _ = _normalised(jacobian.vjp(images))
    values = torch.stack(sizes)
    return _estimate(values[-1], values[iterations // 2 - 1], values)


def residual_curve(
    cell: RecurrentCell, drive: Drive, *, steps: int, state: State | None = None
) -> Tensor:
    """Follow the relative change of the state, ``|h_t - h_{t-1}| / |h_t|``, over the steps.

    Args:
        cell: F.
        drive: x, ``(N, C, H, W)``, or a tuple of such tensors.
        steps: at least 1.
        state: h_0; the cell's own by default.

    Returns:
        ``(steps, N)``; at an equilibrium it has fallen to 0.

    Raises:
        ValueError: too few steps.
    """
    check_count("steps", steps, least=1)
    previous = cell.initial_state(drive) if state is None else state
    residual = []
    with shared_spectra():
        for current in _trajectory(cell, drive, previous, steps):
            residual.append(relative_change(current, previous))
            previous = current
    return torch.stack(residual)


def past_trained_steps(
    cell: RecurrentCell,
    drive: Drive,
    *,
    trained_steps: int,
    steps: int,
    score: Callable[[Tensor], Tensor] | None = None,
    state: State | None = None,
) -> PastTrainedSteps:
    """Follow a recurrence beyond the steps that it was trained for.

    A model whose state is an equilibrium stays where it is, and so does its score. Trained by
    back-propagation through time, a model may use its last steps up: its state then moves on and
    its score decays (Linsley et al., NeurIPS 2020).

    Args:
        cell: F.
        drive: x, ``(N, C, H, W)``, or a tuple of such tensors.
        trained_steps: T, at least 1.
        steps: how far to follow it, at least T.
        score: gives ``(N,)`` values, whatever they measure, of ``cell.output(h_t)``,
            ``(N, C, H, W)``.
        state: h_0; the cell's own by default.

    Raises:
        ValueError: impossible numbers of steps, or a score of another shape.
    """
    check_count("trained_steps", trained_steps, least=1)
    check_count("steps", steps, least=trained_steps)
    first = cell.initial_state(drive) if state is None else state
    # Running the trained steps twice needs the memory of two states, whatever their number.
    with shared_spectra():
        (trained,) = deque(_trajectory(cell, drive, first, trained_steps), maxlen=1)
        distance, scores = [], []
        for current in _trajectory(cell, drive, first, steps):
            distance.append(relative_change(trained, current))
            if score is not None:
                scores.append(_checked_score(score, cell.output(current)))
    return PastTrainedSteps(
        trained_steps, torch.stack(distance), torch.stack(scores) if scores else None
    )


@torch.no_grad()
def principal_components(states: Sequence[State], components: int = 2) -> PrincipalComponents:
    """Project the trajectory of each sample on the principal components of its states.

    Exact: there are far fewer steps than features, so the components follow from the inner
    products of the steps.

    Args:
        states: the state after each step, each tensor ``(N, ...)``; at least two.
        components: at least 1, fewer than there are states (whose mean is taken off), and no more
            than a state has numbers.

    Raises:
        ValueError: more components than there can be.
    """
    check_count("components", components, least=1)
    if len(states) < 2:
        raise ValueError(f"a trajectory needs at least 2 states, got {len(states)}")
    tensors = [to_tensors(state) for state in states]
    samples = tensors[0][0].shape[0]
    features = sum(t[0].numel() for t in tensors[0]) if samples else components
    most = min(len(states) - 1, features)
    if components > most:
        raise ValueError(
            f"components must be at most {most} for {len(states)} states of {features} numbers; "
            f"got {components}"
        )
    # A sample at a time: all states in float64 could fill the memory.
    each = [_components_of_one(tensors, sample, components) for sample in range(samples)]
    device = tensors[0][0].device
    if not each:
        shape = (len(states), 0, components)
        empty = torch.zeros(shape, dtype=torch.float64, device=device)
        return PrincipalComponents(empty, empty.new_zeros(0, components))
    projections, explained = zip(*each, strict=True)
    return PrincipalComponents(torch.stack(projections, dim=1), torch.stack(explained))


def _jacobian(cell: RecurrentCell, drive: Drive, state: State) -> StepJacobian:
    previous = as_leaves(state)
    with torch.enable_grad():
        held = like(tuple(t.detach() for t in to_tensors(drive)), drive)
        last = cell(held, previous)
    return StepJacobian(to_tensors(last), to_tensors(previous))


def _start_vectors(state: State, generator: torch.Generator | None) -> tuple[Tensor, ...]:
    """A random unit vector, the same for every sample, whatever its place in the batch."""
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    drawn = tuple(
        torch.randn(t.shape[1:], generator=generator, device=generator.device).to(t).expand_as(t)
        for t in to_tensors(state)
    )
    return _normalised(drawn)[0]


def _normalised(vectors: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
    """The vectors at unit norm, and the norms ``(N,)``; zeros where there is nothing to divide."""
    size = sample_norms(vectors)
    usable = torch.isfinite(size) & (size > 0)
    unit = tuple((t / per_sample(size, t)).to(t.dtype) for t in vectors)
    return where(usable, unit, tuple(torch.zeros_like(t) for t in vectors)), size


def _growth_rate(ratios: Tensor) -> Tensor:
    """``(N,)`` growth a step, from the later half of ``(K, N)`` ratios of successive norms."""
    later = ratios[len(ratios) // 2 :]
    place = torch.arange(1, len(later) + 1, dtype=ratios.dtype, device=ratios.device)
    # The slope of least squares through the cumulative sums of logarithms. It weighs the ends
    # least, so that the beat of a complex pair, whose ratios oscillate, cancels.
    weight = place * (len(later) + 1 - place)
    return ((weight / weight.sum())[:, None] * later.log()).sum(dim=0).exp()


def _estimate(value: Tensor, halfway: Tensor, sizes: Tensor) -> PowerEstimate:
    # What was not finite once went on as zeros, and would pass for a small number.
    value = torch.where(sizes.isfinite().all(dim=0), value, torch.full_like(value, torch.nan))
    return PowerEstimate(value, (value - halfway).abs())


def _trajectory(cell: RecurrentCell, drive: Drive, state: State, steps: int) -> Iterator[State]:
    """The state after step 1, 2, ... without gradient."""
    for _ in range(steps):
        with torch.no_grad():
            state = cell(drive, state)
        yield state


@torch.no_grad()
def _checked_score(score: Callable[[Tensor], Tensor], output: Tensor) -> Tensor:
    values = score(output)
    if values.shape != output.shape[:1]:
        raise ValueError(
            f"score must give ({output.shape[0]},) values, one a sample; "
            f"got shape {tuple(values.shape)}"
        )
    return values


def _components_of_one(
    tensors: Sequence[tuple[Tensor, ...]], sample: int, components: int
) -> tuple[Tensor, Tensor]:
    """``(steps, components)`` projections and ``(components,)`` shares of one sample."""
    points = torch.stack([torch.cat([t[sample].reshape(-1) for t in step]) for step in tensors])
    points = points.double()
    points = points - points.mean(dim=0)
    products = points @ points.T
    if not products.isfinite().all():
        nothing = products.new_full((len(tensors), components), torch.nan)
        return nothing, nothing[0]
    values, vectors = torch.linalg.eigh(products)  # in rising order
    values = values[-components:].flip(0).clamp_min(0)
    projections = vectors[:, -components:].flip(1) * values.sqrt()
    peak = projections.gather(0, projections.abs().argmax(dim=0, keepdim=True))
    projections = torch.where(peak < 0, -projections, projections)
    variance = products.diagonal().sum()
    return projections, values / variance if variance > 0 else torch.zeros_like(values)
