"""Tiny models of every meta-architecture, and a batch that each of them trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances

import rpanoptic.modeling  # noqa: F401  registers everything
from tests.engine.tiny import tiny_cfg

SIDE, THINGS, STUFF = 64, 4, 5

# By meta-architecture: what its config changes, and the penalties of its training.
MODELS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "RecurrentPanopticFPN": (
        {
            "MODEL.BACKBONE.NAME": "build_recurrent_fpn_backbone",
            "MODEL.SEM_SEG_HEAD.NAME": "RecurrentSemSegFPNHead",
        },
        {"loss_lipschitz_fpn", "loss_lipschitz_mask", "loss_lipschitz_sem_seg"},
    ),
    "RecurrentGeneralizedRCNN": (
        {"MODEL.BACKBONE.NAME": "build_recurrent_fpn_backbone"},
        {"loss_lipschitz_fpn", "loss_lipschitz_mask"},
    ),
    "RecurrentRetinaNet": (
        {
            "MODEL.BACKBONE.NAME": "build_recurrent_retinanet_fpn_backbone",
            "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
            "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
            "MODEL.RETINANET.NUM_CLASSES": THINGS,
            "MODEL.RETINANET.NUM_CONVS": 1,
            "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0,
        },
        {"loss_lipschitz_fpn"},
    ),
    "RecurrentSemanticSegmentor": (
        {
            "MODEL.BACKBONE.NAME": "build_recurrent_fpn_backbone",
            "MODEL.SEM_SEG_HEAD.NAME": "RecurrentSemSegFPNHead",
        },
        {"loss_lipschitz_fpn", "loss_lipschitz_sem_seg"},
    ),
}


def model_cfg(name: str, folder: Path, **changes: Any) -> CfgNode:
    """The config of a tiny model; keys of ``changes`` are written with __ for a dot."""
    own, penalties = MODELS[name]
    places = {"fpn": "FPN", "mask": "MASK_HEAD", "sem_seg": "SEM_SEG_HEAD"}
    # 20 is the default: what the model does not have may not be set.
    steps = {
        f"MODEL.RECURRENT.{place}.STEPS": 3 if f"loss_lipschitz_{part}" in penalties else 20
        for part, place in places.items()
    }
    options = {"MODEL.META_ARCHITECTURE": name} | steps | own
    options |= {key.replace("__", "."): value for key, value in changes.items()}
    return tiny_cfg(folder, **{key.replace(".", "__"): value for key, value in options.items()})


def tiny_model(name: str, folder: Path, **changes: Any) -> Any:
    torch.manual_seed(0)
    return build_model(model_cfg(name, folder, **changes))


def picture(things: int = 2, height: int = SIDE, width: int = SIDE) -> dict[str, Any]:
    """A picture with so many equal things in its upper left, as the dataset mapper makes it."""
    bottom, right = max(height // 2, 1), width // 2
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[:bottom, :right] = True
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 0.0, right, bottom]]).repeat(things, 1))
    instances.gt_classes = torch.arange(things) % THINGS
    instances.gt_masks = BitMasks(mask.repeat(things, 1, 1))
    generator = torch.Generator().manual_seed(things)
    return {
        "image": torch.randint(0, 256, (3, height, width), generator=generator).to(torch.uint8),
        "height": height,
        "width": width,
        "instances": instances,
        "sem_seg": torch.where(mask, 0, STUFF - 1) if things else torch.full_like(mask, 1).long(),
    }


def assert_same_outputs(given: dict[str, Any], expected: dict[str, Any]) -> None:
    """What a model says of one picture, to the last bit."""
    assert given.keys() == expected.keys()
    for key in expected.keys() & {"sem_seg", "classification"}:
        assert torch.equal(given[key], expected[key])
    if "panoptic_seg" in expected:
        assert torch.equal(given["panoptic_seg"][0], expected["panoptic_seg"][0])
        assert given["panoptic_seg"][1] == expected["panoptic_seg"][1]
    if "instances" in expected:
        ours, others = given["instances"].get_fields(), expected["instances"].get_fields()
        assert ours.keys() == others.keys()
        for name, values in others.items():
            one, other = (v.tensor if isinstance(v, Boxes) else v for v in (ours[name], values))
            assert torch.equal(one, other), name
