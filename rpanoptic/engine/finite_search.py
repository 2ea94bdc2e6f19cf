"""Which part of a model first gives numbers that are not finite.

The batch is run once more, with hooks on all modules. Random numbers differ from those of the
failed pass, so the second one may go well; that is said then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from rpanoptic.recurrent import unwrapped
from rpanoptic.recurrent.gradients.compiled import in_transform

Batch = Sequence[dict[str, Any]]
# (module's name, module, output)
Visit = Callable[[str, nn.Module, Any], None]


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Attributes:
        text: a sentence or two for a message.
        module: name of the module at fault; None where there is none.
        certain: whether this batch gave numbers that are not finite again, or held some.
    """

    text: str
    module: str | None = None
    certain: bool = False


def first_nonfinite_output(
    model: nn.Module, data: Batch, *, amp: torch.dtype | None = None
) -> Found:
    """Search the first module whose output is not finite, or what is not finite before any runs.

    Args:
        model: in training mode, wrapped or not. Its parameters and their gradients stay as they
            are; running statistics may change.
        data: its input.
        amp: type of the forward pass under autocast, None for full precision.
    """
    model = unwrapped(model)
    pictures = [sample for sample in data if not _is_finite(sample.get("image"))]
    if pictures:
        names = ", ".join(str(sample.get("file_name", "(no file)")) for sample in pictures)
        return Found(f"The input itself is not finite: {names}.", certain=True)
    bad = [name for name, tensor in _constants(model) if not _is_finite(tensor)]
    weights = f" {len(bad)} of its weights are not finite, the first {bad[0]}." if bad else ""
    found: list[tuple[str, nn.Module]] = []

    def visit(name: str, module: nn.Module, output: Any) -> None:
        # Inner modules end before those around them, so the first is the innermost.
        if not found and not _is_finite(output):
            found.append((name, module))

    _run(model, data, visit, amp=amp)
    if not found:
        return Found(f"A second pass of the model over the batch stayed finite.{weights}")
    name, module = found[0]
    where = f"{name} ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
    return Found(
        f"The model's first module with an output that is not finite is {where}.{weights}",
        name or None,
        certain=True,
    )


def first_nonfinite_gradient(
    model: nn.Module, data: Batch, *, amp: torch.dtype | None = None
) -> Found:
    """Search the module at whose output a gradient that is not finite first arrives.

    Args:
        model: in training mode, wrapped or not. Its parameters and their gradients stay as they
            are; running statistics may change.
        data: its input.
        amp: type of the forward pass under autocast, None for full precision.
    """
    model = unwrapped(model)
    found: list[tuple[str, nn.Module]] = []

    def watch(name: str, module: nn.Module) -> Callable[[Tensor], None]:
        def look(gradient: Tensor) -> None:
            if not found and not _is_finite(gradient):
                found.append((name, module))

        return look

    def visit(name: str, module: nn.Module, output: Any) -> None:
        for tensor in _tensors(output):
            # A loss gets its gradient from us.
            if tensor.requires_grad and tensor.dim() > 0:
                tensor.register_hook(watch(name, module))

    losses = _run(model, data, visit, amp=amp)
    total = sum(_tensors(losses)) if losses is not None else None
    if not isinstance(total, Tensor) or not total.requires_grad:
        return Found("A second pass over the batch gave no losses.")
    parameters = [param for param in model.parameters() if param.requires_grad]
    with contextlib.suppress(Exception):
        # Not backward(): the gradients that are there, and what processes exchange, stay alone.
        torch.autograd.grad(total, parameters, allow_unused=True)
    if not found:
        return Found(
            "In a second pass over the batch the gradients of all modules' outputs were finite."
        )
    name, module = found[0]
    return Found(
        "In the backward pass, such a gradient first arrives at the output of "
        f"{name or 'the model'} ({type(module).__name__}).",
        name or None,
        certain=True,
    )


def _run(model: nn.Module, data: Batch, visit: Visit, *, amp: torch.dtype | None) -> Any:
    """The model's losses, or None where the pass itself fails; ``visit`` sees every output."""
    device = next((param.device.type for param in model.parameters()), "cpu")
    with (
        _hooked(model, visit),
        _without_exchange(model),
        EventStorage(),
        torch.enable_grad(),
        torch.autocast(device, dtype=amp, enabled=amp is not None),
        # The search explains an error; one of its own must not take that error's place.
        contextlib.suppress(Exception),
    ):
        return model(data)
    return None


@contextlib.contextmanager
def _hooked(model: nn.Module, visit: Visit) -> Iterator[None]:
    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, _: Any, output: Any) -> None:
            # The tensors of a transform have no values to look at; those outside have.
            if not in_transform():
                visit(name, module, output)

        return look

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in model.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _without_exchange(model: nn.Module) -> Iterator[None]:
    """Keep normalisation layers from waiting for other processes, which may not search."""
    kinds = (nn.SyncBatchNorm, NaiveSyncBatchNorm)
    layers = [m for m in model.modules() if isinstance(m, kinds) and m.training]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()


def _constants(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a training pass reads and does not change: all but the running statistics."""
    yield from model.named_parameters()
    for prefix, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            continue
        yield from module.named_buffers(prefix, recurse=False)


def _is_finite(value: Any) -> bool:
    return all(
        bool(tensor.isfinite().all())
        for tensor in _tensors(value)
        if tensor.is_floating_point()
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in what a module of Detectron2 may return."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Boxes, ImageList)):
        yield value.tensor
    elif isinstance(value, Instances):
        yield from _tensors(value.get_fields())
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
