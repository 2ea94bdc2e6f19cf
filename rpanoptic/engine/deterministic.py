"""Making two runs of the same config equal, bit by bit."""

from __future__ import annotations

import logging
import os

import torch
from detectron2.config import CfgNode

logger = logging.getLogger(__name__)

# The seed where SEED is not set.
_SEED = 0


def make_deterministic(cfg: CfgNode) -> None:
    """Let PyTorch use deterministic algorithms alone in this process, and fix the seed.

    To be called in every process before anything is computed. On a CPU, an operation without a
    deterministic algorithm is an error. On a GPU, where PyTorch has none for some operations that
    detection needs, it is a warning, and runs may then differ in the last digits.

    Args:
        cfg: ``SEED`` (if it is below 0) and ``CUDNN_BENCHMARK`` are changed in place.
    """
    if cfg.SEED < 0:
        cfg.SEED = _SEED
        logger.info("RPANOPTIC.DETERMINISTIC: SEED becomes %d.", _SEED)
    # It would choose convolutions by the time that they take.
    cfg.CUDNN_BENCHMARK = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    # Read when cuBLAS starts; without a fixed workspace its sums depend on streams.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    on_gpu = torch.device(cfg.MODEL.DEVICE).type == "cuda"
    torch.use_deterministic_algorithms(True, warn_only=on_gpu)
