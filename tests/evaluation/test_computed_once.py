from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn

from rpanoptic.evaluation.computed_once import outputs_by_step
from rpanoptic.recurrent import ForwardConfig, RecurrentBlock, build_cell
from rpanoptic.recurrent.blocks import recurrent_blocks, steps_at_test
from tests.engine.tiny import tiny_cfg

STEPS = (4, 1, 2)


def model_of(cfg: CfgNode) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    head = model.roi_heads.mask_head
    with torch.no_grad():
        # The predictor starts near zero, where every mask is one half everywhere, and without
        # running statistics of training the features are so large that one step saturates.
        head.predictor.weight.normal_(std=1.0)
        model.pixel_std.mul_(2000)
    return model


def picture() -> list[dict[str, Any]]:
    pixels = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255
    return [{"image": pixels, "height": 80, "width": 80}]


def alone(model: nn.Module, inputs: list[dict[str, Any]], steps: int) -> Any:
    with torch.no_grad(), steps_at_test(model, steps):
        return model(inputs)


FPN = {
    "MODEL__META_ARCHITECTURE": "RecurrentPanopticFPN",
    "MODEL__BACKBONE__NAME": "build_recurrent_fpn_backbone",
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"MODEL__META_ARCHITECTURE": "GeneralizedRCNN"},
        {"MODEL__RECURRENT__MASK_HEAD__HALT_TOL": 0.05},
        {"MODEL__SEM_SEG_HEAD__NAME": "RecurrentSemSegFPNHead"},
        FPN,
        FPN | {"MODEL__RECURRENT__FPN__PLACE": "topdown"},
    ],
    ids=["panoptic", "instances", "halting", "semantic", "fpn", "topdown"],
)
def test_equals_the_model_by_itself(changes: dict[str, Any], tmp_path: Path) -> None:
    model = model_of(tiny_cfg(tmp_path, **changes))
    found = dict(outputs_by_step(model, picture(), STEPS))
    assert list(found) == sorted(STEPS)
    masks = []
    for steps, (output,) in found.items():
        (expected,) = alone(model, picture(), steps)
        assert output.keys() == expected.keys()
        for name, values in expected["instances"].get_fields().items():
            given = output["instances"].get(name)
            if name == "pred_boxes":
                values, given = values.tensor, given.tensor
            # The same operations on the same numbers: nothing is left to rounding.
            assert torch.equal(given, values), name
        if "panoptic_seg" in expected:
            assert torch.equal(output["panoptic_seg"][0], expected["panoptic_seg"][0])
            assert output["panoptic_seg"][1] == expected["panoptic_seg"][1]
        masks.append(output["instances"].pred_masks)
    assert not torch.equal(masks[0], masks[-1])


def test_nothing_is_computed_twice(tmp_path: Path) -> None:
    model = model_of(tiny_cfg(tmp_path))
    calls = {"backbone.bottom_up": 0, "proposal_generator.rpn_head": 0, "recurrence.cell": 0}
    calls |= {"roi_heads.box_head": 0, "sem_seg_head.predictor": 0}

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    for name in calls:
        place = name.replace("recurrence", "roi_heads.mask_head.recurrence")
        model.get_submodule(place).register_forward_hook(count(name))
    block = model.roi_heads.mask_head.recurrence
    taken = []
    for _ in outputs_by_step(model, picture(), (1, 3, 8)):
        taken.append(block.last.steps.unique().tolist())
    assert taken == [[1], [3], [8]]
    assert calls.pop("recurrence.cell") == 8
    assert set(calls.values()) == {1}
    # And the model is what it was.
    assert "forward" not in vars(block) and "forward" not in vars(model.backbone)
    assert block.steps_test == 0


class Pair(nn.Module):
    """A block that drives another."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.first, self.second = (
            RecurrentBlock(build_cell("conv_gru", 4), steps=2, **options) for _ in range(2)
        )

    def forward(self, drive: Tensor) -> Tensor:
        return self.second(self.first(drive).output).output


@pytest.mark.parametrize(
    "options", [{}, {"forward": ForwardConfig(acceleration="anderson")}, {"halt_tol": 0.4}]
)
def test_a_block_starts_anew_where_its_drive_changes(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Pair(**options).eval()
    drive = torch.randn(2, 4, 5, 5)
    assert len(recurrent_blocks(model)) == 2
    plain = {}
    for steps in (1, 2, 5):
        with torch.no_grad(), steps_at_test(model, steps):
            plain[steps] = model(drive)
    for steps, output in outputs_by_step(model, drive, (1, 2, 5)):  # type: ignore[arg-type]
        assert torch.equal(output, plain[steps])
