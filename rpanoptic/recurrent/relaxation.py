"""The forward run: steps of a recurrence towards its equilibrium, each sample for itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from rpanoptic.recurrent.checks import check_choice, check_count, check_number
from rpanoptic.recurrent.solvers import AndersonMixer
from rpanoptic.recurrent.state import (
    Packing,
    State,
    like,
    relative_change,
    row_norms,
    to_tensors,
    where,
)

ACCELERATIONS = ("none", "anderson")
# An accelerated state is taken while the residual is not above this multiple of the smallest so
# far; else the plain step is.
TOLERATED_GROWTH = 2.0

Step = Callable[[State], State]


@dataclass(frozen=True)
class ForwardConfig:
    """How a recurrence is run.

    Args:
        tol: a sample is at its equilibrium, and its state is frozen, when a step changes it by at
            most ``tol`` times its norm. 0 runs all steps.
        acceleration: "none", or "anderson" for Anderson acceleration of all steps but the last.
            It solves ``h = F(x, h)`` instead of following the recurrence: where there are several
            equilibria it may find another, even one that the recurrence would leave. A step that
            contracts has one only.
        memory: vectors that "anderson" mixes.
        check_every: on a GPU, steps between two looks at whether all samples are frozen. Each
            look makes the host wait; 0 never looks. On a CPU it is free and taken every step.

    Raises:
        ValueError: a value is out of its range.
    """

    tol: float = 0.0
    acceleration: str = "none"
    memory: int = 5
    check_every: int = 0

    def __post_init__(self) -> None:
        check_choice("forward acceleration", self.acceleration, ACCELERATIONS)
        check_number("forward tol", self.tol, least=0.0)
        check_count("forward memory", self.memory, least=1)
        check_count("forward check_every", self.check_every, least=0)


class Relaxation:
    """A state on its way to the equilibrium.

    Args:
        state: where it starts, each tensor ``(N, ...)``.
        config: when samples are done.

    Attributes:
        state: where it is.
        steps: ``(N,)`` int64, steps that each sample has taken.
        active: ``(N,)`` bool, samples that are not frozen.
    """

    def __init__(self, state: State, config: ForwardConfig) -> None:
        first = to_tensors(state)[0]
        self.state = state
        self.steps = torch.zeros(first.shape[0], dtype=torch.int64, device=first.device)
        self.active = torch.ones_like(self.steps, dtype=torch.bool)
        self._config = config

    def advance(self, step: Step, count: int) -> None:
        """Take at most ``count`` steps; frozen samples take none."""
        if self._config.acceleration == "anderson":
            self._accelerate(step, count)
        elif self._config.tol > 0:
            for index in range(count):
                if self._all_frozen(index):
                    break
                self._accept(step(self.state))
        else:
            for _ in range(count):
                self.state = step(self.state)
            self.steps = self.steps + count

    def detach(self) -> None:
        """Cut the state off from the graph of the steps so far."""
        self.state = like(tuple(t.detach() for t in to_tensors(self.state)), self.state)

    def _accept(self, state: State) -> None:
        with torch.no_grad():
            change = relative_change(state, self.state)
        self.state = like(where(self.active, to_tensors(state), to_tensors(self.state)), state)
        self.steps = self.steps + self.active
        self.active = self.active & ~(change <= self._config.tol)

    def _accelerate(self, step: Step, count: int) -> None:
        packing = Packing(to_tensors(self.state))
        mixer = AndersonMixer(self._config.memory)
        rows = packing.pack(to_tensors(self.state))
        best, best_size = rows, rows.new_full(rows.shape[:1], torch.inf)
        for index in range(count):
            if self._all_frozen(index):
                break
            value = packing.pack(to_tensors(step(like(packing.unpack(rows), self.state))))
            residual = value - rows
            norm = row_norms(value).clamp_min(torch.finfo(value.dtype).tiny)
            size = row_norms(residual) / norm
            active = self.active[:, None]
            best = torch.where(active & (size < best_size)[:, None], value, best)
            mixed = mixer(value, torch.where(active, residual, 0.0))
            sound = (size <= TOLERATED_GROWTH * best_size) & torch.isfinite(mixed).all(dim=1)
            rows = torch.where(active, torch.where(sound[:, None], mixed, value), rows)
            best_size = torch.minimum(best_size, size)
            self.steps = self.steps + self.active
            self.active = self.active & ~(size <= self._config.tol)
        self.state = like(packing.unpack(best), self.state)

    def _all_frozen(self, index: int) -> bool:
        if self._config.tol == 0 or torch.compiler.is_compiling():
            return False
        if self.active.device.type != "cpu":
            every = self._config.check_every
            if every == 0 or index == 0 or index % every:
                return False
        return not bool(self.active.any())
