"""The LazyConfig: it builds the model of the YAML, and one with smaller heads trains and infers."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from rpanoptic import add_rpanoptic_config
from rpanoptic.modeling import RecurrentPanopticFPN, RecurrentSemSegFPNHead
from rpanoptic.recurrent import RecurrentBlock, build_cell
from tests.modeling.meta_arch.models import picture
from tests.paths import CONFIGS

FILE = CONFIGS / "lazy" / "panoptic_fpn_crbp_r50.py"


def load(*overrides: str) -> Any:
    return LazyConfig.apply_overrides(LazyConfig.load(str(FILE)), list(overrides))


def shapes(model: torch.nn.Module) -> dict[str, tuple[torch.Size, bool]]:
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    return {name: (value.shape, name in trained) for name, value in model.state_dict().items()}


def test_it_is_the_model_of_the_yaml() -> None:
    cfg = get_cfg()
    add_rpanoptic_config(cfg)
    cfg.merge_from_file(str(CONFIGS / "coco_panoptic_crbp.yaml"))
    cfg.MODEL.DEVICE = "meta"
    # On the meta device nothing is initialised: only shapes are wanted.
    with torch.device("meta"):
        lazy, yaml = instantiate(load().model), build_model(cfg)
    assert shapes(lazy) == shapes(yaml)
    ours, theirs = (model.roi_heads.mask_head.recurrence for model in (lazy, yaml))
    for name in ("steps", "steps_test", "halt_tol", "gradient"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.method.config == theirs.method.config
    assert (ours.penalty.tau, ours.penalty.weight) == (theirs.penalty.tau, theirs.penalty.weight)


def test_one_with_smaller_heads_trains_and_infers() -> None:
    cfg = load(
        "model.backbone.out_channels=32",
        "model.proposal_generator.head.in_channels=32",
        "model.proposal_generator.post_nms_topk=[50,20]",
        "model.roi_heads.num_classes=4",
        "model.roi_heads.batch_size_per_image=8",
        "model.roi_heads.box_head.fc_dims=[16]",
        "model.roi_heads.box_predictor.test_score_thresh=0.0",
        "model.roi_heads.box_predictor.test_topk_per_image=5",
        "model.roi_heads.mask_pooler.output_size=7",
        "model.roi_heads.mask_head.recurrence.cell.channels=32",
        "model.roi_heads.mask_head.recurrence.steps=3",
        "model.roi_heads.mask_head.recurrence.halt_tol=0.3",
        "model.sem_seg_head.num_classes=5",
        "model.sem_seg_head.conv_dims=32",
    )
    cfg.model.roi_heads.box_head.input_shape = ShapeSpec(channels=32, width=7, height=7)
    cfg.model.roi_heads.box_predictor.input_shape = ShapeSpec(channels=16)
    cfg.model.roi_heads.mask_head.input_shape = ShapeSpec(channels=32, width=7, height=7)
    # Another part made recurrent: the semantic head, whose other arguments stay.
    cfg.model.sem_seg_head._target_ = RecurrentSemSegFPNHead
    cfg.model.sem_seg_head.recurrence = L(RecurrentBlock)(
        cell=L(build_cell)(name="conv_gru", channels=32), steps=3
    )
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    assert isinstance(model, RecurrentPanopticFPN)
    assert model.roi_heads.mask_head.recurrence.cell.channels == 32
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    with EventStorage():
        losses = model([picture()])
    assert {"loss_lipschitz_mask", "loss_lipschitz_sem_seg"} <= set(losses)
    sum(losses.values()).backward()
    optimizer.step()
    assert all(value.isfinite().all() for value in model.parameters())
    model.eval()
    with torch.no_grad():
        (result,) = model([picture()], steps=30)
    assert result["panoptic_seg"][0].shape == (64, 64)
    assert (result["instances"].mask_steps < 30).all()
