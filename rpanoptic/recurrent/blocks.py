"""The recurrent blocks inside a model: finding them, running them for other steps."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from rpanoptic.recurrent.dynamics import RecurrentBlock


def recurrent_blocks(model: nn.Module) -> dict[str, RecurrentBlock]:
    """The recurrent blocks of a model by their module name, the name being free of wrappers.

    A model that is a block itself is called "model".
    """
    modules = unwrapped(model).named_modules()
    return {
        name or "model": module for name, module in modules if isinstance(module, RecurrentBlock)
    }


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrapper for several processes, or the model itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def check_steps(model: nn.Module, steps: Collection[int]) -> None:
    """Check that every block of a model can be run for each of these numbers of steps.

    Raises:
        ValueError: a block cannot; it is named with the least number that it takes.
    """
    for name, block in recurrent_blocks(model).items():
        for count in steps:
            block.check_steps(f"steps of {name}", count)


@contextmanager
def steps_at_test(model: nn.Module, steps: int | Mapping[str, int] | None) -> Iterator[None]:
    """Run the recurrent blocks of a model, in evaluation mode, for so many steps meanwhile.

    Args:
        model: any module.
        steps: for all blocks, or by the names of :func:`recurrent_blocks`; at least as many as a
            block's cell needs, 1 for most. Blocks that are not named keep theirs; None changes
            nothing.

    Raises:
        ValueError: too few steps for a block, or a name of no block (the names are listed).
    """
    blocks = recurrent_blocks(model)
    if steps is None:
        wanted = {}
    elif isinstance(steps, Mapping):
        wanted = dict(steps)
    else:
        wanted = dict.fromkeys(blocks, steps)
    for name, count in wanted.items():
        if name not in blocks:
            close = difflib.get_close_matches(name, blocks, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            known = ", ".join(blocks) or "none"
            raise ValueError(f"the model has no recurrent block {name!r}; it has: {known}{hint}")
        wanted[name] = blocks[name].check_steps(f"steps of {name}", count)
    before = {name: blocks[name].steps_test for name in wanted}
    try:
        for name, count in wanted.items():
            blocks[name].steps_test = count
        yield
    finally:
        for name, count in before.items():
            blocks[name].steps_test = count
