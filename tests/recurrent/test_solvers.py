"""Adjoint solvers on matrices: exact, each sample for itself, at any scale, honest in failure."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rpanoptic.recurrent import SOLVERS, AdjointConfig, AdjointRecord, StopReason, solve_adjoint

SIZE = 40


def jacobians(radii: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
    """Random matrices ``(N, D, D)`` of the given spectral radii, and of norms above them."""
    torch.manual_seed(0)
    matrices = torch.randn(len(radii), SIZE, SIZE, dtype=torch.float64)
    largest = torch.linalg.eigvals(matrices).abs().amax(dim=1)
    factors = torch.tensor(radii, dtype=torch.float64) / largest
    return (matrices * factors[:, None, None]).to(dtype)


def solve(solver: str, matrices: Tensor, g: Tensor, **limits) -> tuple[Tensor, AdjointRecord]:
    record = AdjointRecord()
    config = AdjointConfig(solver=solver, **limits)
    (u,) = solve_adjoint(
        lambda v: (torch.einsum("nij,ni->nj", matrices, v[0]),),
        (g,),
        config,
        record,
        jvp=lambda v: (torch.einsum("nij,nj->ni", matrices, v[0]),),
    )
    return u, record


def exact(matrices: Tensor, g: Tensor) -> Tensor:
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype)
    return torch.linalg.solve(identity - matrices.mT, g)


@pytest.mark.parametrize("solver", SOLVERS)
def test_equals_the_dense_solve(solver: str) -> None:
    matrices = jacobians([0.3, 0.8, 0.95])
    g = torch.randn(3, SIZE, dtype=torch.float64)
    u, record = solve(solver, matrices, g, max_steps=2000, tol=1e-12, memory=10)
    # The residual is amplified by |(I - J)^-1|, about 100 here at most.
    torch.testing.assert_close(u, exact(matrices, g), rtol=1e-9, atol=1e-9)
    assert (record.reason == StopReason.CONVERGED).all() and (record.residual <= 1e-12).all()
    assert record.finite.all() and not record.failed.any()


@pytest.mark.parametrize("solver", ["anderson", "gmres", "bicgstab", "cg"])
def test_needs_several_times_fewer_products_near_radius_one(solver: str) -> None:
    # As those of settled cells, the eigenvalues are real in the main and few are near the radius.
    torch.manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(2, SIZE, SIZE, dtype=torch.float64)).Q
    values = torch.linspace(-0.5, 1, SIZE, dtype=torch.float64) ** 3 * 0.98
    matrices = vectors * values @ vectors.mT
    g = torch.randn(2, SIZE, dtype=torch.float64)
    terms = {
        name: solve(name, matrices, g, max_steps=2000, tol=1e-6, memory=30)[1].terms
        for name in ("neumann", solver)
    }
    products = 2 * terms[solver] if solver == "cg" else terms[solver]
    assert (3 * products < terms["neumann"]).all()


def test_conjugate_gradients_need_no_contraction() -> None:
    matrices = jacobians([1.5, 3.0])
    g = torch.randn(2, SIZE, dtype=torch.float64)
    u, record = solve("cg", matrices, g, max_steps=400, tol=1e-10)
    torch.testing.assert_close(u, exact(matrices, g), rtol=1e-6, atol=1e-6)
    assert (record.reason == StopReason.CONVERGED).all()


def test_full_gmres_needs_no_contraction_and_at_most_a_product_a_dimension() -> None:
    matrices = jacobians([1.5, 3.0])
    g = torch.randn(2, SIZE, dtype=torch.float64)
    u, record = solve("gmres", matrices, g, max_steps=SIZE, tol=1e-10, memory=SIZE)
    torch.testing.assert_close(u, exact(matrices, g), rtol=1e-6, atol=1e-6)
    assert (record.reason == StopReason.CONVERGED).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_residual_is_the_true_one(solver: str) -> None:
    matrices = jacobians([0.9, 0.6])
    g = torch.randn(2, SIZE, dtype=torch.float64)
    u, record = solve(solver, matrices, g, max_steps=8, tol=0, memory=3)
    left = g + torch.einsum("nij,ni->nj", matrices, u) - u
    true = left.norm(dim=1) / g.norm(dim=1)
    if solver in ("neumann", "anderson"):  # the residual before the last product, an upper estimate
        assert (true <= record.residual).all() and (true > 0.1 * record.residual).all()
    else:
        torch.testing.assert_close(record.residual, true, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sample_alone_and_in_a_batch(solver: str) -> None:
    # Easy, hard and divergent ones, and one whose products are not finite.
    matrices = jacobians([0.2, 0.97, 1.4, 0.5, 0.9])
    matrices[3] = float("nan")
    g = torch.randn(5, SIZE, dtype=torch.float64)
    limits = {"max_steps": 40, "tol": 1e-5, "memory": 4}
    together, record = solve(solver, matrices, g, **limits)
    assert torch.isfinite(together).all()
    for i in range(5):
        alone, own = solve(solver, matrices[i : i + 1], g[i : i + 1], **limits)
        # Batched products round in another order than single ones. What 40 steps make of 1e-16
        # grows with the square of the condition for "cg", and without bound where it diverges.
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-3, atol=1e-3)
        assert record.reason[i] == own.reason[0]
        if i != 2:
            assert record.terms[i] == own.terms[0]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scale", [65536.0, 2.0**-30])
def test_a_loss_scale_changes_nothing(solver: str, scale: float) -> None:
    matrices = jacobians([0.2, 0.9, 0.99], torch.float32)
    g = torch.randn(3, SIZE)
    plain, record = solve(solver, matrices, g, max_steps=15)
    scaled, scaled_record = solve(solver, matrices, scale * g, max_steps=15)
    # Scales are powers of two: not a bit of the mantissa may change.
    assert torch.equal(scaled, scale * plain)
    assert torch.equal(record.terms, scaled_record.terms)
    assert torch.equal(record.residual, scaled_record.residual)


@pytest.mark.parametrize("solver", SOLVERS)
def test_half_precision_neither_overflows_nor_vanishes(solver: str) -> None:
    matrices = jacobians([0.5, 0.9], torch.float32)
    g = torch.randn(2, SIZE)
    expected = exact(matrices, g)
    for scale in (3e-6, 3e3):  # below float16's smallest normal number, and near its largest
        record = AdjointRecord()
        half = (g * scale).half()
        (u,) = solve_adjoint(
            lambda v: (torch.einsum("nij,ni->nj", matrices, v[0].float()).half(),),
            (half,),
            AdjointConfig(60, 1e-2, solver, memory=10),
            record,
            jvp=lambda v: (torch.einsum("nij,nj->ni", matrices, v[0].float()).half(),),
        )
        assert u.dtype == torch.float16 and not record.failed.any()
        # g itself has lost digits where it is subnormal; the rest is float16's 1e-3, amplified.
        error = (u.float() / scale - expected).norm(dim=1) / expected.norm(dim=1)
        assert (error < 0.1).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_gradient_that_is_not_finite_is_passed_on_and_no_failure(solver: str) -> None:
    matrices = jacobians([0.5, 0.5])
    g = torch.ones(2, SIZE, dtype=torch.float64)
    g[0, 3] = float("inf")
    u, record = solve(solver, matrices, g, max_steps=200, tol=1e-9)
    assert torch.equal(u[0], g[0])
    torch.testing.assert_close(u[1], exact(matrices[1:], g[1:])[0], rtol=1e-6, atol=1e-6)
    assert record.reason[0] == StopReason.NON_FINITE
    assert record.finite.tolist() == [False, True]
    assert not record.failed.any()


@pytest.mark.parametrize("solver", SOLVERS)
def test_products_that_are_not_finite_are_a_failure_with_a_finite_answer(solver: str) -> None:
    matrices = torch.full((1, SIZE, SIZE), float("nan"), dtype=torch.float64)
    g = torch.ones(1, SIZE, dtype=torch.float64)
    u, record = solve(solver, matrices, g, max_steps=20)
    assert torch.equal(u, g)
    assert record.failed.all() and record.reason[0] == StopReason.NON_FINITE
    assert record.terms[0] == 0


@pytest.mark.parametrize("solver", ["neumann", "anderson"])
def test_divergence_is_a_failure_and_the_answer_stays_small(solver: str) -> None:
    matrices = 3.0 * torch.eye(SIZE, dtype=torch.float64)[None]
    matrices[0, 0, 0] = -50.0
    g = torch.ones(1, SIZE, dtype=torch.float64)
    u, record = solve(solver, matrices, g, max_steps=50, memory=1)
    assert record.failed.all() and record.reason[0] == StopReason.DIVERGED
    assert u.norm() <= 10 * g.norm()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_singular_system_gives_no_huge_gradient(solver: str, dtype: torch.dtype) -> None:
    matrices = jacobians([0.6, 0.6], dtype)
    # A number that carries itself over for ever, as a closed gate lets it.
    matrices[0, 0] = 0
    matrices[0, 0, 0] = 1
    g = torch.randn(2, SIZE, dtype=dtype)
    u, record = solve(solver, matrices, g, max_steps=60, tol=1e-6, memory=30)
    assert (u.norm(dim=1) <= 1e4 * g.norm(dim=1)).all()
    assert record.reason[0] != StopReason.CONVERGED
    torch.testing.assert_close(u[1], exact(matrices[1:], g[1:])[0], rtol=1e-3, atol=1e-3)


def test_a_solution_that_is_too_large_to_be_believed_is_a_failure() -> None:
    g = torch.ones(1, 3, dtype=torch.float64)
    matrices = 0.99 * torch.eye(3, dtype=torch.float64)[None]  # u = 100 g
    believed, _ = solve("gmres", matrices, g, max_growth=200.0)
    torch.testing.assert_close(believed, 100 * g)
    given_up, record = solve("gmres", matrices, g, max_growth=50.0)
    assert torch.equal(given_up, g)
    assert record.failed.all() and record.residual.isnan().all() and record.terms[0] == 0


def test_gradients_near_the_largest_number_are_solved_too() -> None:
    g = torch.full((1, SIZE), 1e37)
    u, record = solve("neumann", jacobians([0.5], torch.float32), g, max_steps=60)
    assert record.reason[0] == StopReason.CONVERGED and torch.isfinite(u).all()


def test_gmres_spends_no_product_on_a_restart_that_nothing_follows() -> None:
    for limit in (5, 6, 7, 12):
        spent = 0

        def vjp(v):
            nonlocal spent
            spent += 1
            return (0.9 * v[0].roll(1, dims=1),)

        record = AdjointRecord()
        config = AdjointConfig(limit, 0.0, "gmres", memory=5)
        solve_adjoint(vjp, (torch.eye(SIZE)[:1],), config, record)
        assert int(record.terms) == spent


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("shape", [(0, SIZE), (2, 0)])
def test_nothing_to_solve(solver: str, shape: tuple[int, int]) -> None:
    u, record = solve(solver, torch.zeros(shape[0], SIZE, SIZE), torch.zeros(shape))
    assert u.shape == shape and record.terms.shape == shape[:1]


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_products_give_the_one_step_gradient(solver: str) -> None:
    g = torch.randn(2, SIZE, dtype=torch.float64)
    u, record = solve(solver, jacobians([0.5, 0.9]), g, max_steps=0)
    assert torch.equal(u, g) and record.terms.tolist() == [0, 0]


@pytest.mark.parametrize("solver", SOLVERS)
def test_never_spends_more_products_than_it_may(solver: str) -> None:
    matrices = jacobians([0.99])
    g = torch.randn(1, SIZE, dtype=torch.float64)
    for limit in (1, 2, 7):
        spent = 0

        def vjp(v):
            nonlocal spent
            spent += 1
            return (torch.einsum("nij,ni->nj", matrices, v[0]),)

        config = AdjointConfig(limit, 0, solver, memory=3)
        solve_adjoint(
            vjp, (g,), config, jvp=lambda v: (torch.einsum("nij,nj->ni", matrices, v[0]),)
        )
        assert spent <= limit


def test_a_ridge_solves_the_damped_normal_equations() -> None:
    matrices = jacobians([0.9])
    g = torch.randn(1, SIZE, dtype=torch.float64)
    u, _ = solve("cg", matrices, g, max_steps=300, tol=0, ridge=0.1)
    system = torch.eye(SIZE, dtype=torch.float64) - matrices[0].T
    normal = system.T @ system + 0.1 * torch.eye(SIZE, dtype=torch.float64)
    expected = torch.linalg.solve(normal, system.T @ g[0])
    torch.testing.assert_close(u[0], expected, rtol=1e-8, atol=1e-8)


def test_cg_without_jacobian_vector_products_says_so() -> None:
    g = torch.ones(1, 3)
    with pytest.raises(ValueError, match="'cg' needs Jacobian-vector products"):
        solve_adjoint(lambda v: v, (g,), AdjointConfig(solver="cg"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"solver": "gmress"}, ["gmress", "gmres"]),
        ({"memory": 0}, ["memory", "1"]),
        ({"memory": 2.5}, ["memory", "integer"]),
        ({"max_steps": 2.5}, ["max_steps", "integer"]),
        ({"max_growth": 0.5}, ["max_growth", "1"]),
        ({"ridge": -1.0}, ["ridge"]),
        ({"check_every": -1}, ["check_every"]),
        ({"tol": float("nan")}, ["tol"]),
    ],
)
def test_impossible_options_are_named(options, words) -> None:
    with pytest.raises(ValueError) as caught:
        AdjointConfig(**options)
    assert all(word in str(caught.value) for word in words)
