"""The recurrent mask head by itself, as Detectron2's ROI heads use it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.roi_heads.mask_head import build_mask_head
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

import rpanoptic.modeling  # noqa: F401  registers the head
from rpanoptic import add_rpanoptic_config
from rpanoptic.errors import ConfigError
from rpanoptic.modeling import RecurrentMaskRCNNHead
from rpanoptic.recurrent import CELLS, GRADIENTS, RecurrentBlock, build_cell

CHANNELS, SIZE, CLASSES = 8, 7, 5


def small_config(**node: Any) -> CfgNode:
    cfg = get_cfg()
    add_rpanoptic_config(cfg)
    cfg.MODEL.ROI_MASK_HEAD.NAME = "RecurrentMaskRCNNHead"
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = CHANNELS
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = CLASSES
    cfg.MODEL.RECURRENT.MASK_HEAD.STEPS = 4
    for key, value in node.items():
        cfg.MODEL.RECURRENT.MASK_HEAD[key] = value
    return cfg


@pytest.fixture(autouse=True)
def event_storage() -> Iterator[None]:
    """Detectron2's mask loss puts its scalars into the current storage."""
    with EventStorage():
        yield


def build(cfg: CfgNode) -> RecurrentMaskRCNNHead:
    torch.manual_seed(0)
    shape = ShapeSpec(channels=CHANNELS, width=SIZE, height=SIZE)
    return build_mask_head(cfg, shape)


def regions(count: int) -> Instances:
    """``count`` foreground regions with a filled ground-truth mask each."""
    masks = torch.zeros(count, 32, 32, dtype=torch.bool)
    masks[:, 4:20, 6:24] = True
    boxes = Boxes(torch.tensor([[2.0, 2.0, 28.0, 28.0]]).expand(count, 4))
    classes = torch.arange(count) % CLASSES
    instances = Instances((32, 32), proposal_boxes=boxes, gt_classes=classes)
    instances.gt_masks = BitMasks(masks)
    return instances


def features(count: int) -> torch.Tensor:
    return torch.randn(count, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("gradient", list(GRADIENTS))
def test_losses_of_every_method(gradient: str) -> None:
    head = build(small_config(GRADIENT=gradient))
    losses = head(features(3), [regions(1), regions(2)])
    penalised = gradient in ("crbp", "cbptt")
    keys = {"loss_mask", "loss_lipschitz_mask"} if penalised else {"loss_mask"}
    assert set(losses) == keys
    # The predictor starts near zero, where the cross entropy of any mask is log 2.
    assert abs(losses["loss_mask"].item() - 0.6931) < 1e-2
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("cell", [name for name in CELLS if name != "top_down"])
def test_every_cell_of_one_size_serves_the_head(cell: str) -> None:
    head = build(small_config(CELL=cell, GRADIENT="crbp", STEPS=3))
    losses = head(features(3), [regions(1), regions(2)])
    sum(losses.values()).backward()
    assert head.predictor.weight.grad.isfinite().all()
    assert any(p.grad is not None and p.grad.any() for p in head.recurrence.cell.parameters())


def test_keys_reach_the_block() -> None:
    cfg = small_config(
        CELL="loc_rnn", NONLINEARITY="softplus", GRADIENT="tbptt", TRUNCATION=2, BACKEND="tape"
    )
    node = cfg.MODEL.RECURRENT.MASK_HEAD
    node.FORWARD.TOL, node.ADJOINT.SOLVER, node.ADJOINT.MEMORY = 1e-3, "gmres", 7
    node.LIPSCHITZ.TWO_SIDED = True
    block = build(cfg).recurrence
    config = block.method.config
    assert (config.truncation, config.forward.tol) == (2, 1e-3)
    assert (config.adjoint.solver, config.adjoint.memory) == ("gmres", 7)
    assert block.penalty.two_sided
    # "default" and 0 leave the choice to the cell.
    expected = build_cell("loc_rnn", CHANNELS, nonlinearity="softplus")
    assert {k: v.shape for k, v in block.cell.state_dict().items()} == {
        k: v.shape for k, v in expected.state_dict().items()
    }


def test_penalty_of_weight_zero_is_no_loss() -> None:
    cfg = small_config()
    cfg.MODEL.RECURRENT.MASK_HEAD.LIPSCHITZ.WEIGHT = 0.0
    assert set(build(cfg)(features(1), [regions(1)])) == {"loss_mask"}


@pytest.mark.parametrize("norm", ["SyncBN", "BN", "GN", ""])
def test_no_foreground_gives_zeros_that_reach_every_parameter(norm: str) -> None:
    # GN has 32 groups in Detectron2, more than the eight channels of the other tests.
    cfg = small_config(OUTPUT_NORM=norm)
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 32
    head = build_mask_head(cfg, ShapeSpec(channels=32, width=SIZE, height=SIZE))
    before = {name: value.clone() for name, value in head.named_buffers() if "running" in name}
    x = torch.zeros(0, 32, SIZE, SIZE, requires_grad=True)
    losses = head(x, [regions(0), regions(0)])
    assert {key: value.item() for key, value in losses.items()} == {
        "loss_mask": 0.0,
        "loss_lipschitz_mask": 0.0,
    }
    sum(losses.values()).backward()
    assert x.grad is not None
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name
    for name, value in before.items():
        assert torch.equal(value, head.get_buffer(name)), name


@pytest.mark.parametrize("agnostic", [True, False])
def test_masks_at_inference(agnostic: bool) -> None:
    cfg = small_config()
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = agnostic
    head = build(cfg).eval()
    assert head.predictor.out_channels == (1 if agnostic else CLASSES)
    instances = Instances((32, 32), pred_classes=torch.tensor([0, 2, 4]))
    with torch.no_grad():
        (result,) = head(features(3), [instances])
    assert result.pred_masks.shape == (3, 1, 2 * SIZE, 2 * SIZE)
    assert ((result.pred_masks > 0) & (result.pred_masks < 1)).all()


def test_steps_at_inference_are_those_of_the_config() -> None:
    head = build(small_config(STEPS_TEST=9)).eval()
    x = features(2)
    with torch.no_grad():
        logits = head.layers(x)
        by_hand = x.new_zeros(x.shape)
        for _ in range(9):
            by_hand = head.recurrence.cell(x, by_hand)
    assert torch.equal(logits, head.read_out(by_hand))


@torch.no_grad()
def test_class_agnostic_masks_are_those_of_the_only_class() -> None:
    cfg = small_config()
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = True
    head = build(cfg).eval()
    x = features(3)
    found = [Instances((32, 32), pred_classes=torch.tensor(ids)) for ids in ([0, 2], [4])]
    results = head(x, found)
    masks = torch.cat([result.pred_masks for result in results])
    assert torch.equal(masks, head.layers(x).sigmoid())
    assert head.train()(x, [regions(3)])["loss_mask"].isfinite()


@torch.no_grad()
def test_halting_reports_the_steps_of_each_mask() -> None:
    head = build(small_config(CELL="conv_gru", STEPS_TEST=50, HALT_TOL=0.02)).eval()
    x = features(4) * torch.tensor([0.01, 1.0, 3.0, 9.0])[:, None, None, None]
    found = [
        Instances(
            (32, 32),
            pred_boxes=Boxes(torch.tensor([[2.0, 2.0, 28.0, 28.0]]).expand(count, 4).clone()),
            pred_classes=torch.zeros(count, dtype=torch.int64),
        )
        for count in (3, 0, 1)
    ]
    results = head(x, found)
    steps = [result.mask_steps.tolist() for result in results]
    assert [len(of_picture) for of_picture in steps] == [3, 0, 1]
    taken = [*steps[0], *steps[2]]
    assert len(set(taken)) > 1 and max(taken) < 50
    for i, count in enumerate(taken):
        alone = head.recurrence(x[i : i + 1], steps=count)
        assert alone.diagnostics.steps.tolist() == [count]
    # Boxes are scaled and empty ones dropped; the numbers stay with their masks.
    results[0].pred_boxes.tensor[1, 2] = 2.0
    shown = detector_postprocess(results[0], 64, 64)
    assert shown.mask_steps.tolist() == [steps[0][0], steps[0][2]]
    assert shown.mask_steps.dtype == torch.int64


@torch.no_grad()
@pytest.mark.parametrize("agnostic", [True, False])
@pytest.mark.parametrize("halt_tol", [0.0, 0.1])
def test_no_region_at_inference(agnostic: bool, halt_tol: float) -> None:
    cfg = small_config(HALT_TOL=halt_tol)
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = agnostic
    empty = Instances((32, 32), pred_classes=torch.zeros(0, dtype=torch.int64))
    (result,) = build(cfg).eval()(features(0), [empty])
    assert result.pred_masks.shape == (0, 1, 2 * SIZE, 2 * SIZE)
    assert result.has("mask_steps") == (halt_tol > 0)


def test_a_checkpoint_loads_under_every_method() -> None:
    heads = [build(small_config(GRADIENT=gradient)) for gradient in GRADIENTS]
    with torch.no_grad():
        for parameter in heads[0].parameters():
            parameter.add_(0.1)
    for head in heads[1:]:
        head.load_state_dict(heads[0].state_dict())
        assert torch.equal(head.eval().layers(features(1)), heads[0].eval().layers(features(1)))


def test_built_without_a_config() -> None:
    block = RecurrentBlock(build_cell("hgru", CHANNELS), steps=2, gradient="bptt")
    head = RecurrentMaskRCNNHead(
        ShapeSpec(channels=CHANNELS), recurrence=block, num_classes=3, output_norm="BN"
    )
    assert head.layers(features(2)).shape == (2, 3, 2 * SIZE, 2 * SIZE)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"STEPS": 0}, ["MASK_HEAD.STEPS", "at least 1", "0"]),
        ({"STEPS_TEST": -1}, ["MASK_HEAD.STEPS_TEST", "at least 0", "-1"]),
        ({"CELL": "hgur"}, ["MASK_HEAD.CELL", "hgur", "known: conv_gru", "'hgru'?"]),
        ({"GRADIENT": "cbp"}, ["MASK_HEAD.GRADIENT", "cbp", "known: bptt, cbptt", "rbp"]),
        ({"KERNEL_SIZE": 2}, ["MODEL.RECURRENT.MASK_HEAD", "kernel_size", "odd"]),
        ({"NORM": "XN"}, ["MODEL.RECURRENT.MASK_HEAD", "norm", "'GN'"]),
        ({"CELL": "conv_gru", "GALA": False}, ["MASK_HEAD.GALA", "False", "conv_gru"]),
        ({"CELL": "conv_gru", "FORGET_BIAS": 0.0}, ["MASK_HEAD.FORGET_BIAS", "0.0", "conv_gru"]),
        ({"CELL": "time_decay", "KERNEL_SIZE": 3}, ["MASK_HEAD.KERNEL_SIZE", "time_decay", "0"]),
        ({"HALT_TOL": -1.0}, ["MODEL.RECURRENT.MASK_HEAD", "halt_tol", "at least 0"]),
        ({"NORM": "BN", "HALT_TOL": 0.1}, ["MODEL.RECURRENT.MASK_HEAD", "halt_tol", "'BN'"]),
        ({"ON_FAILURE": "ignore"}, ["MODEL.RECURRENT.MASK_HEAD", "on_failure", "'tbptt'"]),
        ({"TRUNCATION": 0}, ["MODEL.RECURRENT.MASK_HEAD", "truncation"]),
        ({"BACKEND": "graph"}, ["MODEL.RECURRENT.MASK_HEAD", "backend", "'functional'"]),
        ({"CELL": "top_down"}, ["MASK_HEAD.CELL 'top_down'", "as high and wide as its drive"]),
        ({"OUTPUT_NORM": "batch"}, ["MASK_HEAD.OUTPUT_NORM", "batch", "SyncBN"]),
    ],
)
def test_impossible_values_name_their_key(node: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(small_config(**node))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("bias", [0.0, 1.0, -2.0])
def test_the_forget_gates_bias_is_a_key(bias: float) -> None:
    head = build(small_config(CELL="conv_lstm", FORGET_BIAS=bias))
    gates = head.recurrence.cell.gates.bias.detach().chunk(4)
    assert [gate.unique().tolist() for gate in gates] == [[0.0], [0.0], [bias], [0.0]]


def test_other_widths_than_the_features_name_both_keys() -> None:
    cfg = small_config()
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    with pytest.raises(ConfigError, match=r"CONV_DIM is 16.*8 channels.*FPN\.OUT_CHANNELS"):
        build(cfg)


def test_a_block_of_another_width_is_named() -> None:
    block = RecurrentBlock(build_cell("hgru", 4))
    with pytest.raises(ValueError, match=r"4 channels.*8"):
        RecurrentMaskRCNNHead(ShapeSpec(channels=8), recurrence=block, num_classes=2)
    block = RecurrentBlock(build_cell("top_down", 8))
    with pytest.raises(ValueError, match="the mask head needs a cell whose state is as high"):
        RecurrentMaskRCNNHead(ShapeSpec(channels=8), recurrence=block, num_classes=2)


def test_a_group_norm_that_does_not_divide_the_channels_is_named() -> None:
    with pytest.raises(ConfigError, match=r"MASK_HEAD\.OUTPUT_NORM 'GN' has 32 groups.*are 8"):
        build(small_config(OUTPUT_NORM="GN"))
