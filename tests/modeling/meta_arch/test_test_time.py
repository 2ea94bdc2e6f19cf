"""Detectron2's ways of using a model at test time, on recurrent ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.modeling import DatasetMapperTTA, GeneralizedRCNNWithTTA

from rpanoptic.recurrent import recurrent_blocks

from .models import MODELS, assert_same_outputs, model_cfg, picture, tiny_model


def telling(model: Any) -> Any:
    """The model with masks that differ: an untrained head says one half everywhere."""
    torch.manual_seed(2)
    if hasattr(model, "roi_heads"):
        torch.nn.init.normal_(model.roi_heads.mask_head.predictor.weight)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_default_predictor(name: str, tmp_path: Path) -> None:
    cfg = model_cfg(name, tmp_path, INPUT__MIN_SIZE_TEST=96)
    model = telling(tiny_model(name, tmp_path))
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    torch.save(model.state_dict(), cfg.MODEL.WEIGHTS)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    predictor = DefaultPredictor(cfg)
    outputs = predictor(pixels)
    resized = predictor.aug.get_transform(pixels).apply_image(pixels)
    with torch.no_grad():
        image = torch.tensor(resized).permute(2, 0, 1).float()
        (expected,) = model([{"image": image, "height": 64, "width": 80}])
    assert_same_outputs(outputs, expected)


def tta(cfg: CfgNode, model: Any, *, min_sizes: tuple[int, ...], flip: bool) -> Any:
    cfg.TEST.AUG.ENABLED = True
    mapper = DatasetMapperTTA(min_sizes, max_size=1000, flip=flip)
    return GeneralizedRCNNWithTTA(cfg, model, mapper)


@torch.no_grad()
@pytest.mark.parametrize("name", ["RecurrentPanopticFPN", "RecurrentGeneralizedRCNN"])
@pytest.mark.parametrize("halt_tol", [0.0, 0.3])
def test_augmentation_by_nothing_changes_nothing(
    name: str, halt_tol: float, tmp_path: Path
) -> None:
    changes = {
        "MODEL__RECURRENT__MASK_HEAD__HALT_TOL": halt_tol,
        "MODEL__RECURRENT__MASK_HEAD__STEPS_TEST": 20,
    }
    cfg = model_cfg(name, tmp_path, **changes)
    model = telling(tiny_model(name, tmp_path, **changes))
    inputs = picture()
    plain = model([inputs])[0]["instances"]
    detector = model.detector() if name == "RecurrentPanopticFPN" else model
    (augmented,) = tta(cfg, detector, min_sizes=(64,), flip=False)([inputs])
    found = augmented["instances"]
    # Boxes are suppressed a second time: none overlaps another of its class by more already.
    assert len(found) == len(plain) > 0
    order, own = found.scores.argsort(), plain.scores.argsort()
    torch.testing.assert_close(found.scores[order], plain.scores[own])
    # Boxes went to NumPy and back; the resize from 64 to 64 pixels is the identity.
    torch.testing.assert_close(found.pred_boxes.tensor[order], plain.pred_boxes.tensor[own])
    assert torch.equal(found.pred_classes[order], plain.pred_classes[own])
    # Rounded boxes may move a pixel of a mask's edge over its threshold.
    differing = found.pred_masks[order] != plain.pred_masks[own]
    assert differing.float().mean() < 1e-3 and plain.pred_masks.any()


@torch.no_grad()
@pytest.mark.parametrize("name", ["RecurrentPanopticFPN", "RecurrentGeneralizedRCNN"])
def test_several_sizes_and_flips(name: str, tmp_path: Path) -> None:
    cfg = model_cfg(name, tmp_path)
    model = telling(tiny_model(name, tmp_path))
    detector = model.detector() if name == "RecurrentPanopticFPN" else model
    (result,) = tta(cfg, detector, min_sizes=(48, 64), flip=True)([picture()])
    found = result["instances"]
    assert len(found) and found.pred_masks.shape == (len(found), 64, 64)


def test_the_detector_of_a_panoptic_model_shares_its_parts(tmp_path: Path) -> None:
    model = tiny_model("RecurrentPanopticFPN", tmp_path)
    detector = model.detector()
    assert detector.training
    own = dict(model.named_parameters())
    assert all(parameter is own[name] for name, parameter in detector.named_parameters())
    assert set(own) - set(dict(detector.named_parameters())) == {
        name for name in own if name.startswith("sem_seg_head.")
    }
    assert list(recurrent_blocks(detector)) == [
        name for name in recurrent_blocks(model) if name != "sem_seg_head.recurrence"
    ]
    assert torch.equal(detector.pixel_mean, model.pixel_mean)
    telling(model)
    detector = model.detector()
    assert not detector.training
    with torch.no_grad():
        (ours,), (whole,) = detector([picture()]), model([picture()])
    assert_same_outputs(ours, {"instances": whole["instances"]})
