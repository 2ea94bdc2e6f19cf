"""The task-driven ConvRNN as a backbone: its dynamics, its gradients, its place in models."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from rpanoptic.engine.checkpoint import PanopticCheckpointer
from rpanoptic.errors import CheckpointError, ConfigError
from rpanoptic.modeling.backbone import ConvRNN, ConvRNNCell, ConvRNNGraph, Layer, ten_layers
from rpanoptic.modeling.backbone.conv_rnn_layers import TEN_LAYERS
from rpanoptic.recurrent import (
    CELLS,
    GRADIENTS,
    AdjointConfig,
    LipschitzPenalty,
    RecurrentBlock,
    build_cell,
    steps_at_test,
)
from rpanoptic.recurrent.cells.general_reciprocal_gated import MEDIAN_RECIPROCAL_GATED
from tests.modeling.backbone.by_hand import unrolled_by_hand
from tests.modeling.backbone.tiny import WIDTHS, images, ten_layer_dicts, tiny_backbone, total
from tests.modeling.meta_arch.models import picture, tiny_model
from tests.recurrent.helpers import assert_gradients_close

OUTPUTS = {"res2": "conv4", "res3": "conv6", "res4": "conv7", "res5": "conv10"}
NODE = "RECURRENT__CONVRNN__"
PENALTY = "loss_lipschitz_convrnn"


def conv_rnn(**node: Any) -> ConvRNN:
    """The ten layers with few channels; ``node`` are keys of its config."""
    options = {"LAYERS": ten_layer_dicts(), "STEPS": 8, "ON_FAILURE": "record"} | node
    return tiny_backbone("build_convrnn_backbone", **{NODE + k: v for k, v in options.items()})


def layers(**changes: Any) -> list[dict[str, Any]]:
    """The ten layers, conv4 with other keys."""
    made = ten_layer_dicts()
    made[3] |= changes
    return made


def assert_same(net: Any, features: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The features are the expected ones, and so are their gradients for every parameter."""
    for feature, value in expected.items():
        # The order of resizing and mixing, and of sums in it, differs: rounding alone.
        torch.testing.assert_close(features[feature], value, rtol=1e-10, atol=1e-10)
    parameters = list(net.parameters())
    assert_gradients_close(
        torch.autograd.grad(total(features), parameters),
        torch.autograd.grad(total(expected), parameters),
        1e-9,
    )


MEDIAN = {"name": "general_reciprocal_gated", **MEDIAN_RECIPROCAL_GATED, "memory_channels": 3}


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize(("cell", "residual"), [(True, True), (True, False), (MEDIAN, False)])
def test_agrees_with_the_unrolled_network(cell: Any, residual: bool, delay: int) -> None:
    layers = ten_layer_dicts(residual=residual)
    for layer in layers[3:]:
        layer["cell"] = cell
    net = conv_rnn(DELAY=delay, LAYERS=layers, GRADIENT="bptt").double()
    with torch.no_grad():
        # Biases off zero, or a missing one would not show, nor what was before the image.
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    image = images(2, 33, 50).double()
    features = net(image)
    last = unrolled_by_hand(net, image, 8, delay)[-1]
    expected = {feature: last[name] for feature, name in OUTPUTS.items()}
    assert_same(net, features, expected)


@pytest.mark.parametrize("gradient", ["bptt", "checkpointed_bptt"])
def test_mean_is_over_the_steps_from_the_arrival(gradient: str) -> None:
    net = conv_rnn(READOUT="mean", GRADIENT=gradient, STEPS=9).double()
    image = images(1, 33, 50).double()
    features = net(image)
    history = unrolled_by_hand(net, image, 9, delay=1)
    arrivals = {"res2": 1, "res3": 3, "res4": 4, "res5": 7}
    expected = {
        f: torch.stack([step[OUTPUTS[f]] for step in history[first - 1 :]]).mean(dim=0)
        for f, first in arrivals.items()
    }
    assert_same(net, features, expected)
    assert net.recurrence.last.steps.tolist() == [9]


def test_the_image_arrives_when_the_graph_says() -> None:
    net = conv_rnn()
    cell = net.recurrence.cell
    drives = images(2, 9, 9)[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2)[:, :4]
    runs = [
        [cell.features(state) for state in islice(net.recurrence.iterate(drive[None]), 8)]
        for drive in drives
    ]
    for name in OUTPUTS.values():
        equal = [torch.equal(one[name], other[name]) for one, other in zip(*runs, strict=True)]
        arrival = net.graph.arrival(name, delay=1)
        assert equal == [step < arrival for step in range(1, 9)], name


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 95), (1, 2000), (1, 1)])
def test_shapes(height: int, width: int) -> None:
    net = conv_rnn().eval()
    with torch.no_grad():
        features = net(images(1, height, width))
    specs = net.output_shape()
    assert {name: spec.stride for name, spec in specs.items()} == {
        "res2": 4,
        "res3": 8,
        "res4": 16,
        "res5": 32,
    }
    for name, spec in specs.items():
        size = (math.ceil(height / spec.stride), math.ceil(width / spec.stride))
        assert features[name].shape == (1, spec.channels, *size)
        assert spec.channels == WIDTHS[TEN_LAYERS.index(OUTPUTS[name])]


def test_outputs_by_names_of_layers() -> None:
    # conv1 and conv3 are before the loop, conv5 is in it; behind conv8 nothing is needed.
    feedback = [["conv8", "conv5"], ["conv10", "conv9"]]
    net = conv_rnn(OUT_FEATURES=["conv1", "conv3", "conv5"], FEEDBACK=feedback, STEPS=5)
    assert net.graph.names == TEN_LAYERS[:8]
    features = net(images(1, 32, 32))
    assert {name: tuple(f.shape[1:]) for name, f in features.items()} == {
        "conv1": (4, 16, 16),
        "conv3": (4, 8, 8),
        "conv5": (6, 4, 4),
    }
    total(features).backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("gradient", list(GRADIENTS))
def test_gradients_reach_every_parameter(gradient: str, delay: int) -> None:
    # Memory of conv8 acts on itself in step 6, on the hidden state in step 7, on conv10 in step 9.
    net = conv_rnn(GRADIENT=gradient, DELAY=delay, NONLINEARITY="tanh", STEPS=9, TRUNCATION=9)
    total(net(images(2, 64, 64))).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # The last step alone does not see what is several edges away.
        if gradient != "phantom":
            assert parameter.grad.any(), name


@pytest.mark.parametrize("cell", [name for name in CELLS if name != "top_down"])
def test_cells_that_serve(cell: str) -> None:
    net = conv_rnn(CELL=cell, GRADIENT="crbp")
    total(net(images(1, 32, 32))).backward()
    gradients = [p.grad for p in net.recurrence.cell.cells.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def settling(delay: int, residual: bool, gradient: str) -> ConvRNN:
    """Four layers of contractive parameters in float64, the same for all arguments but residual."""
    layers = (
        Layer("a", 3, kernel_size=3, stride=2, pool=True),
        Layer("b", 4, residual=residual, cell=True),
        Layer("c", 5, residual=residual, pool=True),
        Layer("d", 4, residual=residual, cell=True),
    )
    graph = ConvRNNGraph(layers, (("d", "b"), ("c", "b"), ("d", "c")))
    torch.manual_seed(0)
    cells = {
        name: build_cell("reciprocal_gated", graph[name].channels, nonlinearity="tanh")
        for name in ("b", "d")
    }

    def block(cell: ConvRNNCell) -> RecurrentBlock:
        return RecurrentBlock(
            cell,
            steps=70,
            gradient=gradient,
            adjoint=AdjointConfig(max_steps=70, tol=1e-12),
            penalty=LipschitzPenalty(weight=0.0),
            on_failure="raise",
        )

    net = ConvRNN(
        graph=graph, cells=cells, delay=delay, out_features=["b", "d"], make_block=block
    ).double()
    with torch.no_grad():
        for parameter in net.recurrence.parameters():
            parameter.mul_(0.4).add_(0.05 * torch.randn_like(parameter))
    return net


@pytest.mark.parametrize("residual", [True, False])
def test_an_equilibrium_has_one_gradient_by_every_way(residual: bool) -> None:
    image = images(2, 16, 23).double()
    found = []
    for gradient, delay in (("bptt", 0), ("crbp", 0), ("crbp", 1)):
        net = settling(delay, residual, gradient)
        features = net(image)
        assert net.recurrence.last.residual.max() < 1e-13
        found.append((features, torch.autograd.grad(total(features), list(net.parameters()))))
    (expected, gradients), *others = found
    for features, given in others:
        for name, value in expected.items():
            # Rounding, by a step that does not move the state any more.
            torch.testing.assert_close(features[name], value, rtol=0, atol=1e-11)
        assert_gradients_close(given, gradients, 1e-9)
    # Of the last step alone it is another: the recurrence counts.
    net = settling(0, residual, "phantom")
    one_step = torch.autograd.grad(total(net(image)), list(net.parameters()))
    assert any((a - b).norm() > 0.01 * b.norm() for a, b in zip(one_step, gradients, strict=True))


@pytest.mark.parametrize("delay", [0, 1])
def test_untrained_it_settles_with_tanh_and_not_with_elu(delay: int) -> None:
    changes = {}
    for nonlinearity in ("tanh", "elu"):
        net = conv_rnn(
            LAYERS=ten_layer_dicts([8, 8, 8, 16, 16, 32, 32, 64, 64, 64], residual=True),
            NONLINEARITY=nonlinearity,
            DELAY=delay,
            STEPS=60,
        )
        with torch.no_grad():
            net(images(1, 64, 64))
        changes[nonlinearity] = float(net.recurrence.last.residual)
    # Seeds 0 to 2 gave at most 4e-5, and at least 0.34.
    assert changes["tanh"] < 1e-3 and changes["elu"] > 0.1


@pytest.mark.parametrize("delay", [0, 1])
def test_samples_are_independent(delay: int) -> None:
    net = conv_rnn(DELAY=delay).double()
    image = images(3, 40, 40).double().requires_grad_()
    features = net(image)
    alone = net(image[1:2])
    for name, value in features.items():
        torch.testing.assert_close(value[1:2], alone[name], rtol=1e-10, atol=1e-12)
    (gradient,) = torch.autograd.grad(sum(f[1].sum() for f in features.values()), image)
    assert [bool(g.any()) for g in gradient] == [False, True, False]


def test_the_penalty_is_there_only_where_it_is_trained_with() -> None:
    image = images(1, 32, 32)
    net = conv_rnn(GRADIENT="crbp")
    net(image)
    net(image)
    penalties = net.take_penalties()
    assert set(penalties) == {PENALTY} and penalties[PENALTY].requires_grad
    assert net.take_penalties() == {}
    net(image)
    with torch.no_grad():
        net.eval()(image)
    assert net.take_penalties() == {}, "that of the pass before was kept"
    bptt = conv_rnn(GRADIENT="bptt")
    bptt(image)
    assert bptt.take_penalties() == {}


def test_without_cells_and_feedback_it_is_feed_forward() -> None:
    net = conv_rnn(LAYERS=ten_layer_dicts(cells=(), residual=True), FEEDBACK=[])
    assert net.recurrence is None
    features = net(images(1, 32, 32))
    total(features).backward()
    assert all(p.grad is not None for p in net.parameters())
    assert {name: f.shape[-1] for name, f in features.items()} == {
        "res2": 8,
        "res3": 4,
        "res4": 2,
        "res5": 1,
    }


def test_feedback_without_cells() -> None:
    net = conv_rnn(LAYERS=ten_layer_dicts(cells=()), GRADIENT="bptt").double()
    assert [layer.name for layer in net.graph.loop] == list(TEN_LAYERS[4:])
    total(net(images(1, 64, 64).double())).backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_norm_of_the_outputs() -> None:
    net = conv_rnn(LAYERS=ten_layer_dicts([4, 4, 4, *[32] * 7]), OUTPUT_NORM="GN")
    for feature in net(images(1, 64, 64)).values():
        mean = feature.unflatten(1, (32, 1)).mean(dim=(2, 3, 4))
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-5)


def test_too_few_steps_at_inference_are_named() -> None:
    net = conv_rnn().eval()
    with (
        pytest.raises(ValueError, match=r"steps of recurrence must be at least 7, got 6: .*output"),
        steps_at_test(net, 6),
    ):
        pass


@pytest.mark.parametrize("readout", ["last", "mean"])
def test_too_few_steps_set_later_are_named(readout: str) -> None:
    net = conv_rnn(READOUT=readout, GRADIENT="bptt")
    assert net.recurrence is not None
    net.recurrence.steps = 6
    with pytest.raises(ValueError, match="steps must be at least 7, got 6"):
        net(images(1, 32, 32))


@pytest.mark.parametrize(
    ("node", "least"), [({}, 7), ({"OUT_FEATURES": ["res4"], "FEEDBACK": []}, 4), ({"DELAY": 0}, 1)]
)
def test_least_steps(node: dict[str, Any], least: int) -> None:
    recurrence = conv_rnn(**node).recurrence
    assert recurrence is not None and recurrence.cell.least_steps == least


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\), got \(1, 4, 8, 8\)"):
        conv_rnn()(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"STEPS": 6}, ["steps must be at least 7, got 6", "ConvRNNCell"]),
        ({"STEPS_TEST": 3}, ["steps_test must be at least 7, got 3", "ConvRNNCell"]),
        ({"FEEDBACK": [["conv8", "conv15"]]}, ["['conv8', 'conv15']", "known: conv1"]),
        ({"FEEDBACK": [["conv8", "conv8"]]}, ["an earlier one"]),
        ({"LAYERS": ["conv4"]}, ["LAYERS", "layer 1 must be a mapping", "'conv4'"]),
        ({"LAYERS": []}, ["LAYERS", "at least one layer"]),
        ({"LAYERS": layers(chanels=4)}, ["LAYERS", "'chanels'", "known: name", "mean 'channels'"]),
        ({"LAYERS": layers(channels=None)}, ["channels of layer 'conv4'", "integer"]),
        ({"LAYERS": [{"name": "conv1"}]}, ["LAYERS", "layer 'conv1' has no 'channels'"]),
        ({"LAYERS": [{"channels": 4}]}, ["LAYERS", "layer 1 has no 'name'"]),
        ({"LAYERS": layers(name="conv 4")}, ["layer 'conv 4'", "letters, digits"]),
        ({"LAYERS": layers(pool=2)}, ["pool of layer 'conv4'", "True or False"]),
        ({"LAYERS": layers(activation="gelu")}, ["activation of layer 'conv4'", "'elu'", "gelu"]),
        ({"LAYERS": layers(cell=4)}, ["cell of layer 'conv4'", "name of a cell"]),
        ({"LAYERS": layers(cell="conv_gruu")}, ["layer 'conv4'", "Did you mean 'conv_gru'"]),
        (
            {"LAYERS": layers(cell={"name": "conv_gru", "kernel": 3})},
            ["layer 'conv4'", "unknown option 'kernel'", "mean 'kernel_size'"],
        ),
        (
            {"LAYERS": layers(cell={"name": "ugrnn", "kernel_size": "3"})},
            ["LAYERS", "cell of layer 'conv4'"],
        ),
        (
            {"LAYERS": layers(cell={"name": "time_decay", "channels": 4})},
            ["layer 'conv4'", "equal channels (4)", "got 6"],
        ),
        (
            {"LAYERS": layers(cell={"name": "conv_gru", "gate_bias": "a"})},
            ["layer 'conv4'", "gate_bias must be a number"],
        ),
        (
            {"LAYERS": layers(cell={"name": MEDIAN["name"], "tau_separable": "yes"})},
            ["layer 'conv4'", "tau_separable must be True or False"],
        ),
        ({"LAYERS": layers(cell={"name": "conv_gru", 5: 3})}, ["'conv4'", "unknown option 5"]),
        ({"LAYERS": layers(name="forward")}, ["layer 'forward'", "containers"]),
        ({"LAYERS": None}, ["LAYERS", "a list of mappings", "None"]),
        ({"FEEDBACK": None}, ["FEEDBACK", "a list of pairs", "None"]),
        ({"FEEDBACK": [5]}, ["FEEDBACK", "a pair of layers", "5"]),
        ({"STEPS": None}, ["STEPS", "at least 1", "None"]),
        ({"WIDTH": 0.0}, ["width", "above 0"]),
        ({"WIDTH": math.inf}, ["width", "above 0", "inf"]),
        ({"CONNECTION__SEPARABLE": None}, ["CONNECTION", "separable", "True or False"]),
        ({"CONNECTION__COMBINATION": "sum"}, ["CONNECTION", "'multiply'", "'sum'"]),
        ({"CONNECTION__KERNEL_SIZE": 0}, ["CONNECTION", "kernel_size", "at least 1"]),
        ({"CONNECTION__NONLINEARITY": "gelu"}, ["CONNECTION", "'elu'", "'gelu'"]),
        ({"BLANK": "black"}, ["BLANK", "'pixel_grey'", "'black'"]),
        ({"SCHEDULE": "lazy"}, ["schedule", "'pruned'", "'lazy'"]),
        ({"SCHEDULE": "pruned", "GRADIENT": "crbp"}, ["'pruned'", "'bptt'", "'crbp'"]),
        ({"IMAGE_STEPS": -1}, ["IMAGE_STEPS", "at least 0"]),
        ({"IMAGE_STEPS": 9}, ["IMAGE_STEPS", "after 9 steps", "takes 8"]),
        ({"IMAGE_STEPS": 3, "GRADIENT": "rbp"}, ["goes off", "'bptt'", "a constant image"]),
        ({"CELL": "top_down"}, ["TopDown", "as high and wide as its drive"]),
        ({"CELL": "reciprocal"}, ["CELL", "'reciprocal_gated'"]),
        ({"DELAY": 2}, ["delay must be 1 or 0", "2"]),
        ({"READOUT": "max"}, ["readout", "'mean'", "'max'"]),
        ({"READOUT": "mean", "GRADIENT": "crbp"}, ["'mean'", "'checkpointed_bptt'", "'crbp'"]),
        ({"READOUT": "mean", "FORWARD__TOL": 0.1}, ["'mean'", "tolerance"]),
        ({"READOUT": "mean", "HALT_TOL": 0.1}, ["'mean'", "tolerance"]),
        ({"OUT_FEATURES": ["res6"]}, ["unknown output 'res6'", "res5"]),
        ({"OUT_FEATURES": []}, ["OUT_FEATURES", "at least one output"]),
        ({"OUT_FEATURES": [["res5"]]}, ["OUT_FEATURES", "a list of names"]),
        ({"OUT_FEATURES": ["res5", "res5"]}, ["out_features", "twice: res5, res5"]),
        ({"OUTPUT_NORM": "batch"}, ["OUTPUT_NORM", "'GN'", "'batch'"]),
        ({"OUTPUT_NORM": "GN"}, ["OUTPUT_NORM", "32 groups"]),
    ],
)
def test_impossible_values_name_the_node(node: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^MODEL\.RECURRENT\.CONVRNN") as caught:
        conv_rnn(**node)
    assert all(word.strip("'") in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"conv4": build_cell("conv_gru", 6)}, ["cells are needed for ['conv4', 'conv5']"]),
        (
            {
                "conv4": build_cell("conv_gru", 6, drive_channels=4),
                "conv5": build_cell("conv_gru", 6),
            },
            ["'conv4'", "6 channels", "takes 4 and gives 6"],
        ),
    ],
)
def test_cells_that_do_not_fit_are_named(cells: dict[str, Any], words: list[str]) -> None:
    graph = ten_layers(WIDTHS, cells=["conv4", "conv5"])
    with pytest.raises(ValueError) as caught:
        ConvRNN(graph=graph, cells=cells)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_checkpoint_loads_under_every_method(tmp_path: Path) -> None:
    net = conv_rnn(GRADIENT="bptt").eval()
    DetectionCheckpointer(net, str(tmp_path)).save("weights")
    image = images(1, 32, 32)
    with torch.no_grad():
        expected = net(image)
        for gradient in GRADIENTS:
            other = conv_rnn(GRADIENT=gradient).eval()
            for parameter in other.parameters():
                parameter.add_(0.1)
            DetectionCheckpointer(other).load(str(tmp_path / "weights.pth"))
            for name, value in other(image).items():
                assert torch.equal(value, expected[name])


@pytest.mark.parametrize("heuristics", [True, False])
def test_weights_of_a_resnet_are_refused(heuristics: bool, tmp_path: Path) -> None:
    resnet = tiny_backbone("build_resnet_backbone")
    file = tmp_path / "resnet.pth"
    torch.save({"model": resnet.state_dict(), "matching_heuristics": heuristics}, file)
    model = nn.Module()
    model.backbone = conv_rnn()
    with pytest.raises(
        CheckpointError, match=r"nothing in checkpoint.*\.pth fits.*\n.*stem\.conv1"
    ):
        PanopticCheckpointer(model).resume_or_load(str(file), resume=False)


TINY = {NODE + "LAYERS": ten_layer_dicts(), NODE + "STEPS": 7, NODE + "ON_FAILURE": "record"}


def test_a_panoptic_model_trains_and_infers(tmp_path: Path) -> None:
    options = {f"MODEL__{k}": v for k, v in TINY.items()}
    options["MODEL__BACKBONE__NAME"] = "build_convrnn_fpn_backbone"
    options[f"MODEL__{NODE}GRADIENT"] = "crbp"
    options[f"MODEL__{NODE}NONLINEARITY"] = "tanh"
    model = tiny_model("RecurrentPanopticFPN", tmp_path, **options)
    with EventStorage():
        losses = model([picture(2), picture(0)])
    assert PENALTY in losses
    sum(losses.values()).backward()
    bottom_up = model.backbone.bottom_up
    assert all(p.grad is not None and p.grad.isfinite().all() for p in bottom_up.parameters())
    with torch.no_grad():
        (result,) = model.eval()([picture(2, 33, 47)])
    assert result["panoptic_seg"][0].shape == (33, 47)


def test_a_retinanet_infers(tmp_path: Path) -> None:
    options = {f"MODEL__{k}": v for k, v in TINY.items()}
    options["MODEL__BACKBONE__NAME"] = "build_convrnn_retinanet_fpn_backbone"
    model = tiny_model("RecurrentRetinaNet", tmp_path, **options)
    with torch.no_grad():
        (result,) = model.eval()([picture(1)])
    assert result["instances"].image_size == (64, 64)
    assert list(model.backbone.output_shape()) == ["p3", "p4", "p5", "p6", "p7"]


def test_a_pyramid_of_outputs_that_are_not_there_is_refused() -> None:
    cfg_of = {**TINY, NODE + "OUT_FEATURES": ["res2", "res3"], "FPN__IN_FEATURES": ["res2", "res5"]}
    with pytest.raises(ConfigError, match=r"IN_FEATURES.*res5.*res3"):
        tiny_backbone("build_convrnn_fpn_backbone", **cfg_of)
    with pytest.raises(ConfigError, match="res5"):
        tiny_backbone(
            "build_convrnn_retinanet_fpn_backbone",
            **{**TINY, NODE + "OUT_FEATURES": ["res2", "res3"]},
        )
