"""Where a config's TEST.AUG takes effect: evaluations, sweeps, single pictures, command lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import build_model

from rpanoptic.engine import Trainer
from rpanoptic.engine.inputs import PictureError
from rpanoptic.engine.predictor import Predictor
from rpanoptic.errors import ConfigError
from rpanoptic.pathfinder import register_pathfinder_on_the_fly
from tests.conftest import load_script
from tests.engine.tiny import TINY_CONFIG, tiny_cfg, tiny_options
from tests.modeling.meta_arch.models import assert_same_outputs
from tests.pathfinder.sets import forget, small_set

train_net = load_script("tools/train_net.py")
SET = "synthetic_panoptic_val"
CONTOURS = "rpanoptic_test_augmented_contours"


def augmenting(side: int = 96, **changes: Any) -> dict[str, Any]:
    """The pictures of 64 x 64 are seen larger, once, and not mirrored."""
    return {
        "INPUT__MIN_SIZE_TEST": side,
        "TEST__AUG__ENABLED": True,
        "TEST__AUG__MIN_SIZES": (side,),
        "TEST__AUG__MAX_SIZE": 1333,
        "TEST__AUG__FLIP": False,
    } | changes


def plain(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.TEST.AUG.ENABLED = False
    return cfg


def model_of(cfg: CfgNode) -> Any:
    torch.manual_seed(0)
    model = build_model(cfg)
    # An untrained mask head gives 0.5 nearly everywhere; make its answers differ.
    torch.nn.init.normal_(model.roi_heads.mask_head.predictor.weight, std=5.0)
    return model


class Outputs(DatasetEvaluator):
    """Keeps what it is to judge."""

    def reset(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def process(self, inputs: Any, outputs: Any) -> None:
        self.kept += outputs


def evaluated(cfg: CfgNode, model: Any) -> list[dict[str, Any]]:
    outputs = Outputs()
    Trainer.test(cfg, model, [outputs])
    return outputs.kept


@pytest.mark.parametrize("training", [True, False])
def test_an_evaluation(tiny_data: Path, tmp_path: Path, training: bool) -> None:
    cfg = tiny_cfg(tmp_path, **augmenting())
    model = model_of(cfg).train(training)
    looks: list[tuple[int, ...]] = []
    model.backbone.register_forward_pre_hook(lambda _, given: looks.append(tuple(given[0].shape)))
    expected = evaluated(plain(cfg), model)
    assert looks == [(1, 3, 96, 96)] * 2 and model.training is training
    found = evaluated(cfg, model)
    # Boxes, and their masks; of each of two pictures.
    assert looks[2:] == [(1, 3, 96, 96)] * 4 and model.training is training
    # Views are seen alone: in batches, too, the results are those of single pictures.
    cfg.RPANOPTIC.TEST_BATCH = 2
    for one, other, same in zip(found, evaluated(cfg, model), expected, strict=True):
        assert_same_outputs(one, same)
        assert_same_outputs(other, same)
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.FLIP = (64, 96), True
    fused = evaluated(cfg, model)
    assert looks[-4:] == [(1, 3, 64, 64)] * 2 + [(1, 3, 96, 96)] * 2
    for one, other in zip(fused, expected, strict=True):
        assert one["sem_seg"].shape == other["sem_seg"].shape
        assert not torch.equal(one["sem_seg"], other["sem_seg"])


def test_pictures_come_in_their_own_size(tiny_data: Path, tmp_path: Path) -> None:
    cfg = tiny_cfg(tmp_path, **augmenting())
    sizes = [
        one["image"].shape
        for config in (cfg, plain(cfg))
        for batch in Trainer.build_test_loader(config, SET)
        for one in batch
    ]
    assert sizes == [(3, 64, 64)] * 2 + [(3, 96, 96)] * 2
    assert cfg.INPUT.MIN_SIZE_TEST == 96


def test_the_predictor(tiny_data: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (80, 96, 3), dtype=np.uint8)
    for order in ("BGR", "RGB"):
        cfg = tiny_cfg(tmp_path, **augmenting(64, INPUT__FORMAT=order))
        model = model_of(cfg)
        predict = Predictor(cfg, model)
        without = Predictor(plain(cfg), model)
        assert_same_outputs(predict(image), without(image))
        assert model.training
        ours, others = (one.masks_by_step(image, [1], threshold=0) for one in (predict, without))
        assert torch.equal(ours[1].pred_masks, others[1].pred_masks)
        cfg.TEST.AUG.FLIP = True
        mirrored, not_asked = Predictor(cfg, model), Predictor(cfg, model, augment=False)
        assert not torch.equal(mirrored(image)["sem_seg"], without(image)["sem_seg"])
        assert_same_outputs(not_asked(image), without(image))
    with pytest.raises(PictureError, match=r"1 x 3000 pixels are too narrow.* 1333 pixels long"):
        predict(np.zeros((3000, 1, 3), dtype=np.uint8))
    cfg.TEST.AUG.MIN_SIZES = ()
    with pytest.raises(ConfigError, match=r"TEST\.AUG\.MIN_SIZES"):
        Predictor(cfg, model)


@pytest.fixture()
def contours() -> Iterator[None]:
    register_pathfinder_on_the_fly(CONTOURS, small_set().settings, 1, 3)
    yield
    forget(CONTOURS)


def test_contours(contours: None, tmp_path: Path) -> None:
    """They are judged at the model's size, from which the views are made."""
    cfg = tiny_cfg(
        tmp_path,
        **augmenting(
            20,
            MODEL__META_ARCHITECTURE="ContourSegmentor",
            MODEL__BACKBONE__NAME="build_pathfinder_recurrent_backbone",
            MODEL__SEM_SEG_HEAD__NAME="ContourHead",
            MODEL__SEM_SEG_HEAD__NUM_CLASSES=2,
            MODEL__RECURRENT__PATHFINDER__STEPS=2,
            MODEL__PIXEL_MEAN=[128.0],
            MODEL__PIXEL_STD=[64.0],
            DATASETS__TEST=(CONTOURS,),
        ),
    )
    torch.manual_seed(0)
    model = build_model(cfg)
    expected = Trainer.test(plain(cfg), model)
    assert Trainer.test(cfg, model) == expected and expected["contour"]
    (batch, *_) = Trainer.build_test_loader(cfg, CONTOURS)
    assert batch[0]["image"].shape == (1, 20, 20)
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.FLIP = (20, 30), True
    assert Trainer.test(cfg, model)["contour"].keys() == expected["contour"].keys()


def test_training_and_evaluating_by_command(tiny_data: Path, tmp_path: Path) -> None:
    """A training evaluates as --eval-only does afterwards."""
    sizes = augmenting(TEST__AUG__MIN_SIZES=(48, 64), TEST__AUG__FLIP=True)
    command = ["--config-file", str(TINY_CONFIG), "--num-gpus", "1"]
    options = tiny_options(OUTPUT_DIR=tmp_path, **sizes)
    assert train_net.main([*command, *options]) == 0
    trained = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert train_net.main([*command, "--eval-only", "--resume", *options]) == 0
    again = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert trained["sem_seg/mIoU"] > 0
    for name in ("panoptic_seg/PQ", "sem_seg/mIoU", "bbox/AP"):
        # The one model was in training mode until then.
        assert again[name] == pytest.approx(trained[name])
    assert (tmp_path / "predictions.png").is_file()
