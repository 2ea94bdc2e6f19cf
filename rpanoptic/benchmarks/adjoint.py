"""Products that the adjoint solvers need, on a cell at equilibrium and of a given spectral radius.

The state is so small that its Jacobian can be had as a matrix, and the adjoint system be solved
densely in float64: the error in the table is against that solution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rpanoptic.benchmarks.report import Row, table
from rpanoptic.errors import ConfigError
from rpanoptic.recurrent import (
    SOLVERS,
    AdjointConfig,
    AdjointRecord,
    RecurrentCell,
    StopReason,
    build_cell,
    solve_adjoint,
)

CHANNELS, SIZE = 4, 6
MEMORY = {"anderson": 5, "gmres": 30}
_SYSTEM = ("largest_singular_value", "condition")
_RELAXATION, _NEWTON, _BISECTION = 100, 50, 60
# How near the spectral radius has to come.
_NEAR = 1e-6


@dataclass
class System:
    """An adjoint system ``u = g + J^T u``.

    Attributes:
        jacobian: J, ``(D, D)`` float64.
        gradient: g, ``(D,)``.
        solution: u, ``(D,)``.
    """

    jacobian: Tensor
    gradient: Tensor
    solution: Tensor

    @property
    def spectral_radius(self) -> float:
        """Of J."""
        return _radius(self.jacobian)

    @property
    def largest_singular_value(self) -> float:
        """Of J."""
        return torch.linalg.matrix_norm(self.jacobian, 2).item()

    @property
    def condition(self) -> float:
        """Of I - J."""
        identity = torch.eye(len(self.gradient), dtype=torch.float64)
        return torch.linalg.cond(identity - self.jacobian).item()


def build_system(
    radius: float, *, channels: int = CHANNELS, size: int = SIZE, seed: int = 0
) -> System:
    """The adjoint system of a ConvGRU whose recurrent weights are scaled to a spectral radius.

    The scale is found by bisection; the Jacobian is taken at the equilibrium of each scale.

    Args:
        radius: spectral radius of J, above 0.5 and below 1.
        channels, size: of the state, ``D = channels * size^2``.
        seed: of weights, drive and g.

    Raises:
        ConfigError: a radius out of range, or one that no scale gives.
    """
    if not 0.5 < radius < 1:
        raise ConfigError(f"the spectral radius must lie between 0.5 and 1, got {radius:g}")
    torch.manual_seed(seed)
    cell = build_cell("conv_gru", channels, gate_bias=-1.0).double()
    drive = torch.randn(1, channels, size, size, dtype=torch.float64)
    gradient = torch.randn(drive.numel(), dtype=torch.float64)
    weights = [cell.get_parameter(f"{name}.weight") for name in ("gates", "candidate_state")]
    originals = [weight.detach().clone() for weight in weights]

    def jacobian(scale: float) -> Tensor:
        with torch.no_grad():
            for weight, original in zip(weights, originals, strict=True):
                weight.copy_(scale * original)
        return _jacobian_at_equilibrium(cell, drive)

    low, high = 0.0, 1.0  # of the scale
    while _radius(jacobian(high)) < radius:
        low, high = high, 1.25 * high
        if high > 100:
            raise ConfigError(f"no scale of the weights gives the spectral radius {radius:g}")
    for _ in range(_BISECTION):
        middle = (low + high) / 2
        matrix = jacobian(middle)
        excess = _radius(matrix) - radius
        if abs(excess) < _NEAR:
            break
        low, high = (middle, high) if excess < 0 else (low, middle)
    else:
        raise ConfigError(f"the spectral radius jumps over {radius:g} as the weights grow")
    identity = torch.eye(len(gradient), dtype=torch.float64)
    solution = torch.linalg.solve(identity - matrix.T, gradient)
    return System(matrix, gradient, solution)


def compare(
    radii: Sequence[float],
    tolerances: Sequence[float],
    *,
    max_steps: int = 20000,
    channels: int = CHANNELS,
    size: int = SIZE,
) -> list[Row]:
    """Solve the system of each radius by every solver to every tolerance.

    Args:
        radii: spectral radii, above 0.5 and below 1.
        tolerances: relative residuals to reach, above 0.
        max_steps: products after which a solver is given up.
        channels, size: of the state.

    Returns:
        a row each, with the products that were spent, forward ("cg" alone has them) and
        transposed, the true relative residual ``|g + J^T u - u| / |g|`` and the relative error
        of u.

    Raises:
        ConfigError: see :func:`build_system`; or a tolerance that is not above 0.
    """
    if not all(tol > 0 for tol in tolerances):
        raise ConfigError(f"tolerances must be above 0, got {', '.join(map(str, tolerances))}")
    rows = []
    for radius in radii:
        system = build_system(radius, channels=channels, size=size)
        for solver in sorted(SOLVERS):
            for tol in tolerances:
                rows.append(_solve(system, solver, tol, max_steps))
    return rows


def _solve(system: System, solver: str, tol: float, max_steps: int) -> Row:
    spent = {"vjp": 0, "jvp": 0}

    def vjp(vectors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        spent["vjp"] += 1
        return (vectors[0] @ system.jacobian,)

    def jvp(vectors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        spent["jvp"] += 1
        return (vectors[0] @ system.jacobian.T,)

    config = AdjointConfig(max_steps, tol, solver, memory=MEMORY.get(solver, 5))
    record = AdjointRecord()
    (solution,) = solve_adjoint(vjp, (system.gradient[None],), config, record, jvp=jvp)
    assert record.reason is not None
    u = solution[0]
    residual = system.gradient + u @ system.jacobian - u
    return {
        "spectral_radius": system.spectral_radius,
        "largest_singular_value": system.largest_singular_value,
        "condition": system.condition,
        "solver": solver,
        "tol": tol,
        "products": spent["vjp"] + spent["jvp"],
        "reason": StopReason(int(record.reason[0])).name.lower(),
        "residual": (residual.norm() / system.gradient.norm()).item(),
        "error": ((u - system.solution).norm() / system.solution.norm()).item(),
    }


def tabulated(rows: Sequence[Row], *, markdown: bool) -> str:
    """A table a tolerance; in it a line a radius, with the products and the error of a solver."""
    solvers = sorted({row["solver"] for row in rows})
    texts = []
    for tol in dict.fromkeys(row["tol"] for row in rows):
        found = [row for row in rows if row["tol"] == tol]
        lines = []
        for radius in dict.fromkeys(row["spectral_radius"] for row in found):
            cells = {row["solver"]: row for row in found if row["spectral_radius"] == radius}
            first = next(iter(cells.values()))
            line = [f"{first[key]:.3g}" for key in ("spectral_radius", *_SYSTEM)]
            lines.append([*line, *(_cell(cells[solver]) for solver in solvers)])
        headers = ["radius", "largest singular value", "condition of I - J", *solvers]
        gap = "\n\n" if markdown else "\n"
        texts.append(f"tolerance {tol:g}{gap}{table(headers, lines, markdown=markdown)}")
    return "\n\n".join(texts)


def _cell(row: Row) -> str:
    mark = "" if row["reason"] == "converged" else f", {row['reason'].replace('_', ' ')}"
    return f"{row['products']} ({row['error']:.0e}{mark})"


def _radius(matrix: Tensor) -> float:
    return torch.linalg.eigvals(matrix).abs().max().item()


def _jacobian_at_equilibrium(cell: RecurrentCell, drive: Tensor) -> Tensor:
    """J where the cell comes to rest; found by steps, then by Newton's method."""

    def step(flat: Tensor) -> Tensor:
        state = cell(drive, flat.view(drive.shape))
        assert isinstance(state, Tensor)
        return state.flatten()

    def jacobian(flat: Tensor) -> Tensor:
        return torch.autograd.functional.jacobian(step, flat, vectorize=True)

    h = torch.zeros(drive.numel(), dtype=drive.dtype)
    identity = torch.eye(len(h), dtype=drive.dtype)
    with torch.no_grad():
        for _ in range(_RELAXATION):
            h = step(h)
    for _ in range(_NEWTON):
        matrix = jacobian(h)
        with torch.no_grad():
            correction = torch.linalg.solve(identity - matrix, step(h) - h)
            h = h + correction
        if correction.norm() <= 1e-12 * h.norm():
            break
    return jacobian(h)
