"""The configs have the published networks, and those that these are compared with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.modeling import build_model

from rpanoptic.engine import setup_config
from rpanoptic.modeling.backbone import ConvRNN
from rpanoptic.recurrent.cells.general_reciprocal_gated import (
    MEDIAN_RECIPROCAL_GATED,
    SHALLOW_RECIPROCAL_GATED,
)
from tests.paths import CONFIGS

# Trainable parameters, those of the classifier of 1000 classes included.
PARAMETERS = {
    "shallow/feedforward": 4_197_736,
    "shallow/time_decay": 4_197_739,
    "shallow/simple_rnn": 6_272_872,
    "shallow/conv_gru": 25_434_472,
    "shallow/conv_lstm": 32_513_384,
    "shallow/conv_lstm_searched": 21_126_248,
    "shallow/ugrnn": 18_355_560,
    "shallow/intersection_rnn": 32_513_384,
    "shallow/reciprocal_gated": 23_962_984,
    "intermediate/feedforward": 16_403_432,
    "intermediate/time_decay": 16_403_439,
    "intermediate/simple_rnn": 33_512_936,
    "intermediate/conv_gru": 67_725_032,
    "intermediate/conv_lstm": 84_832_232,
    "intermediate/ugrnn": 50_617_832,
    "intermediate/intersection_rnn": 84_832_232,
    "intermediate/reciprocal_gated": 15_445_800,
    "reference/resnet18": 11_689_512,
    "reference/resnet34": 21_797_672,
}
# By network the paper's T, and the steps of the loop.
STEPS = {"intermediate": (17, 13), "shallow": (16, 13)}


def built(name: str) -> Any:
    """The model of a config on the meta device: shapes without numbers."""
    cfg = setup_config(CONFIGS / f"imagenet/{name}.yaml", ["MODEL.DEVICE", "cpu"])
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameters(name: str, count: int) -> None:
    assert sum(p.numel() for p in built(name).parameters() if p.requires_grad) == count


@pytest.mark.parametrize("kind", ["wider", "deeper"])
def test_controls_have_the_parameters_of_the_median_network(kind: str) -> None:
    count = sum(p.numel() for p in built(f"intermediate/feedforward_{kind}").parameters())
    assert count == pytest.approx(PARAMETERS["intermediate/reciprocal_gated"], rel=0.02)


@pytest.mark.parametrize("name", [n for n in PARAMETERS if not n.startswith("reference")])
def test_layers_time_and_sizes(name: str) -> None:
    model = built(name).eval()
    backbone: ConvRNN = model.backbone
    kind = name.split("/")[0]
    depth = {"intermediate": 10, "shallow": 5}[kind]
    assert backbone.graph.names == tuple(f"conv{place}" for place in range(1, depth + 1))
    shape = backbone.output_shape()["res5"]
    last = backbone.graph[f"conv{depth}"]
    assert (shape.stride, shape.channels) == (32, last.out_channels)
    if not backbone.graph.loop:
        assert "feedforward" in name
        return
    first = {"intermediate": 4, "shallow": 3}[kind]
    cells = [layer.name for layer in backbone.graph.loop if layer.cell]
    assert cells == [f"conv{place}" for place in range(first, depth + 1)]
    total, steps = STEPS[kind]
    # Layer l, from 1, has the picture at t = l - 1; step 1 of the loop is that of its first layer.
    readouts = backbone.readout_steps("res5")
    assert readouts == range(depth - first + 1, steps + 1)
    # The logits follow a step later; the published ones are read out at depth .. T - 1.
    assert [step + first - 1 for step in readouts] == list(range(depth, total))


def test_the_median_network_is_wired_as_published() -> None:
    graph = built("intermediate/reciprocal_gated").backbone.graph
    widths = [64, 128, 128, 128, 128, 256, 256, 256, 512, 512]
    assert [layer.channels for layer in graph.layers] == widths
    assert set(graph.feedback) == {
        ("conv8", "conv5"),
        ("conv9", "conv6"),
        ("conv10", "conv7"),
        ("conv7", "conv6"),
        ("conv10", "conv9"),
    }
    assert [layer.name for layer in graph.layers if layer.pool] == [
        "conv1",
        "conv4",
        "conv6",
        "conv7",
        # The readout pools by itself; feedback from conv10 comes from behind its pooling.
        "conv10",
    ]
    assert not any(layer.residual for layer in graph.layers)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("intermediate/reciprocal_gated", MEDIAN_RECIPROCAL_GATED),
        ("shallow/reciprocal_gated", SHALLOW_RECIPROCAL_GATED),
    ],
)
def test_reciprocal_gated_cells_are_the_published_ones(name: str, options: dict[str, Any]) -> None:
    graph = built(name).backbone.graph
    for layer in graph.loop:
        assert layer.cell.name == "general_reciprocal_gated"
        assert layer.cell.options == options


@pytest.mark.parametrize("name", ["t22", "neural"])
def test_presentations_change_time_alone(name: str) -> None:
    changed = setup_config(CONFIGS / f"imagenet/presentations/reciprocal_gated_{name}.yaml")
    cfg = setup_config(CONFIGS / "imagenet/intermediate/reciprocal_gated.yaml")
    node = changed.MODEL.RECURRENT.CONVRNN
    # The paper's t of the last step, which is T - 1, is two more at the layers and three at the
    # logits. Fits are of the layers.
    wanted = {"t22": (22 - 1 - 3, 0), "neural": (26 - 1 - 2, 10)}[name]
    assert wanted == (node.STEPS, node.IMAGE_STEPS)
    node.STEPS, node.IMAGE_STEPS = cfg.MODEL.RECURRENT.CONVRNN.STEPS, 0
    changed.OUTPUT_DIR = cfg.OUTPUT_DIR
    assert changed == cfg


def test_the_pair_that_settles_differs_in_the_gradient_alone() -> None:
    pair = [setup_config(CONFIGS / f"imagenet/small/{name}.yaml") for name in ("bptt20", "crbp20")]
    nodes = [cfg.MODEL.RECURRENT.CONVRNN for cfg in pair]
    assert [node.GRADIENT for node in nodes] == ["bptt", "crbp"]
    nodes[0].GRADIENT, nodes[0].LIPSCHITZ = nodes[1].GRADIENT, nodes[1].LIPSCHITZ
    pair[0].OUTPUT_DIR = pair[1].OUTPUT_DIR
    assert pair[0] == pair[1]
