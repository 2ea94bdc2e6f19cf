from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from optuna.samplers import RandomSampler

import rpanoptic.pathfinder  # noqa: F401  (registers what the configs name)
from rpanoptic.engine import setup_config
from rpanoptic.errors import ConfigError
from rpanoptic.pathfinder.imagenet.search.parameters import (
    Choice,
    Float,
    Integer,
    flag,
    median_of,
    suggest_all,
)
from rpanoptic.pathfinder.imagenet.search.space import SPACES, count_parameters, find_space
from rpanoptic.random_state import seeded
from tests.paths import CONFIGS

DIGITS = CONFIGS / "imagenet" / "digits_search.yaml"
MEDIAN = CONFIGS / "imagenet" / "intermediate" / "reciprocal_gated.yaml"


@cache
def base(file: Path = DIGITS) -> CfgNode:
    return setup_config(file, ["MODEL.DEVICE", "cpu"])


def draw(name: str, seed: int, file: Path = DIGITS) -> dict[str, Any]:
    study = optuna.create_study(sampler=RandomSampler(seed=seed))
    return suggest_all(SPACES[name].parameters(base(file)), study.ask())


@pytest.mark.parametrize("name", list(SPACES))
def test_every_trial_is_a_network(name: str) -> None:
    space = SPACES[name]
    sizes = set()
    for seed in range(12):
        cfg = space.config(base(), draw(name, seed))
        sizes.add(count_parameters(cfg))
        # Of plain YAML, without references between layers, the same config comes back.
        again = base().clone()
        again.merge_from_other_cfg(CfgNode.load_cfg(cfg.dump()))
        assert again.MODEL.RECURRENT == cfg.MODEL.RECURRENT and again.SOLVER == cfg.SOLVER
        assert "&" not in yaml.safe_dump(cfg.MODEL.RECURRENT.CONVRNN.LAYERS)
    assert len(sizes) > 6


@pytest.mark.parametrize(("name", "seed"), [("reciprocal_gated", n) for n in range(6)])
def test_networks_learn(name: str, seed: int) -> None:
    cfg = SPACES[name].config(base(), draw(name, seed))
    with seeded(seed):
        model = build_model(cfg).train()
        assert sum(p.numel() for p in model.parameters()) == count_parameters(cfg)
        pictures = [
            {"image": torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8), "label": label}
            for label in range(2)
        ]
        sum(model(pictures).values()).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_published_median_is_in_the_space() -> None:
    space = SPACES["reciprocal_gated"]
    parameters = space.parameters(base(MEDIAN))
    assert sum(parameter.name.startswith("edge ") for parameter in parameters) == 21
    feedback = base(MEDIAN).MODEL.RECURRENT.CONVRNN.FEEDBACK
    values: dict[str, Any] = {}
    given = {
        "memory_channels": 64,
        "input_to_memory": True,
        "input_to_output": True,
        "residual_to_output": True,
        "memory_kernel_size": 2,
        "output_kernel_size": 3,
        "tau_kernel_size": 7,
        "memory_tau_kernel_size": 7,
        "tau_separable": True,
        "gate_kernel_size": 7,
        "gate_separable": True,
        "layer_kernel_size": 3,
        "width": 1.0,
        "feedback_entry": "output",
        "feedback_kernel_size": 1,
        "p_edge": 0.5,
        "steps": 13,
    }
    given |= {f"edge {later} > {earlier}": 0.2 for later, earlier in feedback}
    for parameter in parameters:
        if not parameter.exists(values):
            continue
        if isinstance(parameter, Choice):
            value = given.get(parameter.name, parameter.values[0])
            assert value in parameter.values
        else:
            assert isinstance(parameter, (Float, Integer))
            value = given.get(parameter.name, parameter.high)
            assert parameter.low <= value <= parameter.high
        values[parameter.name] = value
    cfg = space.config(base(MEDIAN), values)
    assert sorted(cfg.MODEL.RECURRENT.CONVRNN.FEEDBACK) == sorted(map(list, feedback))
    assert count_parameters(cfg) == 15_445_800


def test_what_cannot_be_is_repaired() -> None:
    space = SPACES["reciprocal_gated"]
    values = draw("reciprocal_gated", 0)
    values |= {"memory_channels": 12, "input_to_memory": False, "residual_to_memory": False}
    values |= {"memory_to_output": False, "memory_kernel_size": 3, "memory_separable": False}
    values |= {"memory_tau_kernel_size": 3, "memory_nonlinearity": "elu"}
    values |= {"residual_to_memory_tau": False, "residual_to_memory_gate": False}
    cell = space.config(base(), values).MODEL.RECURRENT.CONVRNN.LAYERS[1]["cell"]
    assert cell["input_to_memory"] is True
    lost = draw("reciprocal_gated", 1) | {"feedback_entry": "memory"}
    lost = {n: v for n, v in lost.items() if "memory" not in n or n == "memory_to_output"}
    lost |= {"memory_channels": 0, "feedback_entry": "memory", "memory_to_output": False}
    cfg = space.config(base(), {n: v for n, v in lost.items() if n != "memory_to_output"})
    assert cfg.MODEL.RECURRENT.CONVRNN.LAYERS[1]["cell"]["feedback_entry"] == "output"
    count_parameters(cfg)


def test_a_gradient_at_the_fixed_point_leaves_time_alone() -> None:
    cfg = base().clone()
    cfg.MODEL.RECURRENT.CONVRNN.GRADIENT = "crbp"
    names = {parameter.name for parameter in SPACES["reciprocal_gated"].parameters(cfg)}
    assert "steps" in names and not names & {"image_off", "image_part", "decoder"}


def test_median_of_trials() -> None:
    parameters = (
        Float("a", 0, 10),
        Float("rate", 1e-4, 1, log=True),
        Integer("n", 0, 9),
        flag("on"),
        Float("deep", 0, 1, when=("on", (True,))),
        Float("other", 0, 1, when=("on", (False,))),
    )
    trials = [
        {"a": 1.0, "rate": 1e-3, "n": 2, "on": True, "deep": 0.25},
        {"a": 4.0, "rate": 1e-1, "n": 5, "on": False, "other": 0.5},
        {"a": 9.0, "rate": 1e-2, "n": 6, "on": True, "deep": 0.75},
    ]
    found = median_of(parameters, trials)
    assert found == {"a": 4.0, "rate": pytest.approx(1e-2), "n": 5, "on": True, "deep": 0.5}
    # An even number: the geometric mean in the logarithm, a whole number that occurs, the better
    # trial's choice.
    found = median_of(parameters, trials[:2])
    assert found == {"a": 2.5, "rate": pytest.approx(1e-2), "n": 2, "on": True, "deep": 0.25}


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="'cell' is unknown; known: reciprocal_gated, cells"):
        find_space("cell")
    cfg = base().clone()
    cfg.MODEL.RECURRENT.CONVRNN.LAYERS = [{"name": "conv1", "channels": 8}]
    with pytest.raises(ConfigError, match="no layer with a cell"):
        SPACES["cells"].parameters(cfg)
    cfg = base().clone()
    cfg.MODEL.RECURRENT.CONVRNN.LAYERS = [{"name": "conv1", "channels": 8, "cell": "gru"}]
    cfg.MODEL.RECURRENT.CONVRNN.FEEDBACK = []
    cfg.MODEL.RECURRENT.CONVRNN.OUT_FEATURES = ["conv1"]
    with pytest.raises(ConfigError, match="gru"):
        count_parameters(cfg)
