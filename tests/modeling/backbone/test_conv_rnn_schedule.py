"""The pruned schedule of a ConvRNN: what it leaves out, and that nothing comes of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from rpanoptic.modeling.backbone import ConvRNN, ConvRNNGraph, Layer, five_layers, ten_layers
from rpanoptic.modeling.backbone.conv_rnn_layers import TEN_LAYERS
from rpanoptic.modeling.backbone.conv_rnn_schedule import (
    first_step,
    needed_steps,
    steps_with_image,
)
from rpanoptic.recurrent import RecurrentBlock, build_cell
from tests.modeling.backbone.by_hand import unrolled_by_hand
from tests.modeling.backbone.tiny import WIDTHS, images, ten_layer_dicts, tiny_backbone, total
from tests.recurrent.helpers import assert_gradients_close

NODE = "RECURRENT__CONVRNN__"
FEEDBACK = [
    ("conv8", "conv5"),
    ("conv9", "conv6"),
    ("conv10", "conv7"),
    ("conv7", "conv6"),
    ("conv10", "conv9"),
]
TEN = ten_layers(WIDTHS, cells=TEN_LAYERS[3:], feedback=FEEDBACK)


def net(schedule: str, **node: Any) -> ConvRNN:
    """The ten layers in float64, with biases off zero; seeded, so that all are alike."""
    options = {"LAYERS": ten_layer_dicts(), "STEPS": 8, "GRADIENT": "bptt", "SCHEDULE": schedule}
    made = tiny_backbone(
        "build_convrnn_backbone", **{NODE + k: v for k, v in (options | node).items()}
    ).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made


CASES: dict[str, dict[str, Any]] = {
    "published": {},
    "residual": {"LAYERS": ten_layer_dicts(residual=True), "FEEDBACK": []},
    "early": {"OUT_FEATURES": ["res3", "conv2"], "IMAGE_STEPS": 4},
    "one cell": {"LAYERS": ten_layer_dicts(cells=["conv6"]), "READOUT": "mean"},
    "feedback": {"LAYERS": ten_layer_dicts(cells=()), "IMAGE_STEPS": 2, "BLANK": "pixel_grey"},
    "checkpointed": {"OUT_FEATURES": ["conv10"], "GRADIENT": "checkpointed_bptt", "IMAGE_STEPS": 7},
    "gated": {"CONNECTION__COMBINATION": "gate", "CONNECTION__KERNEL_SIZE": 2, "IMAGE_STEPS": 1},
}


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_schedules_are_equal(case: str, delay: int) -> None:
    image = images(2, 33, 50).double()
    mean = CASES[case].get("READOUT") == "mean"
    found = []
    for schedule in ("faithful", "pruned"):
        module = net(schedule, DELAY=delay, **CASES[case])
        features = {0: module(image)} if mean else module.unrolled(image, [2, 8])
        loss = sum(total(outputs) for outputs in features.values())
        parameters = list(module.parameters())
        found.append((features, torch.autograd.grad(loss, parameters, allow_unused=True)))
        assert (module.recurrence.last is None) == (schedule == "pruned")
    (expected, wanted), (features, given) = found
    # Rounding: a sample's convolutions may sum in another order in a batch of another size.
    torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-9)
    reached = [gradient is not None for gradient in wanted]
    assert reached == [gradient is not None for gradient in given] and any(reached)
    assert_gradients_close(
        [g for g in given if g is not None], [g for g in wanted if g is not None], 1e-9
    )


@pytest.mark.parametrize("schedule", ["faithful", "pruned"])
@pytest.mark.parametrize("delay", [0, 1])
def test_an_image_that_goes_off(schedule: str, delay: int) -> None:
    features = ["conv1", "conv3", "conv4", "conv7", "conv10"]
    module = net(schedule, DELAY=delay, IMAGE_STEPS=5, OUT_FEATURES=features)
    image = images(2, 33, 50).double()
    with torch.no_grad():
        expected = unrolled_by_hand(module, image, 8, delay, image_steps=5)
        found = module.unrolled(image, range(1, 9))
    for step, outputs in enumerate(expected, start=1):
        wanted = {name: outputs[name] for name in features}
        # As above.
        torch.testing.assert_close(found[step], wanted, rtol=1e-9, atol=1e-9)


def test_what_the_published_readouts_depend_on() -> None:
    # In steps of the loop; the published ones, counted from the image, are 2 more.
    needed = needed_steps(TEN, {"conv10": [13]}, delay=1)
    seen = steps_with_image(TEN, needed, delay=1)
    assert first_step(TEN, 1) == -2
    assert list(needed) == list(TEN_LAYERS[3:])
    for place, steps in enumerate(seen.values()):
        assert steps == tuple(range(place + 1, place + 8))
    # conv4 in step 7 sees the seventh frame. Off after 12, a picture is on for the classifier.
    assert needed["conv4"][-1] == 7
    # Of the shallow network: 16 steps, the logits of which see 11 frames.
    shallow = five_layers(cells=["conv3", "conv4", "conv5"])
    assert first_step(shallow, 1) == -1
    assert needed_steps(shallow, {"conv5": [13]}, delay=1)["conv3"][-1] == 11


def test_dependence_through_edges_and_cells() -> None:
    layers = (Layer("a", 1), Layer("b", 1), Layer("c", 1, cell=True), Layer("d", 1))
    graph = ConvRNNGraph(layers, (("d", "b"),))
    # "a" is before the loop; "b" holds no cell, so only c's steps and d's feedback reach it.
    needed = needed_steps(graph, {"d": [4]}, delay=1)
    assert needed == {"b": (0, 1, 2), "c": (0, 1, 2, 3), "d": (0, 1, 4)}
    assert steps_with_image(graph, needed, delay=1) == {"b": (1, 2), "c": (2, 3), "d": (4,)}
    swept = needed_steps(graph, {"d": [3]}, delay=0)
    assert swept == {"b": (1, 2, 3), "c": (1, 2, 3), "d": (1, 2, 3)}
    assert needed_steps(graph, {"b": [1], "c": [2]}, delay=1) == {
        "b": (0, 1),
        "c": (0, 1, 2),
        "d": (0,),
    }
    assert needed_steps(graph, {}, delay=1) == {"b": (), "c": (), "d": ()}


def test_no_more_is_evaluated() -> None:
    module = net("pruned", STEPS=13, OUT_FEATURES=["conv10"]).eval()
    counts: Counter[tuple[str, int]] = Counter()
    for name, layer in {**module.layers, **module.recurrence.cell.layers}.items():
        layer.conv.register_forward_hook(
            lambda _, args, out, name=name: counts.update([(name, len(args[0]))])
        )
    with torch.no_grad():
        module(images(3, 33, 50).double())
    needed = needed_steps(module.graph, {"conv10": [13]}, delay=1)
    for name, steps in steps_with_image(module.graph, needed, delay=1).items():
        assert counts.pop((name, 3)) == 7
        assert counts.pop((name, 1), 0) == len(needed[name]) - len(steps)
    # Those before the loop once for the image, and two of them for what was before it.
    assert counts == {
        ("conv1", 3): 1,
        ("conv2", 3): 1,
        ("conv3", 3): 1,
        ("conv2", 1): 1,
        ("conv3", 1): 2,
    }


def test_an_image_off_late_changes_nothing_that_is_read_out() -> None:
    image = images(1, 33, 50).double()
    features = []
    for image_steps in (0, 7, 6):
        module = net("pruned", STEPS=13, OUT_FEATURES=["conv10"], IMAGE_STEPS=image_steps)
        with torch.no_grad():
            features.append(module(image)["conv10"])
    always, seven, six = features
    assert torch.equal(always, seven) and not torch.allclose(always, six)


def test_checkpoints_keep_less_for_the_backward_pass() -> None:
    image = images(2, 33, 50).double()
    kept = {}
    for gradient in ("bptt", "checkpointed_bptt"):
        module = net("pruned", GRADIENT=gradient)
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            module(image)
        kept[gradient] = sum(sizes)
    # Each step holds what seven layers compute with their cells; its state is a part of that.
    assert kept["checkpointed_bptt"] < 0.2 * kept["bptt"]


def test_the_steps_of_a_loop_without_layers_before_it() -> None:
    layers = (Layer("a", 3, stride=2, cell=True), Layer("b", 4, pool=True, cell=True))
    graph = ConvRNNGraph(layers, (("b", "a"),))
    assert first_step(graph, 1) == 1
    found = []
    for schedule in ("faithful", "pruned"):
        torch.manual_seed(0)
        cells = {name: build_cell("conv_gru", graph[name].channels) for name in ("a", "b")}
        module = ConvRNN(
            graph=graph,
            cells=cells,
            out_features=["a", "b"],
            schedule=schedule,
            make_block=lambda cell: RecurrentBlock(cell, steps=4, gradient="bptt"),
        )
        found.append(module(images(2, 9, 9)))
    torch.testing.assert_close(found[0], found[1])
