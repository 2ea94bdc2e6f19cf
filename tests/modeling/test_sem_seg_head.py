"""The recurrent semantic head by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_sem_seg_head
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch.nn import functional as F

from rpanoptic import add_rpanoptic_config
from rpanoptic.errors import ConfigError
from rpanoptic.modeling import RecurrentSemSegFPNHead
from rpanoptic.recurrent import GRADIENTS, RecurrentBlock, build_cell

WIDTH, CLASSES = 32, 5
LEVELS = {f"p{n}": ShapeSpec(channels=8, stride=2**n) for n in (2, 3, 4)}


def small_config(**node: Any) -> CfgNode:
    cfg = get_cfg()
    add_rpanoptic_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NAME = "RecurrentSemSegFPNHead"
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = WIDTH
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = CLASSES
    cfg.MODEL.RECURRENT.SEM_SEG_HEAD.STEPS = 3
    cfg.MODEL.RECURRENT.SEM_SEG_HEAD.merge_from_list([w for pair in node.items() for w in pair])
    return cfg


def build(cfg: CfgNode) -> RecurrentSemSegFPNHead:
    torch.manual_seed(0)
    return build_sem_seg_head(cfg, LEVELS)


def levels(count: int = 2, side: int = 32) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {k: torch.randn(count, 8, side // v.stride, side // v.stride) for k, v in LEVELS.items()}


@pytest.mark.parametrize("gradient", list(GRADIENTS))
def test_losses_and_gradients_of_every_method(gradient: str) -> None:
    head = build(small_config(GRADIENT=gradient))
    targets = torch.randint(0, CLASSES, (2, 32, 32))
    nothing, losses = head(levels(), targets)
    assert nothing is None
    penalised = {"loss_lipschitz_sem_seg"} if GRADIENTS.get(gradient).penalised else set()
    assert set(losses) == {"loss_sem_seg"} | penalised
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@torch.no_grad()
def test_logits_are_those_of_the_recurrence_by_hand() -> None:
    head = build(small_config(STEPS_TEST=4)).eval()
    features = levels()
    drive = sum(head.scale_heads[i](features[name]) for i, name in enumerate(LEVELS))
    state = torch.zeros_like(drive)
    for _ in range(4):
        state = head.recurrence.cell(drive, state)
    expected = head.predictor(head.output_norm(state))
    torch.testing.assert_close(head.layers(features), expected)
    logits, losses = head(features)
    assert logits.shape == (2, CLASSES, 32, 32) and losses == {}
    torch.testing.assert_close(
        logits, F.interpolate(expected, scale_factor=4, mode="bilinear", align_corners=False)
    )


def test_the_weights_of_detectron2_fill_all_but_the_recurrence() -> None:
    cfg = small_config()
    head = build(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NAME = "SemSegFPNHead"
    torch.manual_seed(7)
    stock = build_sem_seg_head(cfg, LEVELS)
    missing, unexpected = head.load_state_dict(stock.state_dict(), strict=False)
    assert not unexpected
    assert {name.split(".")[0] for name in missing} == {"recurrence", "output_norm"}
    head.recurrence, head.output_norm = _Identity(), torch.nn.Identity()
    with torch.no_grad():
        assert torch.equal(head.layers(levels()), stock.layers(levels()))


class _Identity(torch.nn.Module):
    """A recurrence that reads its drive out."""

    def forward(self, drive: torch.Tensor) -> Any:
        return type("Output", (), {"output": drive, "penalty": None})


def test_the_loss_is_that_of_detectron2() -> None:
    head = build(small_config())
    predictions = torch.randn(2, CLASSES, 8, 8)
    targets = torch.randint(0, CLASSES, (2, 32, 32))
    targets[0, :20] = head.ignore_value
    expected = SemSegFPNHead.losses(head, predictions, targets)
    # The mean and the sum over the number round differently.
    torch.testing.assert_close(head.losses(predictions, targets), expected)


def test_where_no_pixel_counts_the_loss_is_zero_and_reaches_every_parameter() -> None:
    head = build(small_config())
    _, losses = head(levels(), torch.full((2, 32, 32), head.ignore_value))
    assert losses["loss_sem_seg"].item() == 0
    losses["loss_sem_seg"].backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name


def test_no_targets_in_training() -> None:
    with pytest.raises(ValueError, match="needs the classes of the pixels"):
        build(small_config())(levels())


@torch.no_grad()
def test_halts() -> None:
    head = build(small_config(STEPS_TEST=40, HALT_TOL=0.05)).eval()
    head(levels())
    assert (head.recurrence.last.steps < 40).all()


def test_built_without_a_config() -> None:
    block = RecurrentBlock(build_cell("hgru", WIDTH), steps=2, gradient="bptt")
    head = RecurrentSemSegFPNHead(
        LEVELS, recurrence=block, num_classes=3, conv_dims=WIDTH, common_stride=4, output_norm=""
    )
    assert head.layers(levels()).shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"takes 32 channels.*conv_dims = 16"):
        RecurrentSemSegFPNHead(
            LEVELS, recurrence=block, num_classes=3, conv_dims=16, common_stride=4
        )
    block = RecurrentBlock(build_cell("top_down", WIDTH))
    with pytest.raises(ValueError, match="the semantic head needs a cell whose state is as high"):
        RecurrentSemSegFPNHead(
            LEVELS, recurrence=block, num_classes=3, conv_dims=WIDTH, common_stride=4
        )


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("STEPS", 0, r"SEM_SEG_HEAD\.STEPS must be at least 1"),
        ("OUTPUT_NORM", "XN", r"SEM_SEG_HEAD\.OUTPUT_NORM must be one of"),
        ("KERNEL_SIZE", 2, r"MODEL\.RECURRENT\.SEM_SEG_HEAD: kernel_size"),
        ("CELL", "top_down", r"SEM_SEG_HEAD\.CELL 'top_down': .* as high and wide as its drive"),
    ],
)
def test_impossible_values_name_their_key(key: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(small_config(**{key: value}))
