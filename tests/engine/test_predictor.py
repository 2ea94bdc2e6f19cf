from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from rpanoptic.engine.predictor import Predictor, mask_recurrence
from rpanoptic.errors import ConfigError
from tests.engine.tiny import tiny_cfg


@pytest.fixture()
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (80, 96, 3), dtype=np.uint8)


def make(tmp_path: Path, **changes: object) -> Predictor:
    torch.manual_seed(0)
    cfg = tiny_cfg(tmp_path, **changes)
    model = build_model(cfg)
    head = model.roi_heads.mask_head
    # An untrained mask head gives 0.5 nearly everywhere; make its answers differ.
    torch.nn.init.normal_(head.predictor.weight, std=5.0)
    block = mask_recurrence(model)
    if block is not None:
        # Untrained features are so large that the first step would saturate the gates.
        block.register_forward_pre_hook(lambda _, args: (args[0] / 1000,))
    return Predictor(cfg, model)


def test_prediction_has_the_size_of_the_picture(tmp_path: Path, image: np.ndarray) -> None:
    predict = make(tmp_path)
    predict.model.train()
    output = predict(image)
    assert output["panoptic_seg"][0].shape == (80, 96)
    assert output["sem_seg"].shape == (5, 80, 96)
    assert output["instances"].image_size == (80, 96)
    assert predict.model.training  # as it was


def test_channel_order_follows_the_config(tmp_path: Path, image: np.ndarray) -> None:
    bgr, rgb = make(tmp_path), make(tmp_path, INPUT__FORMAT="RGB")
    swapped = image[:, :, ::-1]
    assert torch.equal(bgr(image)["sem_seg"], rgb(swapped)["sem_seg"])
    assert not torch.equal(bgr(image)["sem_seg"], bgr(swapped)["sem_seg"])


def test_pictures_keep_their_size_where_none_is_asked_for(
    tmp_path: Path, image: np.ndarray
) -> None:
    predict = make(tmp_path, INPUT__MIN_SIZE_TEST=0)
    seen = []
    predict.model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    output = predict(image)
    # Padded to what the backbone divides by.
    assert seen == [(1, 3, 96, 96)]
    assert output["sem_seg"].shape == (5, 80, 96)


def test_masks_at_the_configured_steps_are_the_models_own(
    tmp_path: Path, image: np.ndarray
) -> None:
    predict = make(tmp_path)
    instances = predict(image)["instances"]
    masks = predict.masks_by_step(image, [1, 3], threshold=0.0)
    assert list(masks) == [1, 3]
    assert len(instances) > 0
    assert torch.equal(masks[3].pred_masks, instances.pred_masks)
    assert torch.equal(masks[3].pred_boxes.tensor, instances.pred_boxes.tensor)
    assert torch.equal(masks[1].pred_boxes.tensor, instances.pred_boxes.tensor)
    assert not torch.equal(masks[1].pred_masks, instances.pred_masks)


def test_threshold_and_limit_choose_detections(tmp_path: Path, image: np.ndarray) -> None:
    predict = make(tmp_path)
    scores = predict(image)["instances"].scores
    middle = scores.median().item()
    kept = predict.masks_by_step(image, [1], threshold=middle)[1]
    assert len(kept) == int((scores >= middle).sum())
    assert len(predict.masks_by_step(image, [1], threshold=0.0, limit=2)[1]) == 2
    assert len(predict.masks_by_step(image, [1], threshold=1.1)[1]) == 0


def test_steps_are_restored_after_an_error(tmp_path: Path, image: np.ndarray) -> None:
    predict = make(tmp_path)
    block = mask_recurrence(predict.model)
    assert block is not None
    with pytest.raises(ValueError, match="steps"):
        predict.masks_by_step(image, [-1], threshold=0.0)
    assert block.steps_test == 0


def test_plain_mask_head_has_no_steps(tmp_path: Path, image: np.ndarray) -> None:
    predict = make(tmp_path, MODEL__ROI_MASK_HEAD__NAME="MaskRCNNConvUpsampleHead")
    assert mask_recurrence(predict.model) is None
    with pytest.raises(ConfigError, match="not recurrent"):
        predict.masks_by_step(image, [1])
