"""The published sizes of the models, trainable parameters with FREEZE_AT 2."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

import rpanoptic.modeling  # noqa: F401  registers the heads
from rpanoptic import add_rpanoptic_config
from tests.paths import CONFIGS


@pytest.mark.parametrize(
    ("config", "expected"),
    [("coco_panoptic_baseline.yaml", 45_751_590), ("coco_panoptic_crbp.yaml", 44_968_038)],
)
def test_trainable_parameters(config: str, expected: int) -> None:
    cfg = get_cfg()
    add_rpanoptic_config(cfg)
    cfg.merge_from_file(str(CONFIGS / config))
    # On the meta device nothing is initialised: only shapes are wanted.
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected
