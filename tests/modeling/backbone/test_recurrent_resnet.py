"""The recurrent ResNets by themselves, under an FPN and under stock models."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from detectron2.structures import ImageList
from torch import nn
from torch.nn import functional as F

from rpanoptic.errors import ConfigError
from rpanoptic.modeling import RecurrentResNet
from rpanoptic.modeling.penalty import take_penalties
from rpanoptic.recurrent import build_cell, recurrent_blocks

from .tiny import (
    STAGE_CHANNELS,
    STAGES,
    check_penalty,
    check_samples_ignore_their_batch,
    check_stock_models_take,
    images,
    tiny_backbone,
    tiny_backbone_cfg,
    total,
)

NAME = "build_recurrent_resnet_backbone"
FPN_NAME = "build_recurrent_resnet_fpn_backbone"
RETINANET = "build_recurrent_retinanet_resnet_fpn_backbone"
FEEDBACK = pytest.mark.parametrize("feedback", [False, True])


def resnet(seed: int = 0, name: str = NAME, *, model: Any = None, **node: Any) -> Any:
    """A tiny network; ``node`` are keys of MODEL.RECURRENT.RESNET, ``model`` those of MODEL."""
    keys = {f"RECURRENT__RESNET__{key}": value for key, value in node.items()}
    return tiny_backbone(name, seed, **keys, **(model or {}))


@FEEDBACK
@pytest.mark.parametrize("cell", ["hgru", "conv_gru", "conv_lstm", "hgru_low_dim"])
def test_shapes_and_gradients(cell: str, feedback: bool) -> None:
    # Two steps by bptt: at an equilibrium an update gate would get no gradient but the penalty's.
    backbone = resnet(CELL=cell, FEEDBACK=feedback, GRADIENT="bptt", STEPS=2)
    features = backbone(images(2, 64, 96))
    shapes = backbone.output_shape()
    stock = tiny_backbone("build_resnet_backbone")
    assert shapes == stock.output_shape() and backbone.size_divisibility == stock.size_divisibility
    assert list(features) == STAGES
    for name, shape in shapes.items():
        assert features[name].shape == (2, shape.channels, 64 // shape.stride, 96 // shape.stride)
        assert (features[name] >= 0).all()
    total(features).backward()
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@FEEDBACK
@pytest.mark.parametrize("size", [(75, 101), (1, 2000)])
def test_pictures_of_any_size(size: tuple[int, int], feedback: bool) -> None:
    # With IN or GN of few channels a map of one pixel has nothing to normalise.
    backbone = resnet(FEEDBACK=feedback, STEPS=2, NORM="LN").eval()
    under_fpn = resnet(name=FPN_NAME, FEEDBACK=feedback, STEPS=2, NORM="LN").eval()
    with torch.no_grad():
        # Alone it needs no padding: stages round up.
        features = backbone(images(1, *size))
        padded = ImageList.from_tensors([images(1, *size)[0]], under_fpn.size_divisibility).tensor
        pyramid = under_fpn(padded)
    for name, shape in backbone.output_shape().items():
        assert features[name].shape[2:] == tuple(-(-side // shape.stride) for side in size)
        assert features[name].isfinite().all()
    assert pyramid["p3"].shape[2:] == tuple(side // 8 for side in padded.shape[2:])
    assert all(feature.isfinite().all() for feature in pyramid.values())


@FEEDBACK
@pytest.mark.parametrize("name", [NAME, FPN_NAME, RETINANET])
def test_names_are_those_of_the_stock_network(name: str, feedback: bool) -> None:
    backbone, stock = (
        resnet(name=name, FEEDBACK=feedback),
        tiny_backbone(name.replace("recurrent_", "")),
    )
    own = [k for k in backbone.state_dict() if "recurrence" not in k and "output_norm" not in k]
    assert set(own) == set(stock.state_dict()) and len(own) == len(set(own))
    assert backbone.output_shape() == stock.output_shape()
    assert backbone.size_divisibility == stock.size_divisibility


def test_names_of_the_blocks() -> None:
    expected = ["recurrence.res3", "recurrence.res4", "recurrence.res5"]
    assert list(recurrent_blocks(resnet())) == expected
    assert list(recurrent_blocks(resnet(FEEDBACK=True))) == ["recurrence"]
    assert list(recurrent_blocks(resnet(name=FPN_NAME, FEEDBACK=True))) == ["bottom_up.recurrence"]


def test_without_feedback_it_is_what_the_equations_say() -> None:
    backbone = resnet(STAGES=["res4", "res2"]).eval()
    x = images(1, 64, 64)
    with torch.no_grad():
        found = backbone(x)
        y = backbone.stem(x)
        for name in STAGES:
            y = getattr(backbone, name)(y)
            if name in ("res2", "res4"):
                state = torch.zeros_like(y)
                for _ in range(3):
                    state = backbone.recurrence[name].cell(y, state)
                y = F.relu(state)
            torch.testing.assert_close(found[name], y)


def test_with_feedback_it_is_what_the_equations_say() -> None:
    backbone = resnet(STAGES=["res3", "res4"], FEEDBACK=True, OUTPUT_NORM="FrozenBN").eval()
    hierarchy = backbone.recurrence.cell
    for norm in hierarchy.norms.values():
        norm.weight.uniform_(0.5, 2.0)
    x = images(1, 64, 64)
    with torch.no_grad():
        found = backbone(x)
        below = backbone.res2(backbone.stem(x))
        drive = backbone.res3(below)
        three, four = torch.zeros(1, 16, 8, 8), torch.zeros(1, 32, 4, 4)
        for _ in range(3):
            three = hierarchy.cells["res3"](drive, three)
            handed_on = F.relu(hierarchy.norms["res3"](three))
            four = hierarchy.cells["res4"](backbone.res4(handed_on), four)
            three = hierarchy.feedback["res3"](four, three)
        torch.testing.assert_close(found["res2"], below)
        torch.testing.assert_close(found["res3"], F.relu(hierarchy.norms["res3"](three)))
        torch.testing.assert_close(found["res4"], F.relu(hierarchy.norms["res4"](four)))
        torch.testing.assert_close(found["res5"], backbone.res5(found["res4"]))


@FEEDBACK
def test_a_sample_ignores_its_batch_mates(feedback: bool) -> None:
    check_samples_ignore_their_batch(resnet(FEEDBACK=feedback))


@FEEDBACK
@pytest.mark.parametrize("gradient", ["crbp", "cbptt", "rbp", "bptt"])
def test_penalty_of_the_methods_that_have_one(gradient: str, feedback: bool) -> None:
    backbone = resnet(name=FPN_NAME, FEEDBACK=feedback, GRADIENT=gradient)
    penalised = gradient in ("crbp", "cbptt")
    check_penalty(backbone, "loss_lipschitz_resnet", penalised=penalised)
    if penalised:
        # The stages are a part of the step, or drive the recurrence.
        assert backbone.bottom_up.res4[0].conv1.weight.grad.any()


@FEEDBACK
@pytest.mark.parametrize("freeze_at", [0, 1, 2, 3])
def test_frozen_stages_stay_frozen_and_cells_do_not(freeze_at: int, feedback: bool) -> None:
    backbone = resnet(FEEDBACK=feedback, model={"BACKBONE__FREEZE_AT": freeze_at})
    total(backbone(images(1, 64, 64))).backward()
    frozen = ["stem", *STAGES][:freeze_at]
    for key, parameter in backbone.named_parameters():
        assert parameter.requires_grad != key.startswith(tuple(f"{part}." for part in frozen)), key
        assert (parameter.grad is None) == (not parameter.requires_grad), key


@FEEDBACK
def test_the_functional_back_end_reaches_every_parameter(feedback: bool) -> None:
    backbone = resnet(FEEDBACK=feedback, BACKEND="functional", GRADIENT="crbp")
    features = backbone(images(1, 64, 96))
    sum([total(features), *take_penalties(backbone).values()]).backward()
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@FEEDBACK
def test_mixed_precision(feedback: bool) -> None:
    backbone = resnet(FEEDBACK=feedback, GRADIENT="crbp")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = backbone(images(1, 64, 96))
        loss = total({name: f.float() for name, f in features.items()})
        loss = loss + sum(take_penalties(backbone).values())
    loss.backward()
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@FEEDBACK
def test_weights_load_under_every_method(feedback: bool) -> None:
    source = resnet(seed=1, FEEDBACK=feedback).eval()
    x = images(1, 64, 64)
    with torch.no_grad():
        expected = source(x)
        for gradient in ("bptt", "rbp", "cbptt", "phantom"):
            other = resnet(seed=2, FEEDBACK=feedback, GRADIENT=gradient).eval()
            other.load_state_dict(source.state_dict())
            found = other(x)
            assert all(torch.equal(found[name], expected[name]) for name in STAGES)


@FEEDBACK
def test_a_copy_is_independent(feedback: bool) -> None:
    backbone = resnet(FEEDBACK=feedback).eval()
    other = copy.deepcopy(backbone)
    if feedback:
        # The copy's step runs the copy's stages.
        assert other.recurrence.cell.res4 is other.res4
    x = images(1, 64, 64)
    with torch.no_grad():
        expected = backbone(x)
        for parameter in backbone.parameters():
            parameter.zero_()
        found = other(x)
    assert all(torch.equal(found[name], expected[name]) for name in STAGES)


def test_a_part_of_the_features() -> None:
    model = {"RESNETS__OUT_FEATURES": ["stem", "res4"]}
    backbone = resnet(STAGES=["res3"], model=model)
    features = backbone(images(1, 64, 64))
    assert {name: tuple(f.shape[1:]) for name, f in features.items()} == {
        "stem": (8, 16, 16),
        "res4": (32, 4, 4),
    }
    assert not hasattr(backbone, "res5")


@FEEDBACK
def test_output_norm(feedback: bool) -> None:
    backbone = resnet(FEEDBACK=feedback, STAGES=["res4", "res5"], OUTPUT_NORM="GN")
    norms = backbone.recurrence.cell.norms if feedback else backbone.output_norm
    assert {name: type(norm) for name, norm in norms.items()} == {
        "res4": nn.GroupNorm,
        "res5": nn.GroupNorm,
    }
    # A group of one channel needs more than a pixel.
    total(backbone(images(1, 64, 96))).backward()
    assert all(p.grad.any() for p in norms.parameters())


def test_batch_norms_do_no_harm_outside_of_the_step() -> None:
    model = {"RESNETS__NORM": "BN"}
    total(resnet(model=model)(images(2, 64, 64))).backward()
    # res2 is before the loop, but Detectron2 has one norm for all stages.
    with pytest.raises(ConfigError, match=r"MODEL\.RESNETS\.NORM must be 'FrozenBN' or 'GN'"):
        resnet(FEEDBACK=True, model=model)


def test_without_a_config() -> None:
    def network(**options: Any) -> ResNet:
        stem, stages = BasicStem(3, 64, "FrozenBN"), ResNet.make_default_stages(18)
        return ResNet(stem, stages, out_features=["res3"], **options)

    cells = {"res2": build_cell("conv_gru", 64), "res3": build_cell("conv_gru", 128)}
    feedback = {"res2": build_cell("top_down", 64, drive_channels=128)}
    for options in ({}, {"feedback": feedback}):
        plain = ResNet(
            BasicStem(3, 64, "FrozenBN"),
            ResNet.make_default_stages(18, norm="FrozenBN"),
            out_features=["res3"],
        )
        backbone = RecurrentResNet(resnet=plain, cells=cells, output_norm="", **options)
        assert backbone(images(1, 32, 64))["res3"].shape == (1, 128, 4, 8)
    for wrong, message in (
        ({"cells": {}}, r"one stage or more of \['res2', 'res3'\]; got \[\]"),
        ({"cells": {"res5": cells["res3"]}}, r"got \['res5'\]"),
        (
            {"cells": {"res3": cells["res2"]}},
            "res3 needs a cell of 128 channels with a drive of as",
        ),
        ({"cells": {"res3": build_cell("top_down", 128)}}, "as high and wide as its drive"),
        ({"cells": cells, "feedback": {}}, r"feedback must be given for \['res2'\]"),
        ({"cells": cells, "feedback": feedback}, "stage res3 is a part of the recurrent step"),
        ({"cells": cells, "resnet": network(num_classes=3)}, "no classifier"),
    ):
        with pytest.raises(ValueError, match=message):
            RecurrentResNet(**({"resnet": network()} | wrong))


@pytest.mark.parametrize(
    ("node", "model", "message"),
    [
        ({"STAGES": []}, {}, r"STAGES must name stages of res2, res3, res4, res5.*got \[\]"),
        ({"STAGES": ["res6"]}, {}, r"STAGES must name stages of .*got \['res6'\]"),
        ({"STAGES": ["res3", "res3"]}, {}, r"STAGES must name stages of .* each once"),
        (
            {},
            {"RESNETS__OUT_FEATURES": ["res3"]},
            r"STAGES names res4, res5, but .*OUT_FEATURES \['res3'\] has res2, res3 only",
        ),
        ({}, {"RESNETS__OUT_FEATURES": ["stem"]}, r"has no stage only"),
        ({"CELL": "top_down"}, {}, r"MODEL\.RECURRENT\.RESNET: level res3 needs a cell"),
        ({"OUTPUT_NORM": "GN"}, {}, r"MODEL\.RECURRENT\.RESNET\.OUTPUT_NORM 'GN' .*16"),
        (
            {"FEEDBACK": True, "STAGES": ["res2", "res4"]},
            {},
            r"FEEDBACK needs neighbours in .*STAGES, .*got \['res2', 'res4'\]",
        ),
        ({"FEEDBACK": True, "STAGES": ["res4"]}, {}, r"FEEDBACK needs two .* got \['res4'\]"),
        ({"FEEDBACK": True}, {"RESNETS__NORM": "SyncBN"}, r"MODEL\.RESNETS\.NORM must be .*SyncBN"),
        ({"FEEDBACK": True, "OUTPUT_NORM": "BN"}, {}, r"RESNET\.OUTPUT_NORM must be .* not 'BN'"),
        ({"FEEDBACK": True}, {"RESNETS__RES5_DILATION": 2}, r"MODEL\.RESNETS\.RES5_DILATION is 2"),
        (
            {"FEEDBACK": True},
            {"RESNETS__DEFORM_ON_PER_STAGE": [False, False, False, True]},
            r"MODEL\.RESNETS\.DEFORM_ON_PER_STAGE must be False for res5",
        ),
        (
            {"FEEDBACK": True, "FEEDBACK_KERNEL_SIZE": 4},
            {},
            r"RESNET\.FEEDBACK_KERNEL_SIZE must be odd",
        ),
        (
            {"GRADIENT": "cg_rbp", "BACKEND": "functional"},
            {},
            r"MODEL\.RECURRENT\.RESNET: .*cg_rbp",
        ),
    ],
)
def test_bad_config(node: dict[str, Any], model: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resnet(model=model, **node)


def test_dilation_does_no_harm_without_feedback_from_there() -> None:
    model = {"RESNETS__RES5_DILATION": 2}
    for node in ({}, {"FEEDBACK": True, "STAGES": ["res3", "res4"]}):
        features = resnet(model=model, **node)(images(1, 64, 64))
        assert features["res5"].shape == (1, STAGE_CHANNELS["res5"], 4, 4)


@pytest.mark.parametrize("name", [FPN_NAME, RETINANET])
def test_pyramid_needs_its_features(name: str) -> None:
    model = {"RESNETS__OUT_FEATURES": ["res3", "res4"]}
    message = r"OUT_FEATURES is \['res3', 'res4'\].* need res5|FPN\.IN_FEATURES is "
    with pytest.raises(ConfigError, match=message):
        resnet(name=name, STAGES=["res3"], model=model)


@FEEDBACK
def test_stock_models_take_it(feedback: bool) -> None:
    check_stock_models_take(FPN_NAME, RETINANET, RECURRENT__RESNET__FEEDBACK=feedback)


@pytest.mark.parametrize(("kernel_size", "expected"), [(3, 132_168_064), (1, 22_053_248)])
def test_parameters_after_the_stages_of_a_resnet_50(kernel_size: int, expected: int) -> None:
    cfg = tiny_backbone_cfg(NAME, RECURRENT__RESNET__KERNEL_SIZE=kernel_size)
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 256
    # On the meta device nothing is initialised: only shapes are wanted.
    with torch.device("meta"):
        backbone = build_backbone(cfg)
    assert sum(p.numel() for p in backbone.recurrence.parameters()) == expected
