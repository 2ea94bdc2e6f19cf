"""Cells under torch.compile and torch.func: what must be arranged, and what cannot be."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn


def is_compiled(cell: nn.Module) -> bool:
    """Whether the cell or a part of it was compiled, in place or by a wrapper."""
    return any(
        getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")
        for module in cell.modules()
    )


def twice_differentiable(cell: nn.Module) -> AbstractContextManager[Any]:
    """Within it a compiled cell runs as it was written: a compiled graph has no double backward."""
    if torch.compiler.is_compiling() or not is_compiled(cell):
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def in_transform() -> bool:
    """Whether a transform of :mod:`torch.func` is at work; its tensors do not outlive it."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None


def refuse_transforms() -> None:
    """Raise a RuntimeError inside a transform of :mod:`torch.func`, which has no tape to keep."""
    if in_transform():
        raise RuntimeError(
            "backend 'tape' keeps a step on autograd's tape, which torch.func does not have; "
            "use backend 'functional'"
        )
