"""Optimizers and schedules by name, as Detectron2 builds them, and one more kind of clipping."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier
from detectron2.solver.build import (
    build_lr_scheduler,
    get_default_optimizer_params,
    maybe_add_gradient_clipping,
)
from torch import nn

from rpanoptic.errors import ConfigError, naming

logger = logging.getLogger(__name__)

# SOLVER.CLIP_GRADIENTS.CLIP_TYPE beyond Detectron2's "value" and "norm", which clip each
# parameter for itself: CLIP_VALUE then bounds the norm of all gradients together.
FULL_MODEL = "full_model"


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer that ``RPANOPTIC.OPTIMIZER`` names; the rest is read from ``SOLVER``.

    Args:
        cfg: config of the run.
        model: its trainable parameters are optimized, those of normalisation layers with
            ``SOLVER.WEIGHT_DECAY_NORM``.

    Raises:
        ConfigError: the optimizer's name or ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE`` is unknown.
    """
    name = cfg.RPANOPTIC.OPTIMIZER
    if name not in OPTIMIZERS:
        known = ", ".join(sorted(OPTIMIZERS))
        raise ConfigError(f"RPANOPTIC.OPTIMIZER {name!r} is unknown; known: {known}.")
    params = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
    return OPTIMIZERS[name](cfg, params)


def build_schedule(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRMultiplier:
    """Build the schedule that ``SOLVER.LR_SCHEDULER_NAME`` names: "WarmupMultiStepLR", by
    ``STEPS`` and ``GAMMA``, or "WarmupCosineLR", which ends at 0; see Detectron2.

    Args:
        cfg: config of the run.
        optimizer: its rates are multiplied.

    Raises:
        ConfigError: the schedule or ``SOLVER.WARMUP_METHOD`` is unknown.
    """
    with naming("SOLVER"):
        schedule = build_lr_scheduler(cfg, optimizer)
    warmup, most = cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.MAX_ITER
    if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupCosineLR" and warmup >= most:
        # A warm-up rises to where the schedule is at its end, which here is 0.
        logger.warning(
            "SOLVER.WARMUP_ITERS is %d and MAX_ITER %d: by WarmupCosineLR the rate never rises "
            "above WARMUP_FACTOR (%g) of BASE_LR.",
            warmup,
            most,
            cfg.SOLVER.WARMUP_FACTOR,
        )
    return schedule


def _sgd(cfg: CfgNode, params: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return _clipping(cfg, torch.optim.SGD)(
        params,
        lr=cfg.SOLVER.BASE_LR,
        momentum=cfg.SOLVER.MOMENTUM,
        nesterov=cfg.SOLVER.NESTEROV,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
    )


def _adam(cfg: CfgNode, params: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return _clipping(cfg, torch.optim.Adam)(
        params, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY
    )


def _adamw(cfg: CfgNode, params: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return _clipping(cfg, torch.optim.AdamW)(
        params, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY
    )


# What RPANOPTIC.OPTIMIZER may name.
OPTIMIZERS: dict[str, Callable[[CfgNode, list[dict[str, Any]]], torch.optim.Optimizer]] = {
    "adam": _adam,
    "adamw": _adamw,
    "sgd": _sgd,
}


def _clipping(cfg: CfgNode, optimizer: Any) -> Any:
    """The optimizer class, or a subclass that clips gradients before each step."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED or clip.CLIP_TYPE != FULL_MODEL:
        try:
            return maybe_add_gradient_clipping(cfg, optimizer)
        except ValueError as error:
            raise ConfigError(
                f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE {clip.CLIP_TYPE!r} is unknown; "
                f"known: {FULL_MODEL}, norm, value."
            ) from error
    limit, norm_type = clip.CLIP_VALUE, clip.NORM_TYPE

    class ClippingOptimizer(optimizer):
        def step(self, closure: Callable[[], float] | None = None) -> float | None:
            params = [param for group in self.param_groups for param in group["params"]]
            torch.nn.utils.clip_grad_norm_(params, limit, norm_type)
            return super().step(closure)

    return ClippingOptimizer
