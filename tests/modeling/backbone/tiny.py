"""Backbones of a few channels, built as Detectron2 builds them from a config."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import Backbone, build_backbone, build_model

import rpanoptic.modeling  # noqa: F401  registers the backbones
from rpanoptic import add_rpanoptic_config
from rpanoptic.modeling.backbone.conv_rnn_layers import TEN_LAYERS, TEN_LAYERS_POOLED
from rpanoptic.modeling.penalty import take_penalties
from rpanoptic.recurrent import recurrent_blocks

FPN_CHANNELS = 16
# A ResNet-50 of a few channels is far smaller than a ResNet-18, whose widths are fixed.
STAGE_CHANNELS = {"res2": 8, "res3": 16, "res4": 32, "res5": 64}
STAGES = list(STAGE_CHANNELS)
# Of the ten layers of a ConvRNN.
WIDTHS = (4, 4, 4, 6, 6, 8, 8, 10, 10, 10)


def tiny_backbone_cfg(name: str, **changes: Any) -> CfgNode:
    """A config with backbone ``name``; keys of ``changes`` have __ for a dot, below ``MODEL``."""
    cfg = get_cfg()
    add_rpanoptic_config(cfg)
    model = cfg.MODEL
    model.DEVICE = "cpu"
    model.BACKBONE.NAME = name
    model.BACKBONE.FREEZE_AT = 0
    model.RESNETS.DEPTH = 50
    model.RESNETS.STEM_OUT_CHANNELS = 8
    model.RESNETS.RES2_OUT_CHANNELS = STAGE_CHANNELS["res2"]
    model.RESNETS.WIDTH_PER_GROUP = 4
    model.RESNETS.OUT_FEATURES = STAGES
    model.FPN.IN_FEATURES = STAGES
    model.FPN.OUT_CHANNELS = FPN_CHANNELS
    for node in (model.RECURRENT.FPN, model.RECURRENT.RESNET):
        # GN has 32 groups, more than these channels.
        node.OUTPUT_NORM = ""
        node.STEPS = 3
        # After three steps nothing is at its equilibrium.
        node.ON_FAILURE = "record"
    options = {f"MODEL.{key.replace('__', '.')}": value for key, value in changes.items()}
    cfg.merge_from_list([word for pair in options.items() for word in pair])
    return cfg


def tiny_backbone(name: str, seed: int = 0, **changes: Any) -> Backbone:
    """The backbone of :func:`tiny_backbone_cfg`, in training mode."""
    torch.manual_seed(seed)
    return build_backbone(tiny_backbone_cfg(name, **changes))


def ten_layer_dicts(
    widths: Sequence[int] = WIDTHS,
    cells: Collection[str] = TEN_LAYERS[3:],
    *,
    residual: bool = False,
) -> list[dict[str, Any]]:
    """The ten layers of a ConvRNN as its config lists them."""
    first = {"kernel_size": 7, "stride": 2}
    return [
        {
            "name": name,
            "channels": width,
            "pool": name in TEN_LAYERS_POOLED,
            "residual": residual and name != "conv1",
            "cell": name in cells,
            **(first if name == "conv1" else {}),
        }
        for name, width in zip(TEN_LAYERS, widths, strict=True)
    ]


def images(samples: int, height: int, width: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(samples, 3, height, width, generator=torch.Generator().manual_seed(seed))


def total(features: dict[str, torch.Tensor]) -> torch.Tensor:
    """A scalar in which each number of each feature has a weight of its own."""
    generator = torch.Generator().manual_seed(2)
    return sum(
        (f * torch.randn(f.shape, generator=generator, dtype=torch.float64).to(f.dtype)).sum()
        for f in features.values()
    )


def check_stock_models_take(name: str, retinanet: str, **changes: Any) -> None:
    """Detectron2's own semantic segmentor and RetinaNet run on two builders of a backbone."""
    keys = {
        "FPN__OUT_CHANNELS": 32,
        "SEM_SEG_HEAD__CONVS_DIM": 32,
        "SEM_SEG_HEAD__NUM_CLASSES": 3,
        "RETINANET__NUM_CLASSES": 2,
        "RETINANET__NUM_CONVS": 1,
        "FPN__IN_FEATURES": ["res3", "res4", "res5"],
        "SEM_SEG_HEAD__IN_FEATURES": ["p3", "p4", "p5"],
        **changes,
    }
    picture = [{"image": torch.full((3, 40, 50), 100.0), "height": 40, "width": 50}]
    cfg = tiny_backbone_cfg(name, META_ARCHITECTURE="SemanticSegmentor", **keys)
    with torch.no_grad():
        (result,) = build_model(cfg).eval()(picture)
    assert result["sem_seg"].shape == (3, 40, 50) and result["sem_seg"].isfinite().all()
    cfg = tiny_backbone_cfg(retinanet, META_ARCHITECTURE="RetinaNet", **keys)
    with torch.no_grad():
        (result,) = build_model(cfg).eval()(picture)
    assert result["instances"].pred_boxes.tensor.isfinite().all()


def check_penalty(backbone: Backbone, name: str, *, penalised: bool) -> None:
    """In training a penalty is there once, if the method has one, and reaches every cell."""
    for block in recurrent_blocks(backbone).values():
        # Low enough that there is something to penalise at any initialisation.
        block.penalty = type(block.penalty)(tau=1e-3, weight=0.5)
    x = images(1, 64, 64)
    backbone(x)
    backbone(x)  # what the first pass left is forgotten
    penalties = take_penalties(backbone)
    assert set(penalties) == ({name} if penalised else set())
    assert take_penalties(backbone) == {}
    for penalty in penalties.values():
        assert penalty.shape == () and penalty > 0
        penalty.backward()
        cells = [block.cell for block in recurrent_blocks(backbone).values()]
        assert all(any(p.grad is not None and p.grad.any() for p in c.parameters()) for c in cells)
    backbone.eval()(x)
    assert take_penalties(backbone) == {}


def check_samples_ignore_their_batch(backbone: Backbone) -> None:
    """Each of three samples has in a batch the features that it has alone."""
    backbone = backbone.double().eval()
    x = images(3, 64, 96).double()
    with torch.no_grad():
        together = backbone(x)
        alone = [backbone(x[i : i + 1]) for i in range(3)]
    for name, features in together.items():
        # Rounding: convolutions of a batch may sum in another order.
        expected = torch.cat([one[name] for one in alone])
        torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-9)
