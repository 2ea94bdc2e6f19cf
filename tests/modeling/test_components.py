"""Every component that rpanoptic registers: gradients, penalties, configs, checkpoints."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rpanoptic.engine import PanopticCheckpointer, setup_config
from tests.modeling.components import COMPONENTS, REGISTRIES, SIDE, noise
from tests.modeling.meta_arch.models import assert_same_outputs

EACH = pytest.mark.parametrize("key", COMPONENTS)


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_registered_component_is_in_the_table(kind: str) -> None:
    registered = {
        name for name, made in REGISTRIES[kind] if made.__module__.startswith("rpanoptic.")
    }
    assert registered == {c.name for c in COMPONENTS.values() if c.kind == kind}


@EACH
def test_gradients_reach_every_trainable_parameter(key: str, tmp_path: Path) -> None:
    component = COMPONENTS[key]
    # Through time: at an equilibrium some gates get no gradient but the penalty's.
    module = component.build(component.cfg(tmp_path, "bptt"))
    losses = component.losses(module, [1, 2])
    assert not any("lipschitz" in name for name in losses)
    sum(losses.values()).backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


@EACH
def test_penalties_are_those_of_the_training(key: str, tmp_path: Path) -> None:
    component = COMPONENTS[key]
    module = component.build(component.cfg(tmp_path, "crbp"))
    losses = component.losses(module, [1, 2])
    penalties = {name: loss for name, loss in losses.items() if "lipschitz" in name}
    assert set(penalties) == component.penalties
    assert all(penalty.isfinite() and penalty > 0 for penalty in penalties.values())
    sum(losses.values()).backward()
    for name, parameter in module.named_parameters():
        # Several processes exchange the gradients of all parameters: none may be left out.
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@EACH
def test_a_config_written_down_makes_the_same_component(key: str, tmp_path: Path) -> None:
    component = COMPONENTS[key]
    cfg = component.cfg(tmp_path)
    cfg.freeze()
    before = json.dumps(cfg, sort_keys=True)
    expected = component.build(cfg).state_dict()
    assert json.dumps(cfg, sort_keys=True) == before
    (tmp_path / "config.yaml").write_text(cfg.dump())
    others = {
        "read": setup_config(tmp_path / "config.yaml"),
        "cloned": cfg.clone(),
        "pickled": pickle.loads(pickle.dumps(cfg)),
    }
    for way, other in others.items():
        # As text: YAML gives a tuple within a tuple of Detectron2's own back as a list, and the
        # keys of layers in another order.
        assert json.dumps(other, sort_keys=True) == before, way
        assert other.MODEL.RECURRENT == cfg.MODEL.RECURRENT, way
        assert other.RPANOPTIC == cfg.RPANOPTIC, way
    made = component.build(others["read"]).state_dict()
    assert made.keys() == expected.keys()
    for name, value in made.items():
        assert torch.equal(value, expected[name]), name


@EACH
@torch.no_grad()
def test_checkpoints_go_from_method_to_method_and_back(key: str, tmp_path: Path) -> None:
    component = COMPONENTS[key]
    first, second, third = (
        component.build(component.cfg(tmp_path, gradient), seed).eval()
        for seed, gradient in enumerate(("crbp", "bptt", "crbp"))
    )
    PanopticCheckpointer(first, str(tmp_path)).save("first")
    PanopticCheckpointer(second).load(str(tmp_path / "first.pth"))
    PanopticCheckpointer(second, str(tmp_path)).save("second")
    PanopticCheckpointer(third).load(str(tmp_path / "second.pth"))
    expected = component.forward(first, [1, 2])
    for module in (second, third):
        _assert_same(component.forward(module, [1, 2]), expected)
    for name, value in third.state_dict().items():
        assert torch.equal(value, first.state_dict()[name]), name


def _assert_same(given: Any, expected: Any) -> None:
    """What components return: tensors, losses or features by name, pictures' results."""
    if isinstance(expected, Tensor):
        assert torch.equal(given, expected)
    elif isinstance(expected, dict):
        assert given.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(given[name], value), name
    else:
        for one, other in zip(given, expected, strict=True):
            if isinstance(other, dict) and other:
                assert_same_outputs(one, other)
            elif hasattr(other, "pred_masks"):
                assert torch.equal(one.pred_masks, other.pred_masks)


@torch.no_grad()
@pytest.mark.parametrize("key", [k for k, c in COMPONENTS.items() if c.kind == "backbone"])
def test_features_of_a_backbone(key: str, tmp_path: Path) -> None:
    component = COMPONENTS[key]
    backbone = component.build(component.cfg(tmp_path)).eval()
    features = backbone(noise(1, 3, SIDE, 3 * SIDE // 2, 2))
    shapes = backbone.output_shape()
    assert features.keys() == shapes.keys()
    for name, shape in shapes.items():
        size = (-(-side // shape.stride) for side in (SIDE, 3 * SIDE // 2))
        assert features[name].shape == (2, shape.channels, *size), name
        assert features[name].isfinite().all(), name


@pytest.mark.parametrize("key", [k for k, c in COMPONENTS.items() if c.kind != "meta-architecture"])
def test_no_samples_give_zeros_that_reach_every_parameter(key: str, tmp_path: Path) -> None:
    component = COMPONENTS[key]
    module = component.build(component.cfg(tmp_path))
    losses = component.losses(module, [])
    assert all(loss.item() == 0 for loss in losses.values()), losses
    sum(losses.values()).backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and not parameter.grad.any(), name
