"""Batch normalisation across processes where PyTorch's own needs GPUs."""

from __future__ import annotations

import logging

from detectron2.layers import NaiveSyncBatchNorm
from torch import nn

logger = logging.getLogger(__name__)


def replace_sync_batch_norm(model: nn.Module) -> list[str]:
    """Replace every :class:`torch.nn.SyncBatchNorm` in a model by one that runs on CPUs.

    Detectron2's takes its place, with the same weights under the same names, so checkpoints of
    either load into the other. It weighs each process by its number of samples, of which there
    may be none.

    Args:
        model: changed in place; its inputs to these layers must be ``(N, C, H, W)``.

    Returns:
        the names of the replaced modules.
    """
    found = [name for name, module in model.named_modules() if isinstance(module, nn.SyncBatchNorm)]
    for name in found:
        parent_name, _, child = name.rpartition(".")
        old = model.get_submodule(name)
        assert isinstance(old, nn.SyncBatchNorm)
        new = NaiveSyncBatchNorm(
            old.num_features,
            eps=old.eps,
            momentum=old.momentum,
            affine=old.affine,
            track_running_stats=old.track_running_stats,
            stats_mode="N",
        )
        new.load_state_dict(old.state_dict())
        new.train(old.training)
        setattr(model.get_submodule(parent_name), child, new)
    if found:
        logger.info(
            "SyncBN needs GPUs: on CPUs Detectron2's naiveSyncBN_N takes its place in %s.",
            ", ".join(found),
        )
    return found
