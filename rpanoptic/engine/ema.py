"""An exponential moving average of the weights, which is what a training is judged by."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rpanoptic.errors import ConfigError
from rpanoptic.recurrent import unwrapped

logger = logging.getLogger(__name__)

Tensors = tuple[Tensor, ...] | list[Tensor]


def ema_decay(cfg: CfgNode) -> float:
    """The decay of the average, 0 for none.

    Raises:
        ConfigError: ``RPANOPTIC.EMA_DECAY`` is out of range, or is set together with
            ``TEST.PRECISE_BN``.
    """
    decay = cfg.RPANOPTIC.EMA_DECAY
    if not 0 <= decay < 1:
        raise ConfigError(
            f"RPANOPTIC.EMA_DECAY is {decay}; it must be above 0 and below 1, or 0 for no average."
        )
    if decay and cfg.TEST.PRECISE_BN.ENABLED:
        raise ConfigError(
            "TEST.PRECISE_BN.ENABLED would take the statistics of the training's weights, but with "
            "RPANOPTIC.EMA_DECAY their average is judged: set one of the two only."
        )
    return float(decay)


class WeightAverage(HookBase):
    """Keeps the average a of the weights w: after each step, a <- decay a + (1 - decay) w.

    It begins as the weights from which the training starts. Running statistics of normalisation
    layers are averaged like weights, so that both are of the same past; what is no floating-point
    number (counters) is copied. All processes of a training have equal weights, hence equal
    averages, but for running statistics: as everywhere, those of the main process count.

    A checkpoint has one entry "model" that every tool loads. In periodic checkpoints it is the
    training's weights, in ``model_best.pth`` and ``model_final.pth`` the average; the state of this
    hook holds both, so that a resume continues from either. Tensors that a file names twice are
    stored once.

    Args:
        model: the model that is trained, wrapped for several processes or not.
        decay: a step, above 0 and below 1; 0 keeps no average, and the hook then only sees that
            a checkpoint with one continues from the training's weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = unwrapped(model)
        self._average: AveragedModel | None = None
        if decay:
            self._average = AveragedModel(
                self._model, multi_avg_fn=_averaging(decay), use_buffers=True
            )
        self._loaded = False

    @property
    def judged(self) -> nn.Module:
        """What evaluations judge: the averaged model, or the model itself where none is kept."""
        return self._model if self._average is None else self._average.module

    def before_train(self) -> None:
        """Let the average begin, unless it goes on."""
        if self._average is None or self._loaded:
            return
        if self.trainer.start_iter > 0:
            logger.warning(
                "The checkpoint holds no average of the weights (RPANOPTIC.EMA_DECAY): it begins "
                "with the weights as they are now."
            )
        # The first update copies.
        self._average.update_parameters(self._model)

    def after_step(self) -> None:
        """Take in the weights after a step."""
        if self._average is not None:
            self._average.update_parameters(self._model)

    def state_dict(self) -> dict[str, Any]:
        """The weights of the training and their average; nothing where none is kept."""
        if self._average is None:
            return {}
        return {"training": self._model.state_dict(), "average": self.judged.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with both; whichever of them the checkpoint's "model" was has been loaded."""
        self._model.load_state_dict(state_dict["training"])
        if self._average is None:
            logger.warning(
                "RPANOPTIC.EMA_DECAY is 0: the average of the weights in the checkpoint is dropped."
            )
            return
        self._average.update_parameters(self._model)
        self.judged.load_state_dict(state_dict["average"])
        self._loaded = True


def _averaging(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    average = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(averages: Tensors, weights: Tensors, count: Tensor | int) -> None:
        """For tensors of one type."""
        if averages[0].is_floating_point() or averages[0].is_complex():
            average(averages, weights, count)
            return
        for kept, new in zip(averages, weights, strict=True):
            kept.copy_(new)

    return update
