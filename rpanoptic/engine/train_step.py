"""One training step: mixed precision, and a batch in several parts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from rpanoptic.engine.finite import check_gradients, check_losses, explained_forward
from rpanoptic.errors import CheckpointError, ConfigError, NonFiniteError

# What RPANOPTIC.AMP_DTYPE may name.
AMP_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
# A loss scale starts at 2^16 and is halved whenever a gradient overflows. Below this, gradients
# are not finite at any scale, and every step would be left out without a word.
LEAST_LOSS_SCALE = 2.0**-10


def build_train_step(
    cfg: CfgNode,
    model: nn.Module,
    data_loader: Iterable[list[dict[str, Any]]],
    optimizer: torch.optim.Optimizer,
) -> TrainStep:
    """Build the inner trainer that ``SOLVER.AMP`` and ``RPANOPTIC`` ask for.

    Args:
        cfg: config of the run.
        model: wrapped for several processes, if there are several.
        data_loader: endless, a list of samples a step.
        optimizer: of the model's parameters.

    Raises:
        ConfigError: ``RPANOPTIC.AMP_DTYPE`` is unknown, or needs a GPU.
    """
    dtype = amp_dtype(cfg)
    return TrainStep(
        model,
        data_loader,
        optimizer,
        parts=cfg.RPANOPTIC.ACCUMULATION,
        device=torch.device(cfg.MODEL.DEVICE).type,
        amp=dtype,
        # The exponent of bfloat16 is that of float32: nothing overflows for want of scaling.
        scaler=torch.amp.GradScaler("cuda") if dtype == torch.float16 else None,
    )


def amp_dtype(cfg: CfgNode) -> torch.dtype | None:
    """The type of mixed precision in training, None for full precision.

    Raises:
        ConfigError: ``RPANOPTIC.AMP_DTYPE`` is unknown, or is float16 without a GPU.
    """
    name = cfg.RPANOPTIC.AMP_DTYPE
    if name not in AMP_DTYPES:
        raise ConfigError(
            f"RPANOPTIC.AMP_DTYPE {name!r} is unknown; known: {', '.join(sorted(AMP_DTYPES))}."
        )
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    if name == "float16" and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ConfigError(
            f"SOLVER.AMP.ENABLED with float16 needs a GPU, but MODEL.DEVICE is {cfg.MODEL.DEVICE}: "
            'set RPANOPTIC.AMP_DTYPE to "bfloat16", or SOLVER.AMP.ENABLED to False.'
        )
    return AMP_DTYPES[name]


def check_batch(cfg: CfgNode, processes: int) -> None:
    """Check that the batch can be divided among processes, and each share into parts.

    Args:
        cfg: config of the run, its batch already scaled to the number of processes.
        processes: how many share ``SOLVER.IMS_PER_BATCH``.

    Raises:
        ConfigError: it cannot, or ``RPANOPTIC.ACCUMULATION`` is below 1.
    """
    parts, batch = cfg.RPANOPTIC.ACCUMULATION, cfg.SOLVER.IMS_PER_BATCH
    if parts < 1:
        raise ConfigError(f"RPANOPTIC.ACCUMULATION must be at least 1; got {parts}.")
    if batch < 1 or batch % (processes * parts):
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {batch}, but must be a multiple of {processes * parts}: "
            f"{processes} process(es), each with RPANOPTIC.ACCUMULATION = {parts} part(s) of equal "
            "size."
        )


class TrainStep(SimpleTrainer):
    """Detectron2's inner trainer with mixed precision and accumulated gradients.

    A step is one step of the optimizer, whatever the number of parts: schedule, rates and
    iterations mean the same. The parts of a batch are run one after another and their gradients
    averaged. That is what as many processes would compute: a loss that is a mean over, say, the
    foreground regions of a batch becomes the mean of the parts' means, and batch statistics are
    those of a part.

    Args:
        model: returns a dictionary of scalar losses, or one loss.
        data_loader: endless, a list of samples a step.
        optimizer: may clip gradients within ``step``; it sees them unscaled.
        parts: parts of a batch, at least 1.
        device: type of the model's device, "cpu" or "cuda".
        amp: type of the forward pass under autocast; None for full precision.
        scaler: scales the loss so that gradients in float16 do not vanish; its state is saved.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict[str, Any]]],
        optimizer: torch.optim.Optimizer,
        *,
        parts: int = 1,
        device: str = "cpu",
        amp: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.parts = parts
        self.device = device
        self.amp = amp
        self.grad_scaler = scaler

    def run_step(self) -> None:
        """Take one batch, and one step of the optimizer.

        Raises:
            NonFiniteError: a loss or a gradient is not finite, or gradients are not at any loss
                scale.
            ValueError: the batch cannot be divided into equal parts.
        """
        assert self.model.training, "the model was changed to eval mode"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        parts = _equal_parts(data, self.parts)
        shares = []
        for index, part in enumerate(parts):
            # Processes exchange gradients once, in the backward pass of the last part.
            with self._exchanging(index == self.parts - 1):
                shares.append(self._backward(part))
        for part, losses in zip(parts, shares, strict=True):
            check_losses(losses, model=self.model, data=part, iteration=self.iter, amp=self.amp)
        if self.grad_scaler is None:
            check_gradients(self.model, data=data, iteration=self.iter, amp=self.amp)
        self._write_metrics(_summed(shares), data_time)
        self._update()

    def _backward(self, data: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Add a part's share to the gradients; returns its share of the losses, without graph."""
        with (
            explained_forward(model=self.model, data=data, iteration=self.iter, amp=self.amp),
            torch.autocast(self.device, dtype=self.amp, enabled=self.amp is not None),
        ):
            losses = self.model(data)
        if isinstance(losses, Tensor):
            losses = {"total_loss": losses}
        if self.parts > 1:
            losses = {name: loss / self.parts for name, loss in losses.items()}
        total = sum(losses.values())
        assert isinstance(total, Tensor), "the model returned no loss"
        (self.grad_scaler.scale(total) if self.grad_scaler else total).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def _exchanging(self, wanted: bool) -> contextlib.AbstractContextManager[None]:
        if wanted or not isinstance(self.model, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def _update(self) -> None:
        if self.grad_scaler is None:
            self.optimizer.step()
            return
        # Before the step, within which our optimizers clip: limits are for true gradients.
        self.grad_scaler.unscale_(self.optimizer)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        scale = self.grad_scaler.get_scale()
        if comm.is_main_process():
            get_event_storage().put_scalar("amp/loss_scale", scale, smoothing_hint=False)
        if scale < LEAST_LOSS_SCALE:
            raise NonFiniteError(
                f"at iteration {self.iter} the gradients are not finite at any loss scale (it has "
                f"fallen to {scale:g}), so the model no longer learns; the losses are finite. "
                'RPANOPTIC.AMP_DTYPE "bfloat16" or full precision may help; so may a smaller '
                "SOLVER.BASE_LR in a new training (--resume keeps the checkpoint's)."
            )

    def state_dict(self) -> dict[str, Any]:
        """Iteration, optimizer and loss scale."""
        state = super().state_dict()
        if self.grad_scaler is not None:
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`; the scale starts afresh if the other run had none.

        Raises:
            CheckpointError: the optimizer's state is that of another one, or of other groups.
        """
        saved = state_dict["optimizer"]["param_groups"]
        # PyTorch loads the state of any optimizer, and fails in the next step.
        for key in ("momentum", "betas"):
            if key in self.optimizer.param_groups[0] and not all(key in group for group in saved):
                raise CheckpointError(
                    "--resume: the checkpoint holds the state of another optimizer than "
                    f"RPANOPTIC.OPTIMIZER names: it lacks {key}."
                )
        try:
            super().load_state_dict(state_dict)
        except ValueError as error:
            raise CheckpointError(
                "--resume: the optimizer's state in the checkpoint is of other groups of "
                "parameters: more or fewer are trained, or the rates or weight decays of SOLVER "
                f"that divide them differ ({error})."
            ) from error
        if self.grad_scaler is not None and state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def _equal_parts(data: Sequence[Any], count: int) -> list[Any]:
    if count == 1:
        return [data]
    size, rest = divmod(len(data), count)
    if rest or not size:
        raise ValueError(f"a batch of {len(data)} samples has no {count} equal parts")
    return [data[start : start + size] for start in range(0, len(data), size)]


def _summed(shares: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The sum by name; a part may lack what others have."""
    total: dict[str, Tensor] = {}
    for losses in shares:
        for name, loss in losses.items():
            total[name] = total[name] + loss if name in total else loss
    return total
