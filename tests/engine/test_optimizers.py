from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from torch import nn

from rpanoptic.engine import build_optimizer, setup_config
from rpanoptic.engine.optimizers import build_schedule
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


def test_nesterov_momentum_and_gradients_clipped_by_value() -> None:
    """Two steps against the rule of Sutskever et al. (2013), as PyTorch has it."""
    rate, momentum, limit = 0.1, 0.9, 0.5
    cfg = make_cfg(
        SOLVER__BASE_LR=rate,
        SOLVER__MOMENTUM=momentum,
        SOLVER__NESTEROV=True,
        SOLVER__WEIGHT_DECAY=0.0,
        SOLVER__CLIP_GRADIENTS__ENABLED=True,
        SOLVER__CLIP_GRADIENTS__CLIP_TYPE="value",
        SOLVER__CLIP_GRADIENTS__CLIP_VALUE=limit,
    )
    model = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = build_optimizer(cfg, model)
    given = torch.tensor([[0.25, -3.0, 1.0]])
    clipped = torch.tensor([[0.25, -limit, limit]])
    expected, velocity = torch.zeros(1, 3), torch.zeros(1, 3)
    for _ in range(2):
        model.weight.grad = given.clone()
        optimizer.step()
        velocity = momentum * velocity + clipped
        expected = expected - rate * (clipped + momentum * velocity)
        torch.testing.assert_close(model.weight.detach(), expected)


def rates(cfg: CfgNode, *, resumed_after: int = 0) -> list[float]:
    """The rates of the steps of a training, which may be interrupted and resumed."""
    optimizer, found = _made(cfg), []
    schedule = build_schedule(cfg, optimizer)
    for done in range(cfg.SOLVER.MAX_ITER):
        if resumed_after and done == resumed_after:
            states = optimizer.state_dict(), schedule.state_dict()
            optimizer = _made(cfg)
            schedule = build_schedule(cfg, optimizer)
            optimizer.load_state_dict(states[0])
            schedule.load_state_dict(states[1])
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def _made(cfg: CfgNode) -> torch.optim.Optimizer:
    return build_optimizer(cfg, make_model())


COSINE = {"SOLVER__LR_SCHEDULER_NAME": "WarmupCosineLR", "SOLVER__BASE_LR": 0.2}


def test_cosine_schedule_of_a_short_training_and_its_resume() -> None:
    cfg = make_cfg(**COSINE, SOLVER__MAX_ITER=10, SOLVER__WARMUP_ITERS=3, SOLVER__WARMUP_FACTOR=0.1)
    found = rates(cfg)
    cosine = [0.2 * (1 + math.cos(math.pi * i / 10)) / 2 for i in range(10)]
    assert found[3:] == pytest.approx(cosine[3:])
    # Linearly from a tenth of the first rate to that after the warm-up.
    assert found[:3] == pytest.approx([0.02 + (cosine[3] - 0.02) * i / 3 for i in range(3)])
    for done in (2, 5):
        assert rates(cfg, resumed_after=done) == found


def test_a_cosine_that_is_all_warm_up_is_told(caplog: pytest.LogCaptureFixture) -> None:
    rates(make_cfg(**COSINE, SOLVER__MAX_ITER=10, SOLVER__WARMUP_ITERS=9))
    rates(make_cfg(SOLVER__MAX_ITER=10, SOLVER__WARMUP_ITERS=1000))
    assert "WARMUP_ITERS" not in caplog.text
    found = rates(make_cfg(**COSINE, SOLVER__MAX_ITER=10, SOLVER__WARMUP_ITERS=1000))
    assert max(found) <= 0.2 * 0.001
    assert "WARMUP_ITERS is 1000 and MAX_ITER 10: by WarmupCosineLR the rate never" in caplog.text


@pytest.mark.parametrize("key", ["LR_SCHEDULER_NAME", "WARMUP_METHOD"])
def test_unknown_schedule(key: str) -> None:
    with pytest.raises(ConfigError, match=r"SOLVER: Unknown.*: sine"):
        rates(make_cfg(**{f"SOLVER__{key}": "sine"}))
