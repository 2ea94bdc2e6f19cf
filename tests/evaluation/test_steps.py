from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.modeling import build_model
from torch import nn

from rpanoptic.engine import Trainer
from rpanoptic.evaluation import steps as under_test
from rpanoptic.evaluation.steps import StepResult, evaluate_steps
from rpanoptic.recurrent import steps_at_test
from tests.engine.tiny import tiny_cfg, tiny_data, tiny_datasets

__all__ = ["tiny_data", "tiny_datasets"]

SET = "synthetic_panoptic_val"


class MaskArea(DatasetEvaluator):
    """The area of all masks: a figure of any model, that each step changes."""

    def reset(self) -> None:
        self._areas: list[float] = []

    def process(self, inputs: Any, outputs: Any) -> None:
        self._areas += [output["instances"].pred_masks.float().sum().item() for output in outputs]

    def evaluate(self) -> dict[str, Any]:
        numbers = {"area": sum(self._areas), "area-shape": 1.0, "absent": float("nan")}
        return {"masks": numbers | {"pictures": len(self._areas)}}


@pytest.fixture()
def areas(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(under_test, "build_evaluators", lambda *_: DatasetEvaluators([MaskArea()]))
    yield


def tiny_model(output: Path, **changes: Any) -> tuple[CfgNode, nn.Module]:
    # Without running statistics of training the features are so large that one step saturates.
    cfg = tiny_cfg(output, MODEL__PIXEL_STD=[2000.0] * 3, **changes)
    torch.manual_seed(0)
    model = build_model(cfg)
    nn.init.normal_(model.roi_heads.mask_head.predictor.weight)
    return cfg, model


def plain(cfg: CfgNode, model: nn.Module, steps: int, evaluator: Any) -> dict[str, Any]:
    model.roi_heads.mask_head.recurrence.steps_test = steps
    results = inference_on_dataset(model, build_detection_test_loader(cfg, SET), evaluator)
    model.roi_heads.mask_head.recurrence.steps_test = 0
    return flatten_results_dict(results)


def test_equals_separate_evaluations(tiny_data: Path, tmp_path: Path, areas: None) -> None:
    cfg, model = tiny_model(tmp_path)
    found = list(evaluate_steps(cfg, model, SET, [5, 1], timed_pictures=1))
    assert [(one.steps, one.pictures) for one in found] == [(1, 2), (5, 2)]
    for one in found:
        expected = plain(cfg, model, one.steps or 0, MaskArea())
        # Of a single class, or no number: left out.
        assert one.metrics == {name: expected[name] for name in ("masks/area", "masks/pictures")}
        assert one.seconds is not None and one.seconds > 0
    assert found[0].metrics["masks/area"] != found[1].metrics["masks/area"] > 0


def test_the_evaluators_of_the_dataset(tiny_data: Path, tmp_path: Path) -> None:
    cfg, model = tiny_model(tmp_path)
    (one,) = evaluate_steps(cfg, model, SET, [2], timed_pictures=0)
    assert list(tmp_path.iterdir()) == []
    expected = flatten_results_dict(
        inference_on_dataset(
            model,
            build_detection_test_loader(cfg, SET),
            Trainer.build_evaluator(cfg, SET),
        )
    )
    names = {"panoptic_seg/PQ", "panoptic_seg/PQ_th", "sem_seg/mIoU", "segm/AP", "bbox/AP"}
    assert names <= one.metrics.keys() <= expected.keys()
    # The semantic head is not recurrent: three steps, as in training, or two.
    assert one.metrics["sem_seg/mIoU"] == expected["sem_seg/mIoU"] > 0
    assert one.seconds is None


def test_augmented_pictures(tiny_data: Path, tmp_path: Path, areas: None) -> None:
    """Blocks then see other drives within a number of steps, so nothing may be recalled."""
    views = {"TEST__AUG__ENABLED": True, "TEST__AUG__MIN_SIZES": (64, 96)}
    cfg, model = tiny_model(tmp_path, **views)
    areas_by_steps = []
    for one in evaluate_steps(cfg, model, SET, [1, 4], timed_pictures=1):
        with steps_at_test(model, one.steps):
            expected = Trainer.test(cfg, model, [MaskArea()])["masks"]
        assert one.metrics == {name: expected[name.removeprefix("masks/")] for name in one.metrics}
        assert one.seconds is not None and one.seconds > 0
        areas_by_steps.append(one.metrics["masks/area"])
    cfg.TEST.AUG.ENABLED = False
    without = next(evaluate_steps(cfg, model, SET, [1], timed_pictures=0))
    assert len({*areas_by_steps, without.metrics["masks/area"]}) == 3


def test_without_recurrence_there_is_one_result(
    tiny_data: Path, tmp_path: Path, areas: None
) -> None:
    cfg, model = tiny_model(tmp_path, MODEL__ROI_MASK_HEAD__NAME="MaskRCNNConvUpsampleHead")
    (one,) = evaluate_steps(cfg, model, SET, [1, 2], timed_pictures=0)
    assert isinstance(one, StepResult)
    assert one.steps is None and one.metrics["masks/pictures"] == 2
