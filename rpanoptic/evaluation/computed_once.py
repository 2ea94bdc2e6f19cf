"""A model's outputs after several numbers of steps, for little more than the price of the last."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from detectron2.modeling.roi_heads import StandardROIHeads
from torch import Tensor, nn

from rpanoptic.recurrent import RecurrentBlock, RecurrentOutput
from rpanoptic.recurrent.blocks import recurrent_blocks, steps_at_test
from rpanoptic.recurrent.cells.base import Drive
from rpanoptic.recurrent.state import State, to_tensors


def outputs_by_step(
    model: nn.Module, inputs: list[dict[str, Any]], steps: Sequence[int]
) -> Iterator[tuple[int, Any]]:
    """Yield what a model gives after each number of steps of its recurrent blocks.

    The model runs its own code for each number, and so gives what it would give by itself; but a
    part that no recurrent block acts on (the backbone, the proposals, the boxes, where only a head
    is recurrent) recalls what it computed first, and a block whose drive is the same as before
    goes on from its last state.

    Args:
        model: in evaluation mode; gradients are off. Not to be used otherwise until the last
            output is taken.
        inputs: a batch, as the model takes it.
        steps: for all blocks, at least as many as each needs; they come in ascending order, each
            once.

    Yields:
        the number of steps, and the model's outputs.
    """
    with ExitStack() as stack:
        for owner, name, untouched in _parts_without_steps(model):
            stack.enter_context(replaced(owner, name, _recalling(untouched)))
        for block in recurrent_blocks(model).values():
            if _follows_the_recurrence(block):
                stack.enter_context(replaced(block, "forward", _Continuing(block)))
        for count in sorted(set(steps)):
            with torch.no_grad(), steps_at_test(model, count):
                outputs = model(inputs)
            yield count, outputs


def _parts_without_steps(model: Any) -> Iterator[tuple[nn.Module, str, Callable[..., Any]]]:
    """Methods of a detector's parts that hold no block and come after none."""
    backbone = getattr(model, "backbone", None)
    if backbone is None:
        return
    if recurrent_blocks(backbone):
        # Of a recurrent feature pyramid the network below may still be feed-forward.
        below = getattr(backbone, "bottom_up", None)
        if below is not None and not recurrent_blocks(below):
            yield below, "forward", below.forward
        return
    yield backbone, "forward", backbone.forward
    for name in ("sem_seg_head", "proposal_generator"):
        part = getattr(model, name, None)
        if part is not None and not recurrent_blocks(part):
            yield part, "forward", part.forward
    proposals, heads = getattr(model, "proposal_generator", None), getattr(model, "roi_heads", None)
    if proposals is None or recurrent_blocks(proposals) or not isinstance(heads, StandardROIHeads):
        return
    if any(recurrent_blocks(part) for part in (heads.box_head, heads.box_predictor)):
        return
    yield heads, "_forward_box", heads._forward_box
    if getattr(heads, "mask_pooler", None) is not None:
        yield heads.mask_pooler, "forward", heads.mask_pooler.forward


def _recalling(function: Callable[..., Any]) -> Callable[..., Any]:
    kept: list[Any] = []

    def recall(*args: Any, **kwargs: Any) -> Any:
        if not kept:
            kept.append(function(*args, **kwargs))
        # Post-processing scales boxes in place, and heads write into the instances.
        return kept[0] if _only_tensors(kept[0]) else copy.deepcopy(kept[0])

    return recall


def _only_tensors(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_only_tensors(part) for part in value.values())
    if isinstance(value, list | tuple):
        return all(_only_tensors(part) for part in value)
    return isinstance(value, Tensor)


@contextmanager
def replaced(owner: nn.Module, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Let an object's method be another function meanwhile."""
    before = vars(owner).get(name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        delattr(owner, name)
        if before is not None:
            setattr(owner, name, before)


def _follows_the_recurrence(block: RecurrentBlock) -> bool:
    """Whether T steps are T steps, no sample being stopped and none mixed with its past."""
    forward = block.method.config.forward
    return block.halt_tol == forward.tol == 0 and forward.acceleration == "none"


@dataclass
class _Run:
    drive: Drive
    first: State | None
    last: State
    steps: int

    def leads_to(self, drive: Drive, first: State | None, steps: int) -> bool:
        """Whether a run with these arguments passes through ``last`` before its end."""
        return self.steps < steps and _equal(self.drive, drive) and _equal(self.first, first)


class _Continuing:
    """A block's ``forward`` that goes on from the last state where its drive is the same."""

    def __init__(self, block: RecurrentBlock) -> None:
        self._block = block
        self._forward = block.forward
        self._run: _Run | None = None

    def __call__(
        self, drive: Drive, state: State | None = None, steps: int | None = None, **options: Any
    ) -> RecurrentOutput:
        wanted = steps or self._block.steps_test or self._block.steps
        run = self._run
        if run is None or options or not run.leads_to(drive, state, wanted):
            output = self._forward(drive, state, wanted, **options)
        else:
            output = self._forward(drive, run.last, wanted - run.steps)
            seen = output.diagnostics
            output.diagnostics = replace(seen, steps=seen.steps + run.steps)
            self._block.last = output.diagnostics
        self._run = None if options else _Run(drive, state, output.state, wanted)
        return output


def _equal(one: Drive | State | None, other: Drive | State | None) -> bool:
    if one is None or other is None:
        return one is other
    first, second = to_tensors(one), to_tensors(other)
    return len(first) == len(second) and all(
        a is b or (a.shape == b.shape and torch.equal(a, b))
        for a, b in zip(first, second, strict=True)
    )
