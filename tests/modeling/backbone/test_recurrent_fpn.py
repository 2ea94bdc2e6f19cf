"""The recurrent feature pyramids by themselves and under stock models."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone.fpn import FPN
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from detectron2.structures import ImageList
from torch.nn import functional as F

from rpanoptic.errors import ConfigError
from rpanoptic.modeling import RecurrentFPN
from rpanoptic.modeling.backbone.recurrent_fpn import PLACES
from rpanoptic.modeling.penalty import take_penalties
from rpanoptic.recurrent import GRADIENTS, build_cell, recurrent_blocks

from .tiny import (
    FPN_CHANNELS,
    check_penalty,
    check_samples_ignore_their_batch,
    check_stock_models_take,
    images,
    tiny_backbone,
    tiny_backbone_cfg,
    total,
)

NAME = "build_recurrent_fpn_backbone"
RETINANET = "build_recurrent_retinanet_fpn_backbone"
WIDE_CELLS = ["hgru_low_dim", "conv_gru", "conv_lstm"]
CELLS_AT = [("lateral", cell) for cell in WIDE_CELLS] + [
    (place, cell)
    for place in ("output", "topdown")
    for cell in ("hgru", "conv_gru", "conv_lstm", "intersection_rnn", "time_decay")
]


def fpn(seed: int = 0, name: str = NAME, **node: Any) -> RecurrentFPN:
    """A tiny pyramid; ``node`` are keys of MODEL.RECURRENT.FPN."""
    if node.get("PLACE") == "lateral":
        node.setdefault("CELL", "hgru_low_dim")
    keys = {f"RECURRENT__FPN__{key}": value for key, value in node.items()}
    return tiny_backbone(name, seed, **keys)


@pytest.mark.parametrize(("place", "cell"), CELLS_AT)
def test_shapes_and_gradients(place: str, cell: str) -> None:
    # Two steps by bptt: at an equilibrium an update gate would get no gradient but the penalty's.
    backbone = fpn(PLACE=place, CELL=cell, GRADIENT="bptt", STEPS=2)
    features = backbone(images(2, 64, 96))
    shapes = backbone.output_shape()
    assert list(features) == list(shapes) == ["p2", "p3", "p4", "p5", "p6"]
    for level, shape in shapes.items():
        expected = (2, FPN_CHANNELS, 64 // shape.stride, -(-96 // shape.stride))
        assert features[level].shape == expected and shape.channels == FPN_CHANNELS
    assert backbone.size_divisibility == 32
    total(features).backward()
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("size", [(37, 101), (1, 2000)])
def test_pictures_of_any_size_are_padded(place: str, size: tuple[int, int]) -> None:
    backbone = fpn(PLACE=place, STEPS=2).eval()
    padded = ImageList.from_tensors([images(1, *size)[0]], backbone.size_divisibility).tensor
    with torch.no_grad():
        features = backbone(padded)
    for level, shape in list(backbone.output_shape().items())[:4]:
        assert features[level].shape[2:] == tuple(side // shape.stride for side in padded.shape[2:])
        assert features[level].isfinite().all()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", [NAME, RETINANET])
def test_names_are_those_of_the_stock_pyramid(place: str, name: str) -> None:
    backbone = fpn(name=name, PLACE=place)
    stock = tiny_backbone(name.replace("recurrent_", "").replace("_fpn", "_resnet_fpn"))
    assert type(stock) is FPN
    assert backbone.output_shape() == stock.output_shape()
    ours = {k for k in backbone.state_dict() if not k.startswith(("recurrence", "output_norm"))}
    theirs = {k for k in stock.state_dict() if place != "lateral" or "fpn_lateral" not in k}
    assert ours == theirs


def test_names_of_the_blocks() -> None:
    apart = [f"recurrence.{level}" for level in ("p2", "p3", "p4", "p5")]
    assert list(recurrent_blocks(fpn(PLACE="lateral"))) == apart
    assert list(recurrent_blocks(fpn(PLACE="output"))) == apart
    assert list(recurrent_blocks(fpn(PLACE="topdown"))) == ["recurrence"]


@pytest.mark.parametrize("fuse", ["sum", "avg"])
def test_levels_of_their_own_are_what_the_equations_say(fuse: str) -> None:
    backbone = tiny_backbone(NAME, FPN__FUSE_TYPE=fuse, FPN__IN_FEATURES=["res4", "res5"])
    backbone.eval()
    x = images(1, 64, 64)
    with torch.no_grad():
        bottom_up = backbone.bottom_up(x)
        states = []
        for stage, feature in ((4, "res4"), (5, "res5")):
            drive = getattr(backbone, f"fpn_lateral{stage}")(bottom_up[feature])
            state = drive  # where it starts
            for _ in range(3):
                state = backbone.recurrence[f"p{stage}"].cell(drive, state)
            states.append(state)
        merged = states[0] + F.interpolate(states[1], scale_factor=2.0)
        merged = merged / 2 if fuse == "avg" else merged
        found = backbone(x)
        torch.testing.assert_close(found["p5"], backbone.fpn_output5(states[1]))
        torch.testing.assert_close(found["p4"], backbone.fpn_output4(merged))


def test_joint_levels_are_what_the_equations_say() -> None:
    backbone = tiny_backbone(NAME, RECURRENT__FPN__PLACE="topdown").eval()
    x = images(1, 64, 64)
    with torch.no_grad():
        bottom_up = backbone.bottom_up(x)
        hierarchy = backbone.recurrence.cell
        drives = [getattr(backbone, f"fpn_lateral{s}")(bottom_up[f"res{s}"]) for s in range(2, 6)]
        states = [torch.zeros_like(drive) for drive in drives]
        for _ in range(3):
            for index in (3, 2, 1, 0):
                level = f"p{index + 2}"
                states[index] = hierarchy.cells[level](drives[index], states[index])
                if index < 3:
                    feedback = hierarchy.feedback[level]
                    states[index] = feedback(states[index + 1], states[index])
        found = backbone(x)
        for index, state in enumerate(states):
            expected = getattr(backbone, f"fpn_output{index + 2}")(state)
            torch.testing.assert_close(found[f"p{index + 2}"], expected)


@pytest.mark.parametrize("place", PLACES)
def test_a_sample_ignores_its_batch_mates(place: str) -> None:
    check_samples_ignore_their_batch(fpn(PLACE=place))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("gradient", ["crbp", "cbptt", "rbp", "bptt"])
def test_penalty_of_the_methods_that_have_one(place: str, gradient: str) -> None:
    backbone = fpn(PLACE=place, GRADIENT=gradient)
    penalised = gradient in ("crbp", "cbptt")
    check_penalty(backbone, "loss_lipschitz_fpn", penalised=penalised)


def test_penalties_of_the_levels_are_added() -> None:
    backbone = fpn(PLACE="output", GRADIENT="crbp")
    x = images(1, 64, 64)
    parts = []
    blocks = recurrent_blocks(backbone)
    for name, block in blocks.items():
        block.register_forward_hook(lambda _, args, result: parts.append(result.penalty))
        assert name.startswith("recurrence.p")
    backbone(x)
    assert len(parts) == 4
    torch.testing.assert_close(take_penalties(backbone)["loss_lipschitz_fpn"], sum(parts))


def test_penalty_of_weight_zero_is_none() -> None:
    backbone = fpn(**{"LIPSCHITZ.WEIGHT": 0.0, "GRADIENT": "crbp"})
    backbone(images(1, 64, 64))
    assert take_penalties(backbone) == {}


@pytest.mark.parametrize("place", PLACES)
def test_weights_load_under_every_method(place: str) -> None:
    source = fpn(seed=1, PLACE=place).eval()
    x = images(1, 64, 64)
    with torch.no_grad():
        expected = source(x)
        for gradient in GRADIENTS:
            other = fpn(seed=2, PLACE=place, GRADIENT=gradient).eval()
            other.load_state_dict(source.state_dict())
            found = other(x)
            assert all(torch.equal(found[level], expected[level]) for level in expected)


def test_steps_at_inference() -> None:
    longer = fpn(STEPS_TEST=7).eval()
    shorter = fpn().eval()
    x = images(1, 64, 64)
    with torch.no_grad():
        longer(x), shorter(x)
    assert {int(b.last.steps) for b in recurrent_blocks(longer).values()} == {7}
    assert {int(b.last.steps) for b in recurrent_blocks(shorter).values()} == {3}


@pytest.mark.parametrize("place", PLACES)
def test_output_norm_is_a_module_a_level(place: str) -> None:
    keys = {"FPN__OUT_CHANNELS": 32, "RECURRENT__FPN__OUTPUT_NORM": "GN"}
    cell = "hgru_low_dim" if place == "lateral" else "hgru"
    keys |= {"RECURRENT__FPN__PLACE": place, "RECURRENT__FPN__CELL": cell}
    backbone = tiny_backbone(NAME, **keys)
    assert [type(norm) for norm in backbone.output_norm.values()] == [torch.nn.GroupNorm] * 4
    total(backbone(images(1, 64, 64))).backward()
    assert all(p.grad.any() for p in backbone.output_norm.parameters())


def test_without_a_config() -> None:
    torch.manual_seed(0)
    bottom_up = ResNet(BasicStem(3, 64, "FrozenBN"), ResNet.make_default_stages(18), None, ["res5"])
    cell = build_cell("conv_gru", 8, drive_channels=512)
    options: dict[str, Any] = {"bottom_up": bottom_up, "in_features": ["res5"], "out_channels": 8}
    backbone = RecurrentFPN(cells={"p5": cell}, place="lateral", output_norm="", **options)
    assert backbone(images(1, 32, 64))["p5"].shape == (1, 8, 1, 2)
    assert backbone.recurrence["p5"].gradient == "crbp"  # RecurrentBlock's own options
    one = build_cell("conv_gru", 8)
    joint = RecurrentFPN(cells={"p5": one}, place="topdown", feedback={}, output_norm="", **options)
    assert joint(images(1, 32, 64))["p5"].shape == (1, 8, 1, 2)
    for wrong, message in (
        ({"cells": {"p5": one}, "place": "side"}, "place must be one of 'lateral'"),
        ({"cells": {"p4": one}}, re.escape("cells must be given for ['p5']; got ['p4']")),
        ({"cells": {"p5": one}, "place": "lateral"}, "level p5 needs a cell of 8 channels with a"),
        ({"cells": {"p5": one}, "place": "topdown"}, "feedback must be given at place 'topdown'"),
        ({"cells": {"p5": one}, "feedback": {}}, "feedback must be given at place 'topdown'"),
        ({"cells": {"p5": build_cell("top_down", 8)}}, "as high and wide as its drive"),
        (
            {"cells": {"p5": one}, "place": "topdown", "feedback": {"p5": one}},
            re.escape("feedback must be given for []; got ['p5']"),
        ),
    ):
        with pytest.raises(ValueError, match=message):
            RecurrentFPN(**options, **wrong)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"RECURRENT__FPN__PLACE": "side"}, r"MODEL\.RECURRENT\.FPN\.PLACE must be one of"),
        (
            {"RECURRENT__FPN__PLACE": "lateral"},
            r"MODEL\.RECURRENT\.FPN\.CELL: the drive of 'hgru' must have .* 'hgru_low_dim'",
        ),
        (
            {"RECURRENT__FPN__PLACE": "lateral", "RECURRENT__FPN__CELL": "time_decay"},
            r"MODEL\.RECURRENT\.FPN: drive_channels must equal channels \(16\)",
        ),
        ({"RECURRENT__FPN__CELL": "top_down"}, r"MODEL\.RECURRENT\.FPN: level p2 .*TopDown is not"),
        ({"RECURRENT__FPN__OUTPUT_NORM": "GN"}, r"MODEL\.RECURRENT\.FPN\.OUTPUT_NORM 'GN' .*16"),
        ({"RECURRENT__FPN__OUTPUT_NORM": "gn"}, r"MODEL\.RECURRENT\.FPN\.OUTPUT_NORM must be one"),
        (
            {"RECURRENT__FPN__PLACE": "topdown", "RECURRENT__FPN__TOP_DOWN_KERNEL_SIZE": 2},
            r"MODEL\.RECURRENT\.FPN\.TOP_DOWN_KERNEL_SIZE must be odd",
        ),
        (
            {
                "RECURRENT__FPN__GRADIENT": "bptt",
                "RECURRENT__FPN__FORWARD__ACCELERATION": "anderson",
            },
            r"MODEL\.RECURRENT\.FPN: forward acceleration",
        ),
        ({"RESNETS__OUT_FEATURES": ["res4"]}, r"MODEL\.FPN\.IN_FEATURES .* gives \['res4'\]"),
        ({"FPN__IN_FEATURES": ["res3", "res5"]}, r"MODEL\.FPN\.IN_FEATURES .*strides \[8, 32\]"),
        ({"RESNETS__RES5_DILATION": 2}, r"MODEL\.RESNETS\.RES5_DILATION must be 1"),
    ],
)
def test_bad_config(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_backbone(NAME, **keys)


def test_retinanet_needs_res5() -> None:
    features = ["res3", "res4"]
    with pytest.raises(ConfigError, match=r"OUT_FEATURES is \['res3', 'res4'\].* need res5"):
        tiny_backbone(RETINANET, RESNETS__OUT_FEATURES=features, FPN__IN_FEATURES=features)


@pytest.mark.parametrize("place", PLACES)
def test_stock_models_take_it(place: str) -> None:
    cell = "hgru_low_dim" if place == "lateral" else "hgru"
    check_stock_models_take(NAME, RETINANET, RECURRENT__FPN__PLACE=place, RECURRENT__FPN__CELL=cell)


@pytest.mark.parametrize("place", PLACES)
def test_a_copy_is_independent(place: str) -> None:
    backbone = fpn(PLACE=place).eval()
    other = copy.deepcopy(backbone)
    x = images(1, 64, 64)
    with torch.no_grad():
        expected = backbone(x)
        for parameter in backbone.parameters():
            parameter.zero_()
        found = other(x)
    assert all(torch.equal(found[level], expected[level]) for level in expected)


@pytest.mark.parametrize(
    ("place", "expected"),
    [("lateral", 84_430_656), ("output", 6_305_024), ("topdown", 7_493_888)],
)
def test_parameters_on_a_resnet_50(place: str, expected: int) -> None:
    cell = "hgru_low_dim" if place == "lateral" else "hgru"
    keys = {"RECURRENT__FPN__PLACE": place, "RECURRENT__FPN__CELL": cell}
    cfg = tiny_backbone_cfg(NAME, FPN__OUT_CHANNELS=256, **keys)
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 256
    # On the meta device nothing is initialised: only shapes are wanted.
    with torch.device("meta"):
        backbone = build_backbone(cfg)
    assert sum(p.numel() for p in backbone.recurrence.parameters()) == expected


@pytest.mark.parametrize("place", PLACES)
def test_mixed_precision(place: str) -> None:
    backbone = fpn(PLACE=place, GRADIENT="crbp")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = backbone(images(1, 64, 96))
        loss = total({level: f.float() for level, f in features.items()})
        loss = loss + sum(take_penalties(backbone).values())
    loss.backward()
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
