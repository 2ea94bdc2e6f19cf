from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from rpanoptic.benchmarks import model_cost
from rpanoptic.benchmarks.model_inputs import fixed_regions, picture_size, random_batch
from rpanoptic.benchmarks.report import Row
from rpanoptic.errors import ConfigError
from tests.engine.tiny import CONV_RNN, tiny_cfg

SIZE = (64, 96)
BLOCK = "roi_heads.mask_head.recurrence"


def tiny(output: Path, **changes: Any) -> tuple[CfgNode, nn.Module]:
    cfg = tiny_cfg(output, **changes)
    torch.manual_seed(0)
    return cfg, build_model(cfg)


def values(rows: list[Row], task: str) -> dict[tuple[str, int | None], float]:
    return {(row["module"], row["steps"]): row["value"] for row in rows if row["task"] == task}


def test_parameters_of_parts_and_blocks(tmp_path: Path) -> None:
    _, model = tiny(tmp_path)
    model.sem_seg_head.requires_grad_(False)
    rows = model_cost.parameters(model)
    everything, trainable = (values(rows, task) for task in ("parameters", "trainable parameters"))
    assert everything["total", None] == sum(p.numel() for p in model.parameters())
    parts = ("backbone", "proposal_generator", "roi_heads", "sem_seg_head")
    assert sum(everything[part, None] for part in parts) == everything["total", None]
    assert 0 < everything[BLOCK, None] < everything["roi_heads", None]
    assert trainable["sem_seg_head", None] == 0
    assert trainable["total", None] == (
        everything["total", None] - everything["sem_seg_head", None]
    )


def test_operations_count_every_step(tmp_path: Path) -> None:
    cfg, model = tiny(tmp_path)
    rows = model_cost.operations(cfg, model, size=SIZE, steps=[3, 1], detections=3)
    for task in ("flops", "activations"):
        found = values(rows, task)
        step = found[f"a step of {BLOCK}", None]
        assert step > 0
        assert found[BLOCK, 1] == step and found[BLOCK, 3] == 3 * step
        assert found["total", 3] - found["total", 1] == 2 * step
        for part in ("backbone", "proposal_generator", "sem_seg_head"):
            assert found[part, 3] == found[part, 1] > 0
        assert (f"a step of {BLOCK}", 3) not in found
    # A multiplication with its addition for every weight, region and pixel, and little else: the
    # norms and the pooled half of the attention.
    weights = sum(p.numel() for p in model.get_submodule(BLOCK).parameters() if p.dim() > 1)
    least = weights * 3 * 7 * 7
    assert 0.9 * least < values(rows, "flops")[f"a step of {BLOCK}", None] < 1.2 * least
    # The model is what it was.
    assert "inference" not in vars(model.roi_heads.box_predictor)
    assert model.get_submodule(BLOCK).steps_test == 0


def test_a_block_of_several_least_steps(tmp_path: Path) -> None:
    cfg, model = tiny(tmp_path, **CONV_RNN)
    # One kind of count: to trace so many operations takes seconds.
    rows = model_cost.operations(
        cfg, model, size=SIZE, steps=[7, 9], tasks=["activations"], detections=1
    )
    block = "backbone.bottom_up.recurrence"
    found = values(rows, "activations")
    step = found[f"a step of {block}", None]
    assert found[block, 9] - found[block, 7] == 2 * step
    # Three more come before the image has passed the layers before the loop. Of the last ones some
    # parts update states that no output depends on.
    assert 9 * step < found[block, 7] < 10 * step
    for count in (model_cost.operations, model_cost.memory):
        with pytest.raises(ConfigError, match=rf"steps of {block} must be at least 7, got 6"):
            count(cfg, model, size=SIZE, steps=[9, 6])
    rows = model_cost.memory(cfg, model, size=SIZE, steps=[7])
    assert all(row["value"] > 0 for row in rows)


def test_a_feed_forward_model_has_no_steps(tmp_path: Path) -> None:
    cfg, model = tiny(tmp_path, MODEL__ROI_MASK_HEAD__NAME="MaskRCNNConvUpsampleHead")
    rows = model_cost.operations(cfg, model, size=SIZE, steps=[1, 2], tasks=["flops"])
    rows += model_cost.memory(cfg, model, size=SIZE, steps=[1, 2])
    assert {row["steps"] for row in rows} == {None}
    assert all(row["value"] > 0 for row in rows)


@pytest.mark.parametrize(("gradient", "grows"), [("bptt", True), ("rbp", False)])
def test_memory_against_steps(tmp_path: Path, gradient: str, grows: bool) -> None:
    cfg, model = tiny(tmp_path, MODEL__RECURRENT__MASK_HEAD__GRADIENT=gradient)
    found = values(model_cost.memory(cfg, model, size=SIZE, steps=[2, 6, 10]), "memory")
    for what in (model_cost.SAVED, model_cost.ALLOCATED):
        few, many, more = (found[what, steps] for steps in (2, 6, 10))
        # Four more steps take about 40 % more where memory grows at all. The allocator's peak may
        # differ by some bytes from run to run.
        assert (1.2 * few < many) is grows
        # The allocator's peak lies elsewhere with few steps; what autograd saves is exact.
        if what == model_cost.SAVED:
            assert more - many == pytest.approx(many - few, abs=1e-9)
    assert model.get_submodule(BLOCK).steps == 3
    assert all(parameter.grad is None for parameter in model.parameters())


def test_regions_in_training_are_full_shares(tmp_path: Path) -> None:
    cfg, model = tiny(tmp_path)
    model.train()
    seen = []
    model.roi_heads.mask_head.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    per_picture = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    with EventStorage() as storage, fixed_regions(model, proposals=per_picture, detections=0):
        model(random_batch(cfg, SIZE, 2))
    foreground = per_picture * cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION
    assert seen == [2 * foreground]
    assert storage.latest()["roi_head/num_bg_samples"][0] == per_picture - foreground


def test_tables() -> None:
    rows = [
        {"task": "flops", "module": "total", "steps": 1, "value": 1234567, "unit": ""},
        {"task": "flops", "module": "total", "steps": 2, "value": 2, "unit": ""},
        {"task": "flops", "module": "a step of x", "steps": None, "value": 3, "unit": ""},
        {"task": "memory", "module": "saved", "steps": 1, "value": 1.25, "unit": "MiB"},
    ]
    text = model_cost.tabulated(rows, markdown=True)
    assert " 1 step |" in text and "1,234,567" in text and "1.2 MiB" in text and "2 steps" in text


def test_sizes(tmp_path: Path) -> None:
    assert picture_size(tiny_cfg(tmp_path, INPUT__MAX_SIZE_TEST=80)) == (64, 80)
    assert model_cost.check_size([32, 40]) == (32, 40)
    with pytest.raises(ConfigError, match=r"--size 31 64: both sides"):
        model_cost.check_size([31, 64])
