"""Stopping a training whose losses or gradients are not finite, before the weights are spoilt.

The checks cost one number that is read from the device, as writing losses to the log does. What
is at fault is searched only when one fails, see :mod:`rpanoptic.engine.finite_search`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor, nn

from rpanoptic.engine.finite_search import Found, first_nonfinite_gradient, first_nonfinite_output
from rpanoptic.errors import NonFiniteError, listed
from rpanoptic.recurrent import unwrapped

Batch = Sequence[dict[str, Any]]
# Names that a message lists before it only counts the rest.
_LISTED = 8
_HELP = (
    "The step was not taken; the last checkpoint is as it was. SOLVER.CLIP_GRADIENTS, full "
    "precision, a longer warm-up or a smaller SOLVER.BASE_LR may help; --resume keeps the "
    "checkpoint's BASE_LR, so another one needs a new training, which may start from that "
    "checkpoint by MODEL.WEIGHTS."
)


def check_losses(
    losses: Mapping[str, Tensor],
    *,
    model: nn.Module,
    data: Batch,
    iteration: int,
    amp: torch.dtype | None = None,
) -> None:
    """Stop if a loss is infinite or not a number, in this process or another one.

    To be called in every process, after the backward pass and before the optimizer's step: there
    reading the losses costs no more than writing them to the log does, and no process waits in
    the backward pass for one that has stopped.

    Args:
        losses: scalars by name.
        model: the model that gave them, wrapped or not.
        data: its input.
        iteration: of the training.
        amp: type of the forward pass under autocast, None for full precision.

    Raises:
        NonFiniteError: a loss is not finite. It names the losses, the first module whose output
            is not finite and the pictures; it is the same in all processes.
    """
    if not losses:
        return
    values = torch.stack([loss.detach().float().reshape(()) for loss in losses.values()])
    finite = values.isfinite()
    if _all_processes(finite.all()):
        return
    bad = [
        f"{name} is {value:g}"
        for name, value, good in zip(losses, values.tolist(), finite.tolist(), strict=True)
        if not good
    ]
    _stop(
        iteration,
        ", ".join(bad),
        data,
        (lambda: first_nonfinite_output(model, data, amp=amp)) if bad else None,
    )


def check_gradients(
    model: nn.Module, *, data: Batch, iteration: int, amp: torch.dtype | None = None
) -> None:
    """Stop if a gradient is infinite or not a number although the losses are finite.

    One pass over the gradients, for their extremes: little beside the backward pass, so this
    is done in every iteration. To be called in every process once the gradients are complete,
    before the optimizer's step. Not with a loss scale in float16: there infinite gradients are
    expected, and the scaler leaves such steps out.

    Args:
        model: the model, wrapped or not; processes have exchanged its gradients.
        data: its input.
        iteration: of the training.
        amp: type of the forward pass under autocast, None for full precision.

    Raises:
        NonFiniteError: a gradient is not finite. It names parameters, the module at whose output
            such a gradient first appears and the pictures.
    """
    named = {
        name: param.grad
        for name, param in unwrapped(model).named_parameters()
        if param.grad is not None and param.grad.numel()
    }
    if not named:
        return
    # Extremes cannot overflow, as a norm can, and take a tenth of the time of isfinite() on a CPU.
    extremes = torch.stack([torch.stack(torch.aminmax(g)) for g in named.values()])
    finite = extremes.isfinite().all(dim=1)
    if _all_processes(finite.all()):
        return
    bad = [name for name, good in zip(named, finite.tolist(), strict=True) if not good]
    _stop(
        iteration,
        f"the gradients of {len(bad)} of {len(named)} parameters are not finite, though the "
        f"losses are: {listed(bad, most=_LISTED)}",
        data,
        lambda: first_nonfinite_gradient(model, data, amp=amp),
    )


@contextlib.contextmanager
def explained_forward(
    *, model: nn.Module, data: Batch, iteration: int, amp: torch.dtype | None = None
) -> Iterator[None]:
    """Turn what a forward pass raises over numbers that are not finite into our error.

    Detectron2's proposal generator stops the pass before there is a loss. Other processes may
    wait for this one then; whoever started them ends them.

    Args:
        model: the model that is run inside, wrapped or not.
        data: its input.
        iteration: of the training.
        amp: type of the forward pass under autocast, None for full precision.

    Raises:
        NonFiniteError: a FloatingPointError was raised inside.
    """
    try:
        yield
    except NonFiniteError:
        raise
    except FloatingPointError as error:
        found = first_nonfinite_output(model, data, amp=amp)
        message = _message(iteration, str(error).rstrip(".!\n "), _pictures(data), found)
        raise NonFiniteError(message) from error


def _all_processes(good: Tensor) -> bool:
    """Whether a bool scalar is true in every process."""
    if comm.get_world_size() > 1:
        number = good.to(torch.int32)
        dist.all_reduce(number, op=dist.ReduceOp.MIN)
        return bool(number)
    return bool(good)


def _stop(iteration: int, what: str, data: Batch, search: Callable[[], Found] | None) -> None:
    """Raise one message in all processes: that of a process whose batch is at fault.

    What is not finite in one process may come from another: gradients are averaged, and some
    normalisation layers share their statistics. So the first process counts whose search has
    found something in its own batch; where none has, the pictures of all are named.
    """
    own = (what, search(), _pictures(data)) if search is not None else None
    answers: list[tuple[str, Found, list[str]] | None] = comm.all_gather(own)
    said = {rank: answer for rank, answer in enumerate(answers) if answer is not None}
    rank = next((rank for rank, (_, found, _) in said.items() if found.certain), next(iter(said)))
    what, found, pictures = said[rank]
    count = comm.get_world_size()
    process = f"process {rank} of {count}, " if count > 1 else ""
    whose = ""
    if len(said) > 1 and not found.certain:
        pictures = [name for _, _, names in said.values() for name in names]
        whose = f" of processes {listed([*said], most=_LISTED)}"
    raise NonFiniteError(f"{process}{_message(iteration, what, pictures, found, whose)}")


def _message(
    iteration: int, what: str, pictures: Sequence[str], found: Found, whose: str = ""
) -> str:
    return (
        f"iteration {iteration}: {what}. {found.text} "
        f"Pictures{whose}: {listed(pictures, most=_LISTED)}. {_HELP}"
    )


def _pictures(data: Batch) -> list[str]:
    return [str(sample.get("file_name", "(no file)")) for sample in data]
