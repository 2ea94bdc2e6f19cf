"""A training step and an inference of a panoptic model on each recurrent backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage

from rpanoptic.recurrent import recurrent_blocks
from tests.modeling.meta_arch.models import picture, tiny_model

LATERAL = {"MODEL__RECURRENT__FPN__PLACE": "lateral", "MODEL__RECURRENT__FPN__CELL": "hgru_low_dim"}
ON_RESNET = {
    "MODEL__BACKBONE__NAME": "build_recurrent_resnet_fpn_backbone",
    # The tiny network's stages have fewer channels than "GN" has groups.
    "MODEL__RECURRENT__RESNET__OUTPUT_NORM": "",
    "MODEL__RECURRENT__RESNET__STEPS": 3,
}
# The config's changes, the penalty, and one of the blocks.
BACKBONES: dict[str, tuple[dict[str, Any], str, str]] = {
    "lateral": (LATERAL, "loss_lipschitz_fpn", "backbone.recurrence.p4"),
    "topdown": (
        {"MODEL__RECURRENT__FPN__PLACE": "topdown"},
        "loss_lipschitz_fpn",
        "backbone.recurrence",
    ),
    "stages": (ON_RESNET, "loss_lipschitz_resnet", "backbone.bottom_up.recurrence.res4"),
    "stages with feedback": (
        ON_RESNET
        | {"MODEL__RECURRENT__RESNET__FEEDBACK": True, "MODEL__RESNETS__NORM": "FrozenBN"},
        "loss_lipschitz_resnet",
        "backbone.bottom_up.recurrence",
    ),
}


@pytest.mark.parametrize("kind", list(BACKBONES))
def test_a_step_and_an_inference(tmp_path: Path, kind: str) -> None:
    changes, penalty, block = BACKBONES[kind]
    model = tiny_model("RecurrentPanopticFPN", tmp_path, **changes)
    assert block in recurrent_blocks(model)
    with EventStorage():
        losses = model([picture(2), picture(1)])
    assert {penalty, "loss_lipschitz_mask", "loss_lipschitz_sem_seg", "loss_rpn_cls"} <= set(losses)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for key, parameter in model.backbone.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    model.eval()
    with torch.no_grad():
        (result,) = model([picture(1)], steps={block: 5})
    assert int(recurrent_blocks(model)[block].last.steps) == 5
    assert result["panoptic_seg"][0].shape == (64, 64)
