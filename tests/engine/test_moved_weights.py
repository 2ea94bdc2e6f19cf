"""A backbone's weights find it in another model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rpanoptic.engine.checkpoint import PanopticCheckpointer
from rpanoptic.engine.moved_weights import moved_weights
from rpanoptic.errors import CheckpointError
from tests.modeling.backbone.tiny import ten_layer_dicts, tiny_backbone

NODE = "RECURRENT__CONVRNN__"
LAYERS = {f"{NODE}LAYERS": ten_layer_dicts(), f"{NODE}STEPS": 8}


def test_names() -> None:
    # A classifier's, for a detector: what stands elsewhere, what is the same, what is left over.
    names = {
        "backbone.layers.conv1.conv.weight": 1,
        "backbone.recurrence.cell.cells.conv4.gate.weight": 2,
        "head.predictor.weight": 3,
    }
    wanted = [
        "backbone.bottom_up.layers.conv1.conv.weight",
        "backbone.bottom_up.recurrence.cell.cells.conv4.gate.weight",
        "backbone.fpn_lateral2.weight",
    ]
    moved = moved_weights(names, wanted)
    assert moved == {wanted[0]: 1, wanted[1]: 2, "head.predictor.weight": 3}
    assert list(moved.values()) == [1, 2, 3]
    back = moved_weights(moved, names)
    assert back == names
    assert moved_weights(names, names) == names


def test_a_layer_in_the_loop_and_before_it() -> None:
    before = {"backbone.layers.conv4.conv.bias": 1, "backbone.layers.conv1.conv.bias": 2}
    wanted = ["backbone.layers.conv1.conv.bias", "backbone.recurrence.cell.layers.conv4.conv.bias"]
    assert moved_weights(before, wanted) == {wanted[1]: 1, wanted[0]: 2}


def test_a_weight_that_two_could_fill_stays() -> None:
    names = {"backbone.a": 1, "backbone.bottom_up.a": 2}
    assert moved_weights(names, ["backbone.b", "backbone.bottom_up.a"]) == names
    # The model wants one of two places that no file's name tells apart.
    wanted = ["backbone.recurrence.cell.layers.c", "backbone.bottom_up.layers.c"]
    assert moved_weights({"backbone.layers.c": 1}, wanted) == {"backbone.layers.c": 1}


def classifier(tmp_path: Path, **changes: Any) -> tuple[nn.Module, str]:
    """A model of a backbone and a readout, and the file of its weights."""
    backbone = tiny_backbone("build_convrnn_backbone", 1, **(LAYERS | changes))
    model = nn.ModuleDict({"backbone": backbone, "head": nn.Linear(10, 3)})
    PanopticCheckpointer(model, str(tmp_path)).save("classifier")
    return model, str(tmp_path / "classifier.pth")


def test_a_classifier_fills_the_backbone_under_a_pyramid(tmp_path: Path) -> None:
    source, file = classifier(tmp_path)
    backbone = tiny_backbone("build_convrnn_fpn_backbone", 2, **LAYERS)
    model = nn.ModuleDict({"backbone": backbone})
    PanopticCheckpointer(model).resume_or_load(file, resume=False)
    theirs = source["backbone"].state_dict()
    ours = backbone.bottom_up.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    # To resume is another matter.
    with pytest.raises(CheckpointError, match="another architecture"):
        PanopticCheckpointer(model).resume_or_load(file, resume=False, strict=True)


def test_a_smaller_network_leaves_layers_over(tmp_path: Path) -> None:
    feedback = {f"{NODE}FEEDBACK": [["conv8", "conv5"], ["conv10", "conv9"]]}
    source, file = classifier(tmp_path, **feedback)
    changes = {f"{NODE}OUT_FEATURES": ["res2", "res3"], "FPN__IN_FEATURES": ["res2", "res3"]}
    backbone = tiny_backbone("build_convrnn_fpn_backbone", 2, **LAYERS, **feedback, **changes)
    PanopticCheckpointer(nn.ModuleDict({"backbone": backbone})).resume_or_load(file, resume=False)
    theirs = source["backbone"].state_dict()
    ours = backbone.bottom_up.state_dict()
    # Names do not depend on the outputs for which a network was built.
    assert ours.keys() < theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_other_widths_are_refused(tmp_path: Path) -> None:
    _, file = classifier(tmp_path)
    backbone = tiny_backbone("build_convrnn_fpn_backbone", 2, **LAYERS, **{f"{NODE}WIDTH": 2.0})
    model = nn.ModuleDict({"backbone": backbone})
    with pytest.raises(CheckpointError, match=r"another shape: backbone\.bottom_up\.layers"):
        PanopticCheckpointer(model).resume_or_load(file, resume=False)
