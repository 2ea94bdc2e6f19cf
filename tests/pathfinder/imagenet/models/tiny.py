"""Classifiers small enough for tests, and pictures for them."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

import rpanoptic.pathfinder.imagenet  # noqa: F401  registers the models
from rpanoptic import add_rpanoptic_config

SIDE = 16
CLASSES = 4
CONVRNN = "MODEL__RECURRENT__CONVRNN__"
CLASSIFIER = "MODEL__CLASSIFIER__"

# Three layers, of which the last two make up the loop: an image arrives at conv3 in step 2.
TINY: dict[str, Any] = {
    "MODEL.DEVICE": "cpu",
    "MODEL.META_ARCHITECTURE": "ImageClassifier",
    "MODEL.BACKBONE.NAME": "build_convrnn_backbone",
    "MODEL.PIXEL_MEAN": [127.5] * 3,
    "MODEL.PIXEL_STD": [60.0] * 3,
    "MODEL.CLASSIFIER.NUM_CLASSES": CLASSES,
    "MODEL.RECURRENT.CONVRNN.LAYERS": [
        {"name": "conv1", "channels": 4, "stride": 2},
        {"name": "conv2", "channels": 5, "pool": True, "cell": True},
        {"name": "conv3", "channels": 6, "cell": True},
    ],
    "MODEL.RECURRENT.CONVRNN.FEEDBACK": [["conv3", "conv2"]],
    "MODEL.RECURRENT.CONVRNN.OUT_FEATURES": ["conv3"],
    "MODEL.RECURRENT.CONVRNN.STEPS": 5,
    "MODEL.RECURRENT.CONVRNN.ON_FAILURE": "record",
}
RESNET = {"MODEL__BACKBONE__NAME": "build_torchvision_resnet_backbone"}


def config(**changes: Any) -> CfgNode:
    """The config of a tiny ConvRNN; keys of ``changes`` are written with __ for a dot."""
    options = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    cfg = get_cfg()
    add_rpanoptic_config(cfg)
    cfg.merge_from_list([word for pair in options.items() for word in pair])
    return cfg


def tiny_model(seed: int = 0, **changes: Any) -> Any:
    """A tiny classifier, as :func:`config` describes it."""
    torch.manual_seed(seed)
    return build_model(config(**changes))


def picture(number: int, side: int = SIDE) -> dict[str, Any]:
    """A picture of noise with a label, as the mapper of labelled pictures makes it."""
    generator = torch.Generator().manual_seed(number)
    image = torch.randint(0, 256, (3, side, side), generator=generator).to(torch.uint8)
    return {
        "image": image,
        "label": number % CLASSES,
        "height": side,
        "width": side,
        "file_name": f"picture {number}",
        "image_id": number,
    }


def pictures(count: int = 3, side: int = SIDE) -> list[dict[str, Any]]:
    """So many different pictures."""
    return [picture(number, side) for number in range(count)]
