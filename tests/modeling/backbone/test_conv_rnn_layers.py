"""The layers of a ConvRNN: as a config lists them, and the counts of the published networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from torch import Tensor

from rpanoptic import add_rpanoptic_config
from rpanoptic.modeling.backbone import (
    CellSpec,
    Connection,
    ConvRNN,
    ConvRNNGraph,
    Layer,
    five_layers,
    ten_layers,
)
from rpanoptic.modeling.backbone.conv_rnn_build import blank_of, build_graph
from rpanoptic.modeling.backbone.conv_rnn_layers import TEN_LAYERS, parse_layers
from rpanoptic.modeling.backbone.conv_rnn_parts import Feedback
from rpanoptic.recurrent import CELLS, RecurrentBlock, build_cell
from rpanoptic.recurrent.cells.general_reciprocal_gated import MEDIAN_RECIPROCAL_GATED
from tests.modeling.backbone.tiny import images, ten_layer_dicts, tiny_backbone, total

NODE = "RECURRENT__CONVRNN__"
# Of a linear readout of 512 channels.
TEN_READOUT = 512 * 1000 + 1000
# Of a 2 x 2 convolution.
FIVE_READOUT = 4 * 512 * 1000 + 1000
WIDTHS = (64, 64, 64, 128, 128, 256, 256, 512, 512, 512)
MEDIAN_WIDTHS = (64, 128, 128, 128, 128, 256, 256, 256, 512, 512)
MEDIAN_FEEDBACK = [
    ("conv8", "conv5"),
    ("conv9", "conv6"),
    ("conv10", "conv7"),
    ("conv7", "conv6"),
    ("conv10", "conv9"),
]


def parameters(graph: ConvRNNGraph, cell: str = "", **options: Any) -> int:
    """How many a network has, with a cell in each layer that holds one."""
    with torch.device("meta"):
        cells = {}
        for layer in graph.loop:
            takes = {"input_channels": graph.in_channels(layer.name)}
            takes["feedback"] = bool(graph.sources(layer.name))
            if cell != "general_reciprocal_gated":
                takes = {}
            cells[layer.name] = build_cell(cell, layer.channels, **takes, **options)
        module = ConvRNN(
            graph=graph, cells=cells, make_block=lambda cell: RecurrentBlock(cell, gradient="bptt")
        )
    return sum(p.numel() for p in module.parameters())


def test_parameters_of_the_published_networks() -> None:
    assert parameters(ten_layers(WIDTHS, residual=True)) == 16_403_432 - TEN_READOUT
    assert parameters(five_layers()) == 4_197_736 - FIVE_READOUT
    decay = five_layers(cells=["conv3", "conv4", "conv5"], activation="")
    assert parameters(decay, "time_decay") == 4_197_739 - FIVE_READOUT
    median = ten_layers(MEDIAN_WIDTHS, cells=TEN_LAYERS[3:], feedback=MEDIAN_FEEDBACK)
    count = parameters(median, "general_reciprocal_gated", **MEDIAN_RECIPROCAL_GATED)
    assert count == 15_445_800 - TEN_READOUT


def test_cells_with_channels_of_their_own() -> None:
    # As published in the shallow network: 256 channels of the convolution, 128 of the cell.
    layers = parse_layers(
        [
            {"name": "a", "channels": 8, "stride": 2},
            {
                "name": "b",
                "channels": 16,
                "pool": True,
                "activation": "",
                "cell": {"name": "conv_rnn", "channels": 6, "norm": "LN"},
            },
            {"name": "c", "channels": 4, "residual": True, "cell": "conv_gru"},
        ]
    )
    assert layers[1].cell == CellSpec("conv_rnn", 6, {"norm": "LN"})
    graph = ConvRNNGraph(tuple(layers), (("c", "b"),))
    assert [graph.in_channels(name) for name in "abc"] == [3, 8, 6]
    module = ConvRNN(
        graph=graph,
        cells={
            "b": build_cell("conv_rnn", 6, drive_channels=16),
            "c": build_cell("conv_gru", 4),
        },
        out_features=["b", "c"],
        make_block=lambda cell: RecurrentBlock(cell, steps=3, gradient="bptt"),
    )
    features = module(images(2, 9, 9))
    assert {name: tuple(f.shape) for name, f in features.items()} == {
        "b": (2, 6, 5, 5),
        "c": (2, 4, 3, 3),
    }
    assert {name: spec.channels for name, spec in module.output_shape().items()} == {"b": 6, "c": 4}
    total(features).backward()
    assert all(p.grad is not None for p in module.parameters())


def test_a_config_builds_each_layers_cell() -> None:
    layers = ten_layer_dicts(cells=["conv9"])
    layers[4]["cell"] = "time_decay"
    layers[6] |= {"cell": {"name": "conv_lstm", "channels": 5, "kernel_size": 2}, "activation": ""}
    # The options of the node are for cells that are chosen by it.
    keys = {"LAYERS": layers, "CELL": "ugrnn", "KERNEL_SIZE": 5, "STEPS": 9}
    module = tiny_backbone("build_convrnn_backbone", **{NODE + k: v for k, v in keys.items()})
    cells = module.recurrence.cell.cells
    assert {name: type(cell) for name, cell in cells.items()} == {
        "conv5": CELLS.get("time_decay"),
        "conv7": CELLS.get("conv_lstm"),
        "conv9": CELLS.get("ugrnn"),
    }
    assert (cells["conv7"].drive_channels, cells["conv7"].channels) == (8, 5)
    assert cells["conv7"].gates.kernel_size == (2, 2)
    assert any(p.shape[-1] == 5 for p in cells["conv9"].parameters())
    assert module(images(1, 32, 32))["res4"].shape == (1, 5, 2, 2)


def test_a_cell_is_given_what_it_asks_for() -> None:
    cell = {"name": "general_reciprocal_gated", **MEDIAN_RECIPROCAL_GATED}
    layers = ten_layer_dicts()
    for layer in layers[3:]:
        layer["cell"] = cell
    keys = {"LAYERS": layers, "STEPS": 8, "WIDTH": 0.5}
    module = tiny_backbone("build_convrnn_backbone", **{NODE + k: v for k, v in keys.items()})
    cells = module.recurrence.cell.cells
    assert cells["conv4"].drive_parts == ("drive", "input")
    assert cells["conv5"].drive_parts == ("drive", "input", "feedback")
    assert cells["conv7"].part_channels() == (4, 4, 4)
    assert cells["conv4"].memory_channels == 32
    total(module(images(1, 64, 64))).backward()
    # Feedback from conv10 has come to conv7 in step 8, and not gone on from there.
    assert module.recurrence.cell.feedback["conv7"].convs["conv10"].weight.grad is not None


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (
            build_cell("general_reciprocal_gated", 4, feedback=True),
            ["layer 'b' is driven by 'feedback'", "'drive', 'input' alone"],
        ),
        (
            build_cell("general_reciprocal_gated", 4, input_channels=7, residual_to_output=True),
            ["drive, input of 4, 3 channels", "it takes 4, 7"],
        ),
    ],
)
def test_a_cell_that_asks_for_what_is_not_there(cell: Any, words: list[str]) -> None:
    graph = ConvRNNGraph((Layer("a", 3), Layer("b", 4, cell=True)))
    with pytest.raises(ValueError) as caught:
        ConvRNN(graph=graph, cells={"b": cell}, out_features=["b"])
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_cell_that_reads_the_input_needs_it_at_its_size() -> None:
    graph = ConvRNNGraph((Layer("a", 4, stride=2, cell=True),))
    cell = build_cell("general_reciprocal_gated", 4, input_channels=3, residual_to_output=True)
    with pytest.raises(ValueError, match=r"reads the layer's input.*stride must be 1, got 2"):
        ConvRNN(graph=graph, cells={"a": cell}, out_features=["a"])


def test_width_is_a_factor_of_all_channels() -> None:
    given = [
        {"name": "a", "channels": 10},
        {"name": "b", "channels": 3, "cell": {"name": "conv_rnn", "channels": 6}},
        {
            "name": "c",
            "channels": 8,
            "cell": {"name": "general_reciprocal_gated", "memory_channels": 4},
        },
    ]
    a, b, c = parse_layers(given, 0.26)
    assert (a.channels, b.channels, b.cell.channels, c.channels) == (3, 1, 2, 2)
    assert c.cell.options == {"memory_channels": 1}
    assert given[0]["channels"] == 10
    assert parse_layers(given, 2.0)[0].channels == 20


def test_the_default_is_the_ten_layer_network() -> None:
    cfg = get_cfg()
    add_rpanoptic_config(cfg)
    graph = build_graph(cfg)
    assert graph == ten_layers(WIDTHS, cells=TEN_LAYERS[3:], feedback=MEDIAN_FEEDBACK)
    # What is written out is read in again.
    again = get_cfg()
    add_rpanoptic_config(again)
    again.MODEL.RECURRENT.CONVRNN.LAYERS = []
    again.merge_from_other_cfg(CfgNode.load_cfg(cfg.dump()))
    assert build_graph(again) == graph


@pytest.mark.parametrize("combination", ["add", "multiply", "gate"])
@pytest.mark.parametrize(
    ("kernel_size", "separable"), [(1, False), (1, True), (2, True), (3, False)]
)
def test_feedback_in_other_forms(combination: str, kernel_size: int, separable: bool) -> None:
    torch.manual_seed(0)
    connection = Connection(kernel_size, separable, "tanh", combination)
    feedback = Feedback({"b": 3, "c": 2}, 4, connection).double()
    sources = {"b": torch.randn(2, 3, 3, 4).double(), "c": torch.randn(1, 2, 2, 2).double()}
    drive = torch.randn(2, 4, 6, 8).double()
    mixed: Tensor | float = 0.0
    for name, source in sources.items():
        # Here the resizing comes first in every form.
        x = torch.nn.functional.interpolate(source, (6, 8), mode="bilinear", align_corners=True)
        mixed = mixed + feedback.convs[name](x)
    expected = torch.tanh(mixed + feedback.bias)
    f = feedback(sources, drive.shape[-2:])
    # A 1 x 1 convolution and the resizing change places: rounding alone.
    torch.testing.assert_close(f, expected.expand_as(drive), rtol=1e-12, atol=1e-12)
    combined = {"add": drive + f, "multiply": drive * f, "gate": drive * torch.sigmoid(f)}
    assert torch.equal(feedback.combined(drive, f), combined[combination])
    weights = 4 * 5 * (1 if separable else kernel_size**2) + separable * 5 * kernel_size**2
    assert sum(p.numel() for p in feedback.parameters()) == weights + 4
    assert feedback.bias.eq(1.0 if combination == "multiply" else 0.0).all()


def test_a_combination_that_no_layer_uses_is_refused() -> None:
    graph = ConvRNNGraph((Layer("a", 4, cell=True), Layer("b", 4)), (("b", "a"),))
    cell = build_cell("general_reciprocal_gated", 4, feedback=True)
    with pytest.raises(ValueError, match=r"no layer combines .* 'gate': the cells of a take"):
        ConvRNN(
            graph=graph,
            cells={"a": cell},
            out_features=["b"],
            connection=Connection(combination="gate"),
        )


def test_blanks() -> None:
    cfg = get_cfg()
    add_rpanoptic_config(cfg)
    assert blank_of(cfg) == [0.5, 0.5, 0.5]
    cfg.MODEL.RECURRENT.CONVRNN.BLANK = "pixel_grey"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [100.0, 127.5, 130.0], [50.0, 1.0, 5.0]
    assert blank_of(cfg) == pytest.approx([0.55, 0.0, -0.5])


def test_five_layers() -> None:
    graph = five_layers(cells=["conv3", "conv4"], activation="")
    assert [graph.stride(name) for name in graph.names] == [2, 4, 8, 16, 32]
    assert [layer.activation for layer in graph.layers] == ["elu", "elu", "", "", "elu"]
    assert graph.features["res5"] == "conv5"
    with pytest.raises(ValueError, match="5 layers; got 4 widths"):
        five_layers([1, 2, 3, 4])
    with pytest.raises(ValueError, match="unknown layer 'conv6', known: conv1"):
        five_layers(cells=["conv6"])
