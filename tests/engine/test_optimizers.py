from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from torch import nn

from rpanoptic.engine import build_optimizer, setup_config
from rpanoptic.errors import ConfigError


def make_cfg(**changes: Any) -> CfgNode:
    opts = [str(w) for k, v in changes.items() for w in (k.replace("__", "."), v)]
    return setup_config(None, opts)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_name_chooses_the_optimizer(name: str, kind: type) -> None:
    cfg = make_cfg(
        RPANOPTIC__OPTIMIZER=name,
        SOLVER__BASE_LR=0.02,
        SOLVER__WEIGHT_DECAY_NORM=0.0,
        SOLVER__WEIGHT_DECAY=0.1,
    )
    model = make_model()
    optimizer = build_optimizer(cfg, model)
    assert type(optimizer) is kind
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert len(decay) == len(list(model.parameters()))
    assert decay[id(model[1].weight)] == 0.0
    assert decay[id(model[0].weight)] == 0.1
    assert {g["lr"] for g in optimizer.param_groups} == {0.02}


def test_unknown_optimizer_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"RPANOPTIC\.OPTIMIZER 'lion'.*adam, adamw, sgd"):
        build_optimizer(make_cfg(RPANOPTIC__OPTIMIZER="lion"), make_model())


def test_unknown_clipping_lists_the_known() -> None:
    cfg = make_cfg(SOLVER__CLIP_GRADIENTS__ENABLED=True, SOLVER__CLIP_GRADIENTS__CLIP_TYPE="all")
    with pytest.raises(ConfigError, match=r"CLIP_TYPE 'all'.*full_model, norm, value"):
        build_optimizer(cfg, make_model())


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_full_model_clipping_bounds_the_common_norm(name: str) -> None:
    cfg = make_cfg(
        RPANOPTIC__OPTIMIZER=name,
        SOLVER__CLIP_GRADIENTS__ENABLED=True,
        SOLVER__CLIP_GRADIENTS__CLIP_TYPE="full_model",
        SOLVER__CLIP_GRADIENTS__CLIP_VALUE=0.5,
    )
    model = make_model()
    optimizer = build_optimizer(cfg, model)
    (100 * model(torch.ones(5, 3))).square().sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    after = [p.grad for p in model.parameters()]
    norm = torch.stack([g.norm() for g in after]).norm()
    # clip_grad_norm_ divides by the norm plus 1e-6, in float32.
    assert norm.item() == pytest.approx(0.5, rel=1e-4)
    ratios = torch.cat(
        [(a / b).flatten()[b.flatten() != 0] for a, b in zip(after, before, strict=True)]
    )
    assert torch.allclose(ratios, ratios[0].expand_as(ratios), rtol=1e-4)


def test_clipping_keeps_the_state_of_the_optimizer_loadable() -> None:
    cfg = make_cfg(
        RPANOPTIC__OPTIMIZER="adamw",
        SOLVER__CLIP_GRADIENTS__ENABLED=True,
        SOLVER__CLIP_GRADIENTS__CLIP_TYPE="full_model",
    )
    model = make_model()
    first, second = build_optimizer(cfg, model), build_optimizer(cfg, model)
    model(torch.ones(1, 3)).sum().backward()
    first.step()
    second.load_state_dict(first.state_dict())
    weight = model[0].weight
    assert torch.equal(second.state[weight]["exp_avg"], first.state[weight]["exp_avg"])
