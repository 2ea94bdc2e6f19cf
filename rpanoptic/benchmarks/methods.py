"""The gradient methods that are compared, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from torch import Tensor

from rpanoptic.benchmarks.problem import Instance
from rpanoptic.errors import ConfigError
from rpanoptic.recurrent import (
    AdjointConfig,
    ForwardConfig,
    LipschitzPenalty,
    RecurrentBlock,
)
from rpanoptic.recurrent.state import like, to_tensors

TORCHDEQ = "torchdeq"
PENALTY = LipschitzPenalty(tau=0.9, weight=10.0, reduction="mean")
# Vectors that "rbp_gmres" collects before it restarts.
GMRES_MEMORY = 20


@dataclass(frozen=True)
class Method:
    """A gradient method with what belongs to it.

    Attributes:
        gradient: a name in :data:`rpanoptic.recurrent.GRADIENTS`.
        adjoint: keyword arguments of :class:`AdjointConfig`.
        block: keyword arguments of :class:`RecurrentBlock`.
    """

    gradient: str
    adjoint: dict[str, Any] = field(default_factory=dict)
    block: dict[str, Any] = field(default_factory=dict)


METHODS: dict[str, Method] = {
    "bptt": Method("bptt"),
    "cbptt": Method("cbptt"),
    "checkpointed_bptt": Method("checkpointed_bptt"),
    "tbptt": Method("tbptt"),
    "rbp": Method("rbp"),
    "crbp": Method("crbp"),
    "rbp_functional": Method("rbp", block={"backend": "functional"}),
    "rbp_anderson": Method("rbp", {"solver": "anderson"}),
    "rbp_gmres": Method("rbp", {"solver": "gmres", "memory": GMRES_MEMORY}),
    "cg_rbp": Method("cg_rbp"),
    "phantom": Method("phantom"),
}
NAMES = (*METHODS, TORCHDEQ)


class Loss:
    """Runs the recurrence and returns the loss, ``<output, weight>`` + penalty.

    Args:
        compute: does so.
        block: what is run, for its diagnostics; None for another library's.
    """

    def __init__(self, compute: Callable[[], Tensor], block: RecurrentBlock | None) -> None:
        self.compute = compute
        self.block = block

    def __call__(self) -> Tensor:
        return self.compute()


def check_method(name: str) -> None:
    """Raise a ConfigError that lists the known methods unless ``name`` is one of them."""
    if name not in NAMES:
        raise ConfigError(f"unknown method {name!r}; known: {', '.join(NAMES)}")


def build_loss(
    name: str,
    instance: Instance,
    *,
    steps: int,
    terms: int,
    forward_tol: float = 0.0,
    adjoint: dict[str, Any] | None = None,
) -> Loss:
    """Build the loss of a method.

    Args:
        name: one of :data:`NAMES`.
        instance: cell, drive and weight.
        steps: of the recurrence.
        terms: vector-Jacobian products of the adjoint solve, all of which are spent.
        forward_tol: where above 0, samples end earlier.
        adjoint: further keyword arguments of :class:`AdjointConfig`, over those of the method.

    Raises:
        ConfigError: an unknown method, or one whose package is not installed.
    """
    check_method(name)
    if name == TORCHDEQ:
        return _torchdeq_loss(instance, steps, terms)
    method = METHODS[name]
    options = {"max_steps": terms, "tol": 0.0, **method.adjoint, **(adjoint or {})}
    block = RecurrentBlock(
        instance.cell,
        steps=steps,
        gradient=method.gradient,
        forward=ForwardConfig(tol=forward_tol),
        adjoint=AdjointConfig(**options),
        penalty=PENALTY,
        on_failure="record",
        **method.block,
    )

    def compute() -> Tensor:
        result = block(instance.drive)
        value = (result.output * instance.weight).sum()
        return value if result.penalty is None else value + result.penalty

    return Loss(compute, block)


def _torchdeq_loss(instance: Instance, steps: int, terms: int) -> Loss:
    try:
        get_deq = import_module("torchdeq").get_deq
    except ImportError as error:
        raise ConfigError(
            "method 'torchdeq' needs TorchDEQ: pip install torchdeq==0.1.0"
        ) from error
    if steps < 2:
        raise ConfigError(f"method 'torchdeq' needs at least 2 steps, got {steps}")
    # One more step follows the forward solver, on the tape. The backward solver starts at 0, so
    # that its first iteration only yields g.
    deq = get_deq(
        ift=True,
        f_solver="fixed_point_iter",
        b_solver="fixed_point_iter",
        f_max_iter=steps - 1,
        b_max_iter=terms + 1,
        f_tol=0.0,
        b_tol=0.0,
    )
    cell, drive = instance.cell, instance.drive

    def compute() -> Tensor:
        first = cell.initial_state(drive)

        def step(*tensors: Tensor) -> tuple[Tensor, ...]:
            return to_tensors(cell(drive, like(tensors, first)))

        outputs, _ = deq(step, to_tensors(first))
        state = like(to_tensors(outputs[-1]), first)
        return (cell.output(state) * instance.weight).sum()

    return Loss(compute, None)
