"""Every component that rpanoptic registers, with a tiny config and inputs of one form for all.

A component's samples are numbered. Whatever it takes, two components of one kind get the same
sample under the same number, in any process and in any batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    build_backbone,
    build_model,
    build_sem_seg_head,
)
from detectron2.modeling.roi_heads.mask_head import build_mask_head
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

import rpanoptic.modeling
import rpanoptic.pathfinder.models  # noqa: F401  register everything
from rpanoptic.modeling.penalty import take_penalties
from tests.engine.tiny import tiny_cfg
from tests.modeling.meta_arch.models import MODELS, SIDE, THINGS, picture

CHANNELS = 32
REGIONS = 2
REGISTRIES = {
    "backbone": BACKBONE_REGISTRY,
    "mask head": ROI_MASK_HEAD_REGISTRY,
    "semantic head": SEM_SEG_HEADS_REGISTRY,
    "meta-architecture": META_ARCH_REGISTRY,
}
_NAME_KEYS = {
    "backbone": "MODEL.BACKBONE.NAME",
    "mask head": "MODEL.ROI_MASK_HEAD.NAME",
    "semantic head": "MODEL.SEM_SEG_HEAD.NAME",
    "meta-architecture": "MODEL.META_ARCHITECTURE",
}
_NODES = ("MASK_HEAD", "SEM_SEG_HEAD", "FPN", "RESNET", "CONVRNN", "PATHFINDER")
_COMMON: dict[str, Any] = {
    # No statistics of batches, through which the loss of a batch is not that of its samples.
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.FPN.NORM": "GN",
    "MODEL.RECURRENT.MASK_HEAD.OUTPUT_NORM": "GN",
    # The tiny network's stages have fewer channels than "GN" has groups.
    "MODEL.RECURRENT.RESNET.OUTPUT_NORM": "",
    "MODEL.RECURRENT.CONVRNN.WIDTH": 1 / 32,
    "MODEL.RECURRENT.CONVRNN.NONLINEARITY": "tanh",
    # With the paper's sum over the samples, two processes would penalise half of what one does.
    **{f"MODEL.RECURRENT.{node}.LIPSCHITZ.REDUCTION": "per_sample" for node in _NODES},
    # Low enough that there is something to penalise at any initialisation.
    **{f"MODEL.RECURRENT.{node}.LIPSCHITZ.TAU": 1e-3 for node in _NODES},
    # After so few steps nothing is at its equilibrium.
    **{f"MODEL.RECURRENT.{node}.ON_FAILURE": "record" for node in _NODES},
    **{f"MODEL.RECURRENT.{node}.STEPS": 3 for node in _NODES},
    # An image reaches the last of the ten layers in step 7, feedback from there the first in 9.
    "MODEL.RECURRENT.CONVRNN.STEPS": 9,
    "MODEL.RECURRENT.PATHFINDER.KERNEL_SIZE": 3,
    "MODEL.PATHFINDER.CHANNELS": 4,
    "MODEL.PATHFINDER.KERNEL_SIZE": 3,
    "MODEL.PATHFINDER.LAYERS": 2,
    # Batch statistics, which FF-6 and the U-Net have too.
    "MODEL.PATHFINDER.OUTPUT_NORM": "",
}
# Features by the heads that read others than a pyramid's, with their strides.
_FEATURES = {"ContourHead": {"contour": 1}}
_PYRAMID = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
_RETINANET = {
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
}


@dataclass(frozen=True)
class Component:
    """A registered component in one arrangement.

    Attributes:
        kind: a key of ``REGISTRIES``.
        name: its name in the registry.
        penalties: names of the penalties that it trains with under "crbp".
        options: what its config changes, by dotted keys.
        separable: whether the loss of a batch is the mean of its samples' losses.
    """

    kind: str
    name: str
    penalties: frozenset[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    separable: bool = True

    def cfg(self, folder: Path, gradient: str = "crbp") -> CfgNode:
        """The config of a tiny component whose recurrent blocks all use ``gradient``."""
        options = {_NAME_KEYS[self.kind]: self.name, **_COMMON, **self.options}
        options |= {f"MODEL.RECURRENT.{node}.GRADIENT": gradient for node in _NODES}
        return tiny_cfg(folder, **{key.replace(".", "__"): v for key, v in options.items()})

    def build(self, cfg: CfgNode, seed: int = 0) -> Any:
        """Build it as Detectron2 does, in training mode."""
        torch.manual_seed(seed)
        if self.kind == "backbone":
            return build_backbone(cfg)
        if self.kind == "mask head":
            return build_mask_head(cfg, ShapeSpec(channels=CHANNELS, height=7, width=7))
        if self.kind == "semantic head":
            levels = {
                name: ShapeSpec(channels=CHANNELS, stride=stride)
                for name, stride in self.features.items()
            }
            return build_sem_seg_head(cfg, levels)
        return build_model(cfg)

    @property
    def features(self) -> dict[str, int]:
        """The strides of the features that a semantic head reads, by their names."""
        return _FEATURES.get(self.name, _PYRAMID)

    def forward(self, module: Any, samples: Sequence[int], seed: int = 0) -> Any:
        """Call it as Detectron2 does.

        Args:
            module: the component, or a wrapper around it.
            samples: numbers of the samples of the batch.
            seed: of what is drawn in the pass.

        Returns:
            what the component returns: features, losses in training, predictions.
        """
        torch.manual_seed(seed)
        dtype = next(module.parameters()).dtype

        def batch(channels: int, side: int, count: int = 1) -> Tensor:
            maps = [noise(number, channels, side, side, count) for number in samples]
            return torch.cat([torch.zeros(0, channels, side, side), *maps]).to(dtype)

        with EventStorage():
            if self.kind == "meta-architecture":
                make = labelled_picture if self.name in _LABELLED else picture
                return module([make(number) for number in samples])
            if self.kind == "backbone":
                return module(batch(3, SIDE))
            if self.kind == "mask head":
                regions = [_regions(number, module.training) for number in samples]
                return module(batch(CHANNELS, 7, REGIONS), regions)
            features = {
                name: batch(CHANNELS, SIDE // stride) for name, stride in self.features.items()
            }
            count = 2 if self.name == "ContourHead" else THINGS + 1
            classes = [_classes(number, count) for number in samples]
            nothing = torch.zeros(0, SIDE, SIDE, dtype=torch.int64)
            return module(features, torch.cat([nothing, *classes]))

    def losses(self, module: Any, samples: Sequence[int], seed: int = 0) -> dict[str, Tensor]:
        """The losses by name of a training pass, penalties included."""
        found = self.forward(module, samples, seed)
        if self.kind == "backbone":
            return {"features": weighted_mean(found)} | take_penalties(module)
        return dict(found[1] if self.kind == "semantic head" else found)


class Training(nn.Module):
    """A component and its losses as one module, for what wraps modules."""

    def __init__(self, component: Component, module: nn.Module) -> None:
        super().__init__()
        self.component = component
        self.module = module

    def forward(self, samples: Sequence[int], seed: int) -> Tensor:
        """The sum of the losses of a training pass."""
        return sum(self.component.losses(self.module, samples, seed).values(), torch.zeros(()))


def noise(number: int, channels: int, height: int, width: int, count: int = 1) -> Tensor:
    """``(count, channels, height, width)`` of a normal distribution, the same for a number."""
    generator = torch.Generator().manual_seed(number)
    return torch.randn(count, channels, height, width, generator=generator)


def weighted_mean(features: Mapping[str, Tensor]) -> Tensor:
    """A scalar, a mean over samples, in which each number of a sample has a weight of its own."""
    generator = torch.Generator().manual_seed(2)
    return sum(
        (
            (f * torch.randn(f.shape[1:], generator=generator).to(f.dtype)).sum() / max(len(f), 1)
            for f in features.values()
        ),
        torch.zeros(()),
    )


def _regions(number: int, training: bool) -> Instances:
    """Regions of a sample: with ground truth in training, else with predicted classes."""
    classes = (torch.arange(REGIONS) + number) % THINGS
    if not training:
        return Instances((SIDE, SIDE), pred_classes=classes)
    masks = torch.zeros(REGIONS, SIDE, SIDE, dtype=torch.bool)
    masks[:, : SIDE // 2, : 8 * number + 8] = True
    boxes = Boxes(torch.tensor([[2.0, 2.0, 60.0, 60.0]]).repeat(REGIONS, 1))
    instances = Instances((SIDE, SIDE), proposal_boxes=boxes, gt_classes=classes)
    instances.gt_masks = BitMasks(masks)
    return instances


def _classes(number: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, count, (1, SIDE, SIDE), generator=generator)


def labelled_picture(number: int) -> dict[str, Any]:
    """What models of Pathfinder and classifiers take: a target of two classes, and a label."""
    made = picture(number)
    return {**made, "sem_seg": (made["sem_seg"] == 0).long(), "label": number % 2}


def _backbone(name: str, penalty: str, **options: Any) -> Component:
    keys = {f"MODEL.RECURRENT.{key.replace('__', '.')}": value for key, value in options.items()}
    if "retinanet" in name:
        keys |= _RETINANET
    return Component("backbone", name, frozenset({f"loss_lipschitz_{penalty}"}), keys)


_CONTOURS = ("ContourSegmentor", "ContourClassifier")
_LABELLED = (*_CONTOURS, "ImageClassifier")

COMPONENTS: dict[str, Component] = {
    "fpn lateral": _backbone(
        "build_recurrent_fpn_backbone", "fpn", FPN__PLACE="lateral", FPN__CELL="hgru_low_dim"
    ),
    "fpn output": _backbone("build_recurrent_fpn_backbone", "fpn"),
    "fpn topdown": _backbone("build_recurrent_fpn_backbone", "fpn", FPN__PLACE="topdown"),
    "retinanet fpn": _backbone("build_recurrent_retinanet_fpn_backbone", "fpn"),
    "resnet": _backbone("build_recurrent_resnet_backbone", "resnet"),
    "resnet feedback": _backbone(
        "build_recurrent_resnet_backbone", "resnet", RESNET__FEEDBACK=True
    ),
    "resnet fpn": _backbone("build_recurrent_resnet_fpn_backbone", "resnet"),
    "resnet feedback fpn": _backbone(
        "build_recurrent_resnet_fpn_backbone", "resnet", RESNET__FEEDBACK=True
    ),
    "retinanet resnet fpn": _backbone("build_recurrent_retinanet_resnet_fpn_backbone", "resnet"),
    "retinanet resnet feedback fpn": _backbone(
        "build_recurrent_retinanet_resnet_fpn_backbone", "resnet", RESNET__FEEDBACK=True
    ),
    "convrnn": _backbone("build_convrnn_backbone", "convrnn"),
    "convrnn fpn": _backbone("build_convrnn_fpn_backbone", "convrnn"),
    "convrnn retinanet fpn": _backbone("build_convrnn_retinanet_fpn_backbone", "convrnn"),
    "pathfinder recurrent": _backbone("build_pathfinder_recurrent_backbone", "pathfinder"),
    "torchvision resnet": Component(
        "backbone", "build_torchvision_resnet_backbone", frozenset(), separable=False
    ),
    "pathfinder feedforward": Component(
        "backbone", "build_pathfinder_feedforward_backbone", frozenset(), separable=False
    ),
    "pathfinder unet": Component(
        "backbone", "build_pathfinder_unet_backbone", frozenset(), separable=False
    ),
    "mask head": Component(
        "mask head", "RecurrentMaskRCNNHead", frozenset({"loss_lipschitz_mask"})
    ),
    "semantic head": Component(
        "semantic head", "RecurrentSemSegFPNHead", frozenset({"loss_lipschitz_sem_seg"})
    ),
    "contour head": Component("semantic head", "ContourHead", frozenset()),
    **{
        name: Component(
            "meta-architecture",
            name,
            frozenset({"loss_lipschitz_pathfinder"}),
            {
                "MODEL.BACKBONE.NAME": "build_pathfinder_recurrent_backbone",
                "MODEL.SEM_SEG_HEAD.NAME": "ContourHead",
            },
        )
        for name in _CONTOURS
    },
    "ImageClassifier": Component(
        "meta-architecture",
        "ImageClassifier",
        frozenset({"loss_lipschitz_convrnn"}),
        {
            "MODEL.BACKBONE.NAME": "build_convrnn_backbone",
            "MODEL.RECURRENT.CONVRNN.OUT_FEATURES": ["res5"],
            # After as many all feedback has reached the last layer, which alone is read out.
            "MODEL.RECURRENT.CONVRNN.STEPS": 11,
            "MODEL.CLASSIFIER.NUM_CLASSES": 2,
        },
    ),
    **{
        name: Component(
            "meta-architecture",
            name,
            frozenset(penalties),
            options,
            # Regions and anchors are drawn from the whole batch, and counted in it.
            separable=name == "RecurrentSemanticSegmentor",
        )
        for name, (options, penalties) in MODELS.items()
    },
}
