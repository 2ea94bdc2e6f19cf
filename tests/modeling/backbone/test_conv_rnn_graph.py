"""The description of a ConvRNN: what it derives, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rpanoptic.modeling.backbone import ConvRNN, ConvRNNGraph, Layer, ten_layers
from rpanoptic.modeling.backbone.conv_rnn_layers import TEN_LAYERS
from rpanoptic.recurrent import build_cell

WIDTHS = [64, 64, 64, 128, 128, 256, 256, 512, 512, 512]
RECURRENT = TEN_LAYERS[3:]
FEEDBACK = [("conv8", "conv5"), ("conv10", "conv9")]


def test_strides_and_outputs_of_the_ten_layers() -> None:
    graph = ten_layers(WIDTHS)
    assert [graph.stride(name) for name in TEN_LAYERS] == [2, 4, 4, 4, 8, 8, 16, 32, 32, 32]
    outputs = {name: graph.features[name] for name in ("res2", "res3", "res4", "res5")}
    assert outputs == {"res2": "conv4", "res3": "conv6", "res4": "conv7", "res5": "conv10"}
    assert [graph.in_channels(name) for name in TEN_LAYERS] == [3, *WIDTHS[:-1]]


def test_the_loop_begins_at_the_first_cell_or_target_of_feedback() -> None:
    def loop(**parts: Any) -> list[str]:
        return [layer.name for layer in ten_layers(WIDTHS, **parts).loop]

    assert loop() == []
    assert loop(cells=["conv9", "conv7"]) == list(TEN_LAYERS[6:])
    assert loop(cells=["conv9"], feedback=[("conv10", "conv8")]) == list(TEN_LAYERS[7:])


def test_the_image_arrives_a_layer_a_step_if_edges_have_a_delay() -> None:
    graph = ten_layers(WIDTHS, cells=RECURRENT)
    assert [graph.arrival(name, 1) for name in TEN_LAYERS] == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]
    assert [graph.arrival(name, 0) for name in TEN_LAYERS] == [0, 0, 0, *[1] * 7]


def test_layers_that_no_output_depends_on_are_left_out() -> None:
    graph = ten_layers(WIDTHS, cells=RECURRENT, feedback=[("conv8", "conv5"), ("conv10", "conv9")])
    # conv8 acts on conv5, on which res3 depends.
    reduced = graph.reduced_to(["res3"])
    assert reduced.names == TEN_LAYERS[:8]
    assert reduced.feedback == (("conv8", "conv5"),)
    # conv8 is needed for conv7, and conv10 for conv8.
    chained = ten_layers(WIDTHS, feedback=[("conv8", "conv7"), ("conv10", "conv8")])
    assert chained.reduced_to(["conv7"]).names == TEN_LAYERS
    assert graph.reduced_to(["conv4"]).names == TEN_LAYERS[:4]
    assert graph.reduced_to(["res5"]) == graph


def test_parameters_of_the_published_network() -> None:
    # 16,403,439 of its time-decay version are published, with a classifier of 512 x 1000 + 1000.
    graph = ten_layers(WIDTHS, cells=RECURRENT, residual=True)
    with torch.device("meta"):
        cells = {name: build_cell("time_decay", graph[name].channels) for name in RECURRENT}
        network = ConvRNN(graph=graph, cells=cells)
    assert sum(p.numel() for p in network.parameters()) == 16_403_439 - 513_000


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"widths": WIDTHS[:9]}, ["10 layers", "9 widths"]),
        ({"widths": [*WIDTHS[:9], 0]}, ["channels of layer 'conv10'", "at least 1", "0"]),
        ({"cells": ["conv4", "conv11"]}, ["'conv11'", "known: conv1, conv2", "mean 'conv1"]),
        ({"feedback": [("conv8", "cnov5")]}, ["['conv8', 'cnov5']", "'cnov5'", "mean 'conv5'"]),
        ({"feedback": [("conv5", "conv8")]}, ["['conv5', 'conv8']", "an earlier one"]),
        ({"feedback": [("conv8", "conv8")]}, ["['conv8', 'conv8']", "an earlier one"]),
        ({"feedback": [("conv8",)]}, ["pair of layers", "('conv8',)"]),
        ({"feedback": ["conv8"]}, ["pair of layers", "'conv8'"]),
        ({"feedback": [("conv8", "conv5")] * 2}, ["twice", "conv8"]),
    ],
)
def test_impossible_networks_are_named(parts: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        ten_layers(parts.pop("widths", WIDTHS), **parts)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_other_impossible_networks_are_named() -> None:
    with pytest.raises(ValueError, match="'a' is residual"):
        Layer("a", 4, stride=2, residual=True)
    with pytest.raises(ValueError, match="a name of its own, got a, a"):
        ConvRNNGraph((Layer("a", 4), Layer("a", 4)))
    with pytest.raises(ValueError, match="at least one layer"):
        ConvRNNGraph(())
    with pytest.raises(ValueError, match=r"unknown output 'res6', known: res2, res3.*mean 'res"):
        ten_layers(WIDTHS).reduced_to(["res6"])
    with pytest.raises(ValueError, match="at least one output"):
        ten_layers(WIDTHS).reduced_to([])
