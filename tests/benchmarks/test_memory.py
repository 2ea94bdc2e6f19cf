from __future__ import annotations

import sys

import pytest
import torch

from rpanoptic.benchmarks.memory import MIB, allocated_peak, measure_peak
from rpanoptic.benchmarks.methods import build_loss
from rpanoptic.benchmarks.problem import Problem

FLOATS = MIB // 4


def test_the_allocators_peak_counts_what_lives_at_a_time() -> None:
    def together() -> None:
        first = torch.empty(FLOATS)
        second = torch.empty(2 * FLOATS)
        del first, second

    def in_turn() -> None:
        for _ in range(3):
            torch.empty(FLOATS)

    assert allocated_peak(together) == 3 * MIB
    assert allocated_peak(in_turn) == MIB


@pytest.mark.skipif(sys.platform != "linux", reason="a peak can be set back on Linux alone")
def test_the_peak_of_the_process_is_that_of_the_function() -> None:
    large = measure_peak(lambda: torch.ones(64 * FLOATS), "cpu", repeats=1)
    small = measure_peak(lambda: torch.ones(FLOATS), "cpu", repeats=1)
    # What else the process takes in the meantime is far below the difference.
    assert 60 < large.process < 120
    assert small.process < 30
    assert large.tensors == 64
    assert large.baseline > 0


def test_memory_of_the_equilibrium_methods_does_not_grow_with_the_steps() -> None:
    def peak(name: str, steps: int) -> int:
        instance = Problem(channels=8, size=16, batch=2).build()
        loss = build_loss(name, instance, steps=steps, terms=steps - 1)
        return allocated_peak(lambda: instance.train(loss))

    for name in ("rbp", "crbp"):
        # A few bytes a step for counters, nothing of a state's size (16 KiB).
        assert peak(name, 12) - peak(name, 3) < 4096
    # The tape of a step holds several states.
    assert peak("bptt", 12) - peak("bptt", 3) > 9 * 4 * 16384
