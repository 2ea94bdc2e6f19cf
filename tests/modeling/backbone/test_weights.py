"""Weights of feed-forward models fill what is not recurrent, through the checkpointer."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling.backbone.fpn import FPN
from torch import nn

from rpanoptic.engine.checkpoint import PanopticCheckpointer
from rpanoptic.errors import CheckpointError
from rpanoptic.modeling.backbone.recurrent_fpn import PLACES

from .tiny import tiny_backbone

FPN_NODE, RESNET_NODE = "RECURRENT__FPN__", "RECURRENT__RESNET__"
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "lateral": (
        "build_recurrent_fpn_backbone",
        {f"{FPN_NODE}PLACE": "lateral", f"{FPN_NODE}CELL": "hgru_low_dim"},
    ),
    "output": ("build_recurrent_fpn_backbone", {f"{FPN_NODE}PLACE": "output"}),
    "topdown": ("build_recurrent_fpn_backbone", {f"{FPN_NODE}PLACE": "topdown"}),
    "stages": ("build_recurrent_resnet_fpn_backbone", {}),
    "stages with feedback": (
        "build_recurrent_resnet_fpn_backbone",
        {f"{RESNET_NODE}FEEDBACK": True},
    ),
}
EVERY_BACKBONE = pytest.mark.parametrize("kind", list(BACKBONES))


def model(kind: str, seed: int, **keys: Any) -> nn.Module:
    """A model that has nothing but its backbone."""
    name, options = BACKBONES[kind]
    return nn.ModuleDict({"backbone": tiny_backbone(name, seed, **options, **keys)})


def recurrent(key: str) -> bool:
    return ".recurrence." in key or ".output_norm." in key


@EVERY_BACKBONE
def test_imagenet_weights_fill_the_network(tmp_path: Path, kind: str) -> None:
    # The files of ImageNet weights are pickles of arrays, without running statistics, whose names
    # are matched by their endings.
    source = tiny_backbone("build_resnet_backbone", seed=1)
    with torch.no_grad():
        for buffer in source.buffers():
            buffer.uniform_(0.5, 1.5)
    statistics = ("running_mean", "running_var")
    arrays = {k: v.numpy() for k, v in source.state_dict().items() if not k.endswith(statistics)}
    file = tmp_path / "R-50.pkl"
    data = {"model": arrays, "__author__": "MSRA", "matching_heuristics": True}
    file.write_bytes(pickle.dumps(data))

    filled = model(kind, seed=2)
    before = {key: value.clone() for key, value in filled.state_dict().items()}
    PanopticCheckpointer(filled).resume_or_load(str(file), resume=False)
    after = filled.state_dict()
    for key, array in arrays.items():
        assert torch.equal(after[f"backbone.bottom_up.{key}"], torch.from_numpy(array)), key
    rest = {key for key in after if not key.startswith("backbone.bottom_up.") or recurrent(key)}
    assert rest and all(torch.equal(after[key], before[key]) for key in rest)
    # A step of a joint equilibrium runs the stages that were filled.
    if kind == "stages with feedback":
        cell = filled["backbone"].bottom_up.recurrence.cell
        borrowed = dict(cell.named_parameters())["res4.0.conv1.weight"]
        assert torch.equal(borrowed, after["backbone.bottom_up.res4.0.conv1.weight"])


@EVERY_BACKBONE
def test_weights_of_a_stock_pyramid_fill_it(tmp_path: Path, kind: str) -> None:
    source = nn.ModuleDict({"backbone": tiny_backbone("build_resnet_fpn_backbone", seed=1)})
    assert type(source["backbone"]) is FPN
    PanopticCheckpointer(source, str(tmp_path)).save("model")
    filled = model(kind, seed=2)
    file = tmp_path / "model.pth"
    PanopticCheckpointer(filled).resume_or_load(str(file), resume=False)
    theirs = source.state_dict()
    shared = [key for key in filled.state_dict() if not recurrent(key)]
    assert shared and all(torch.equal(filled.state_dict()[k], theirs[k]) for k in shared)
    # To resume is another matter: what is recurrent is not in the file.
    with pytest.raises(CheckpointError, match="weights that it lacks"):
        PanopticCheckpointer(filled).resume_or_load(str(file), resume=False, strict=True)


@EVERY_BACKBONE
def test_checkpoints_resume_under_another_method(tmp_path: Path, kind: str) -> None:
    node = FPN_NODE if kind in PLACES else RESNET_NODE
    source = model(kind, seed=1, **{f"{node}GRADIENT": "bptt"})
    PanopticCheckpointer(source, str(tmp_path)).save("model")
    other = model(kind, seed=2, **{f"{node}GRADIENT": "crbp"})
    PanopticCheckpointer(other, str(tmp_path)).resume_or_load("", resume=True)
    ours, theirs = other.state_dict(), source.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    # Each weight is saved once.
    pointers = [value.data_ptr() for value in theirs.values() if value.numel()]
    assert len(pointers) == len(set(pointers))
