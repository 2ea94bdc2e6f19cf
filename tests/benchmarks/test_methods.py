from __future__ import annotations

import sys

import pytest
import torch

from rpanoptic.benchmarks.methods import METHODS, NAMES, build_loss, check_method
from rpanoptic.benchmarks.problem import Problem
from rpanoptic.benchmarks.worker import Task, measure, time_calls
from rpanoptic.errors import ConfigError

TINY = Problem(channels=4, size=6, batch=2)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_takes_a_training_step(name: str) -> None:
    instance = TINY.build()
    loss = instance.train(build_loss(name, instance, steps=3, terms=2))
    assert loss == loss
    assert instance.drive_gradient().norm() > 0
    assert instance.parameter_gradient().numel() == sum(
        p.numel() for p in instance.cell.parameters()
    )


def test_all_terms_and_steps_are_spent() -> None:
    instance = TINY.build()
    loss = build_loss("rbp", instance, steps=4, terms=3)
    instance.train(loss)
    assert loss.block is not None and loss.block.last is not None
    record = loss.block.last.adjoint
    assert loss.block.last.steps.tolist() == [4, 4]
    assert record is not None and record.terms is not None
    assert record.terms.tolist() == [3, 3]


def test_the_penalty_is_part_of_the_loss() -> None:
    losses = {}
    for name in ("rbp", "crbp"):
        instance = TINY.build()
        losses[name] = instance.train(build_loss(name, instance, steps=3, terms=2))
    assert losses["crbp"] > losses["rbp"]


def test_torchdeq_finds_the_gradient_of_rbp_at_an_equilibrium() -> None:
    pytest.importorskip("torchdeq")
    gradients = []
    for name in ("rbp", "torchdeq"):
        instance = Problem("hgru_pathfinder", channels=4, size=6, batch=2).build()
        instance.train(build_loss(name, instance, steps=100, terms=60))
        gradients.append(torch.cat([instance.drive_gradient(), instance.parameter_gradient()]))
    # float32, through a hundred steps: rounding, no more.
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)


def test_torchdeq_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdeq", None)
    with pytest.raises(ConfigError, match=r"pip install torchdeq==0\.1\.0"):
        build_loss("torchdeq", TINY.build(), steps=3, terms=2)


def test_an_unknown_method_is_named_with_the_known() -> None:
    with pytest.raises(ConfigError, match="unknown method 'rpb'") as caught:
        check_method("rpb")
    assert all(name in str(caught.value) for name in NAMES)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (Problem("hrgu"), "unknown cell 'hrgu'"),
        (Problem(kernel_size=4), "kernel_size must be odd"),
        (Problem(size=0), "size and batch must be at least 1"),
        (Problem(device="tpu3"), "device must be 'cpu' or 'cuda', got 'tpu3'"),
    ],
)
def test_impossible_problems(problem: Problem, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        problem.build()


def test_a_problem_is_the_same_at_every_build() -> None:
    first, second = TINY.build(), TINY.build()
    assert torch.equal(first.drive, second.drive)
    assert torch.equal(first.weight, second.weight)
    for one, other in zip(first.cell.parameters(), second.cell.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_task_survives_json() -> None:
    task = Task("speed", "crbp", 7, terms=3, problem=TINY)
    assert Task.load(task.dump()) == task


def test_terms_default_to_those_of_back_propagation_through_time() -> None:
    threads = torch.get_num_threads()
    result = measure(Task("speed", "rbp", 4, repeats=1, threads=threads, problem=TINY))
    assert result["terms"] == 3
    assert 0 < result["seconds"] <= result["median_seconds"]


def test_a_call_to_warm_up_is_not_timed() -> None:
    calls: list[int] = []
    times = time_calls(lambda: calls.append(1), "cpu", repeats=3)
    assert (len(times), len(calls)) == (3, 4)
