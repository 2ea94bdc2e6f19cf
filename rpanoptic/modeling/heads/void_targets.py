"""The loss of Detectron2's semantic head where the ground truth is void everywhere."""

from __future__ import annotations

from functools import partial

from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import Tensor, nn


def accept_void_targets(model: nn.Module) -> None:
    """Let Detectron2's semantic heads in a model give 0 where no pixel counts, in place.

    Detectron2 takes the mean over the pixels that count, which is 0 / 0 for crops that are void
    everywhere, and ends the training. All other losses stay as they are, to the last bit.

    Args:
        model: any; heads with a loss of their own stay as they are.
    """
    for part in model.modules():
        if isinstance(part, SemSegFPNHead) and type(part).losses is SemSegFPNHead.losses:
            # Not a method bound to it: a pickled one would be the class's again.
            part.losses = partial(_losses, part)


def _losses(head: SemSegFPNHead, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
    if (targets != head.ignore_value).any():
        return SemSegFPNHead.losses(head, predictions, targets)
    # Of all predictions, so that each parameter has a gradient: processes wait for all of them.
    return {"loss_sem_seg": 0 * predictions.float().sum()}
