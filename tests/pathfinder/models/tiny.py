"""Models of Pathfinder small enough for tests, and pictures that they trace."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

import rpanoptic.pathfinder.models  # noqa: F401  registers the models
from rpanoptic import add_rpanoptic_config

SIDE = 16
RECURRENT = "build_pathfinder_recurrent_backbone"
FEEDFORWARD = "build_pathfinder_feedforward_backbone"
UNET = "build_pathfinder_unet_backbone"
BACKBONES = (RECURRENT, FEEDFORWARD, UNET)

# The paper's, but for the size: MODEL.PATHFINDER and MODEL.RECURRENT.PATHFINDER at their defaults.
PAPER: dict[str, Any] = {
    "MODEL.DEVICE": "cpu",
    "MODEL.META_ARCHITECTURE": "ContourSegmentor",
    "MODEL.BACKBONE.NAME": RECURRENT,
    "MODEL.SEM_SEG_HEAD.NAME": "ContourHead",
    "MODEL.PIXEL_MEAN": [0.0],
    "MODEL.PIXEL_STD": [255.0],
}
TINY: dict[str, Any] = {
    "MODEL.PATHFINDER.CHANNELS": 6,
    "MODEL.PATHFINDER.KERNEL_SIZE": 3,
    "MODEL.PATHFINDER.LAYERS": 2,
    "MODEL.RECURRENT.PATHFINDER.KERNEL_SIZE": 3,
    "MODEL.RECURRENT.PATHFINDER.STEPS": 4,
    # After so few steps nothing is at its equilibrium.
    "MODEL.RECURRENT.PATHFINDER.ON_FAILURE": "record",
}


def config(options: dict[str, Any], **changes: Any) -> CfgNode:
    """The paper's config with ``options``; keys of ``changes`` are written with __ for a dot.

    Those that begin with neither MODEL nor RPANOPTIC stand under MODEL.PATHFINDER.
    """
    for key, value in changes.items():
        key = key.replace("__", ".")
        full = key if key.startswith(("MODEL.", "RPANOPTIC.")) else f"MODEL.PATHFINDER.{key}"
        options = options | {full: value}
    cfg = get_cfg()
    add_rpanoptic_config(cfg)
    cfg.merge_from_list([word for pair in (PAPER | options).items() for word in pair])
    return cfg


def paper_model(**changes: Any) -> Any:
    """A model of the published size, as :func:`config` describes it."""
    return build_model(config({}, **changes))


def tiny_model(seed: int = 0, **changes: Any) -> Any:
    """A tiny model, as :func:`config` describes it."""
    torch.manual_seed(seed)
    return build_model(config(TINY, **changes))


def picture(number: int, height: int = SIDE, width: int = SIDE) -> dict[str, Any]:
    """Two lines, of which the marked one is to be traced, as the dataset mapper makes them."""
    rng = np.random.default_rng(number)
    image, target = (np.zeros((height, width), dtype=np.uint8) for _ in range(2))
    rows = rng.permutation(np.arange(3, height - 3))[:2]
    for row, canvases in zip(rows, ([image, target], [image]), strict=True):
        for canvas in canvases:
            cv2.line(canvas, (3, int(row)), (width - 4, int(row)), 255)
    for canvas in (image, target):
        cv2.circle(canvas, (3, int(rows[0])), 1, 255, -1)
    return {
        "image": torch.from_numpy(image)[None].float(),
        "sem_seg": torch.from_numpy(target > 0).long(),
        "label": number % 2,
        "height": height,
        "width": width,
        "file_name": f"picture {number}",
    }


def pictures(count: int = 2, **size: int) -> list[dict[str, Any]]:
    """So many different pictures."""
    return [picture(number, **size) for number in range(count)]
