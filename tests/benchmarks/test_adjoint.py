from __future__ import annotations

import pytest
import torch

from rpanoptic.benchmarks import adjoint
from rpanoptic.errors import ConfigError
from rpanoptic.recurrent import SOLVERS


@pytest.fixture(scope="module")
def rows() -> list[dict[str, object]]:
    return adjoint.compare([0.8], [1e-3, 1e-6], channels=2, size=3)


def test_a_system_has_the_spectral_radius_that_was_asked_for() -> None:
    system = adjoint.build_system(0.9, channels=2, size=3)
    assert system.spectral_radius == pytest.approx(0.9, abs=1e-6)
    assert system.largest_singular_value >= system.spectral_radius
    residual = system.gradient + system.jacobian.T @ system.solution - system.solution
    assert residual.norm() < 1e-10 * torch.linalg.vector_norm(system.gradient)


def test_every_solver_reaches_every_tolerance(rows: list[dict]) -> None:
    assert {(row["solver"], row["tol"]) for row in rows} == {
        (solver, tol) for solver in SOLVERS for tol in (1e-3, 1e-6)
    }
    for row in rows:
        assert row["reason"] == "converged"
        assert row["residual"] <= row["tol"]
        # |u - u*| <= |(I - J^T)^-1| |residual|, and |g| <= |I - J^T| |u*|.
        assert row["error"] <= row["condition"] * row["residual"] * (1 + 1e-6)


def test_a_krylov_solver_needs_fewer_products_than_the_series(rows: list[dict]) -> None:
    products = {row["solver"]: row["products"] for row in rows if row["tol"] == 1e-6}
    assert 0 < products["gmres"] < products["neumann"]


def test_the_table_is_complete(rows: list[dict]) -> None:
    text = adjoint.tabulated(rows, markdown=True)
    assert all(solver in text for solver in SOLVERS)
    assert all(str(row["products"]) in text for row in rows)
    assert "tolerance 1e-06" in text


def test_a_solver_that_gives_up_is_marked() -> None:
    rows = adjoint.compare([0.8], [1e-6], max_steps=4, channels=2, size=3)
    assert "max steps" in adjoint.tabulated(rows, markdown=False)


@pytest.mark.parametrize("radius", [0.2, 1.0, float("nan")])
def test_radii_out_of_range(radius: float) -> None:
    with pytest.raises(ConfigError, match="spectral radius must lie between"):
        adjoint.compare([radius], [1e-3])


def test_a_tolerance_of_zero() -> None:
    with pytest.raises(ConfigError, match="tolerances must be above 0, got 0"):
        adjoint.compare([0.8], [0.0])
