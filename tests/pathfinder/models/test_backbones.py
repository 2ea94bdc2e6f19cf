"""The backbones of Pathfinder: their sizes, their parts, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from rpanoptic.engine.check import check_settings
from rpanoptic.errors import ConfigError
from rpanoptic.modeling.penalty import take_penalties
from rpanoptic.pathfinder.models import RecurrentContourBackbone, Stem, UNetContourBackbone
from rpanoptic.recurrent import CELLS, GRADIENTS, RecurrentBlock, build_cell

from .tiny import BACKBONES, FEEDFORWARD, RECURRENT, TINY, UNET, config, paper_model, tiny_model

BLOCK = "MODEL__RECURRENT__PATHFINDER__"


def parameters(**changes: Any) -> int:
    with torch.device("meta"):  # nothing is initialised: only shapes are wanted
        model = paper_model(MODEL__DEVICE="meta", **changes)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("kernel_size", "published"), [(3, 14_227), (5, 34_227), (9, 104_227), (15, 284_227)]
)
@pytest.mark.parametrize("norm", ["default", "BN"])
def test_parameters_of_the_hgru(kernel_size: int, published: int, norm: str) -> None:
    # The released code has two norms more, of 25 channels, that it never uses.
    found = parameters(**{f"{BLOCK}KERNEL_SIZE": kernel_size, f"{BLOCK}NORM": norm})
    assert found == published - 2 * 2 * 25


def test_parameters_of_the_baselines() -> None:
    lstm = {f"{BLOCK}CELL": "conv_lstm", f"{BLOCK}KERNEL_SIZE": 15}
    assert parameters(**lstm) == 1_126_452
    assert parameters(MODEL__BACKBONE__NAME=FEEDFORWARD, OUTPUT_NORM="") == 845_527


@torch.no_grad()
def test_the_recurrence_by_hand() -> None:
    backbone = tiny_model(STEM_SIZE=5).backbone
    image = torch.rand(2, 1, 7, 9)
    drive = backbone.stem.conv(image) ** 2
    state = torch.zeros_like(drive)
    for _ in range(4):
        state = backbone.recurrence.cell(drive, state)
    features = backbone(image)
    assert list(features) == ["contour"]
    assert torch.equal(features["contour"], state)


@pytest.mark.parametrize("cell", [c for c in CELLS if c != "top_down"])
def test_every_cell(cell: str) -> None:
    # These have none, or one for each of their convolutions.
    kernel = 0 if cell in ("time_decay", "general_reciprocal_gated") else 3
    options = {f"{BLOCK}CELL": cell, f"{BLOCK}KERNEL_SIZE": kernel}
    backbone = tiny_model(**options).backbone
    feature = backbone(torch.rand(2, 1, 7, 9))["contour"]
    assert feature.shape == (2, 6, 7, 9)
    (penalty,) = take_penalties(backbone).values()
    (feature.square().mean() + penalty).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


@pytest.mark.parametrize("backend", ["tape", "functional"])
@pytest.mark.parametrize("gradient", list(GRADIENTS))
def test_every_gradient_method(gradient: str, backend: str) -> None:
    if (gradient, backend) == ("cg_rbp", "functional"):
        return  # refused by the block
    backbone = tiny_model(**{f"{BLOCK}GRADIENT": gradient, f"{BLOCK}BACKEND": backend}).backbone
    feature = backbone(torch.rand(2, 1, 7, 9))["contour"]
    penalties = take_penalties(backbone)
    expected = {"loss_lipschitz_pathfinder"} if GRADIENTS.get(gradient).penalised else set()
    assert set(penalties) == expected
    sum(penalties.values(), feature.square().mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())
    assert backbone.stem.conv.weight.grad.any()


@torch.no_grad()
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [(17, 23), (16, 16), (9, 40)])
def test_any_size_in_any_company(name: str, size: tuple[int, int]) -> None:
    backbone = tiny_model(MODEL__BACKBONE__NAME=name).backbone.eval()
    images = torch.rand(3, 1, *size)
    features = backbone(images)["contour"]
    assert features.shape == (3, 6, *size)
    for image, feature in zip(images, features, strict=True):
        # Batched convolutions may round otherwise.
        alone = backbone(image[None])["contour"][0]
        torch.testing.assert_close(alone, feature, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_all_of_a_u_net_takes_part() -> None:
    """What is at one end of a picture reaches the other through the deepest level alone."""
    torch.manual_seed(0)
    net = UNetContourBackbone(1, 4).eval()
    image = torch.rand(1, 1, 8, 97)
    other = image.clone()
    other[..., 0] += 5
    change = (net(image)["contour"] - net(other)["contour"]).abs().amax(dim=(0, 1, 2))
    assert change[0] > 0 and change[60] > 0
    assert [level[0].out_channels for level in net.down] == [4, 8, 16, 32, 64]
    with pytest.raises(ValueError, match="depth"):
        UNetContourBackbone(1, 4, depth=0)


def test_all_steps_are_those_of_the_run() -> None:
    backbone = tiny_model(**{f"{BLOCK}GRADIENT": "bptt", "STEP_LOSS": True}).backbone
    image = torch.rand(2, 1, 7, 9)
    steps = backbone(image)["contour"].split(2)
    assert len(steps) == 4 and backbone.recurrence.last.steps.tolist() == [4, 4]
    states = backbone.states(image)
    for step in steps:
        assert torch.equal(step, next(states))
    backbone.eval()
    assert torch.equal(backbone(image)["contour"], steps[-1])


def test_built_without_a_config() -> None:
    stem = Stem(1, 4)
    with pytest.raises(ValueError, match="takes 6 channels; the stem gives 4"):
        RecurrentContourBackbone(stem=stem, recurrence=RecurrentBlock(build_cell("hgru", 6)))
    block = RecurrentBlock(build_cell("hgru", 4), gradient="bptt", steps=2)
    backbone = RecurrentContourBackbone(stem=stem, recurrence=block, all_steps=True)
    assert backbone(torch.rand(1, 1, 5, 5))["contour"].shape == (2, 4, 5, 5)
    assert backbone.output_shape() == {"contour": ShapeSpec(channels=4, stride=1)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"CHANNELS": 0}, "PATHFINDER: CHANNELS must be an integer of at least 1"),
        ({"LAYERS": 0}, "PATHFINDER: LAYERS must"),
        ({"STEM": "sobel"}, "PATHFINDER: STEM must be one of 'gabor', 'random'"),
        ({"STEM_SIZE": 4}, "PATHFINDER: STEM_SIZE must be odd, got 4"),
        ({"STEM_ACTIVATION": "elu"}, "PATHFINDER: STEM_ACTIVATION must be one of"),
        ({"KERNEL_SIZE": 6}, "PATHFINDER: KERNEL_SIZE must be odd, got 6"),
        ({"FOREGROUND_PRIOR": 0.0}, "PATHFINDER: FOREGROUND_PRIOR must be above 0"),
        ({"FOREGROUND_PRIOR": 1.0}, "PATHFINDER: FOREGROUND_PRIOR must be above 0"),
        ({"FOCAL_GAMMA": -1.0}, "PATHFINDER: FOCAL_GAMMA must be a number of at least 0"),
    ],
)
def test_impossible_values_name_their_key(changes: dict[str, Any], words: str) -> None:
    cfg = config(TINY, **changes)
    with pytest.raises(ConfigError, match=f"^MODEL.{words}"):
        check_settings(cfg)
    for name in BACKBONES:
        cfg.MODEL.BACKBONE.NAME = name
        with pytest.raises(ConfigError, match=words):
            build_backbone(cfg)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"STEM_SIZE": 3}, r"PATHFINDER\.STEM_SIZE: size must be .* at least 5, got 3"),
        ({f"{BLOCK}STEPS": 0}, r"RECURRENT\.PATHFINDER\.STEPS must be at least 1"),
        ({f"{BLOCK}CELL": "top_down"}, r"PATHFINDER\.CELL 'top_down': .* high and wide"),
        ({"STEP_LOSS": True}, r"PATHFINDER\.STEP_LOSS: .* 'bptt' or .*; got 'crbp'"),
        (
            {"STEP_LOSS": True, f"{BLOCK}GRADIENT": "bptt", f"{BLOCK}FORWARD__TOL": 0.1},
            r"PATHFINDER\.STEP_LOSS: .* no tolerance",
        ),
    ],
)
def test_impossible_recurrences_name_their_key(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_backbone(config(TINY, MODEL__BACKBONE__NAME=RECURRENT, **changes))


@pytest.mark.parametrize("name", [FEEDFORWARD, UNET])
def test_there_are_no_steps_to_judge_without_a_recurrence(name: str) -> None:
    with pytest.raises(ConfigError, match=r"MODEL\.PATHFINDER\.STEP_LOSS"):
        build_backbone(config(TINY, MODEL__BACKBONE__NAME=name, STEP_LOSS=True))
    # Gabor filters are not for them, so that a size too small for those is none for them.
    build_backbone(config(TINY, MODEL__BACKBONE__NAME=name, STEM_SIZE=3))
