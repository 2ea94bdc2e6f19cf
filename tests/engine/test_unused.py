"""Settings of recurrent blocks, Pathfinder and classifiers that a config's model does not have."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from detectron2.modeling import BACKBONE_REGISTRY

from rpanoptic.engine.unused import CLASSIFIER_READERS, PATHFINDER_READERS, check_unused_nodes
from rpanoptic.errors import ConfigError
from tests.engine.tiny import tiny_cfg
from tests.modeling.meta_arch.models import MODELS, model_cfg
from tests.pathfinder.imagenet.models import tiny as classifiers
from tests.pathfinder.models.tiny import config


@pytest.mark.parametrize("name", MODELS)
def test_settings_of_every_part_that_there_is(name: str, tmp_path: Path) -> None:
    check_unused_nodes(model_cfg(name, tmp_path))


def test_a_part_that_the_architecture_does_not_build(tmp_path: Path) -> None:
    cfg = model_cfg("RecurrentRetinaNet", tmp_path, MODEL__RECURRENT__MASK_HEAD__STEPS=5)
    with pytest.raises(ConfigError, match=r"MASK_HEAD\.STEPS .* RecurrentRetinaNet .* no masks"):
        check_unused_nodes(cfg)


def test_the_recurrence_of_pathfinder(tmp_path: Path) -> None:
    settings = {"MODEL__RECURRENT__PATHFINDER__STEPS": 5}
    with pytest.raises(ConfigError, match=r"PATHFINDER\.STEPS .* build_pathfinder_recurrent_b"):
        check_unused_nodes(tiny_cfg(tmp_path, **settings))
    check_unused_nodes(config({}, **settings))


def test_what_reads_each_key_of_pathfinder(tmp_path: Path) -> None:
    assert PATHFINDER_READERS.keys() == config({}).MODEL.PATHFINDER.keys()
    for key, value in (("CHANNELS", 5), ("STEP_LOSS", True), ("FOCAL_GAMMA", 0.0)):
        cfg = tiny_cfg(tmp_path, **{f"MODEL__PATHFINDER__{key}": value})
        with pytest.raises(ConfigError, match=rf"MODEL\.PATHFINDER\.{key} is set, but"):
            check_unused_nodes(cfg)
        check_unused_nodes(config({}, **{key: value}))


def test_a_model_of_pathfinder_is_warned_of_keys_of_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="rpanoptic"):
        check_unused_nodes(config({}, KERNEL_SIZE=5))
    assert "PATHFINDER.KERNEL_SIZE is set, but" in caplog.text
    assert "take build_pathfinder_feedforward_backbone" in caplog.text


def test_what_reads_each_key_of_classifiers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert CLASSIFIER_READERS.keys() == classifiers.config().MODEL.CLASSIFIER.keys()
    for key, value in (("POOL", True), ("DECODER", "mean"), ("READOUT_STEPS", [3])):
        settings = {f"MODEL__CLASSIFIER__{key}": value}
        with pytest.raises(ConfigError, match=rf"MODEL\.CLASSIFIER\.{key} .* ImageClassifier"):
            check_unused_nodes(tiny_cfg(tmp_path, **settings))
        check_unused_nodes(classifiers.config(**settings))
    assert "is set, but" not in caplog.text
    resnet = {"MODEL__CLASSIFIER__TORCHVISION": "resnet34"}
    check_unused_nodes(classifiers.config(**resnet, **classifiers.RESNET))
    assert "CLASSIFIER.TORCHVISION is set, but" not in caplog.text
    with caplog.at_level(logging.WARNING, logger="rpanoptic"):
        check_unused_nodes(classifiers.config(**resnet))
    assert "CLASSIFIER.TORCHVISION is set, but" in caplog.text
    assert "take build_torchvision_resnet_backbone" in caplog.text


def test_a_feed_forward_model_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    head = {"MODEL__ROI_MASK_HEAD__NAME": "MaskRCNNConvUpsampleHead"}
    with caplog.at_level(logging.WARNING, logger="rpanoptic"):
        check_unused_nodes(tiny_cfg(tmp_path, **head))
    assert "MASK_HEAD.STEPS is set, but MODEL.ROI_MASK_HEAD.NAME MaskRCNNConv" in caplog.text


def test_a_part_from_elsewhere_may_read_its_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def my_backbone() -> None: ...

    monkeypatch.setitem(BACKBONE_REGISTRY._obj_map, "my_backbone", my_backbone)
    settings = {"MODEL__RECURRENT__FPN__STEPS": 5, "MODEL__BACKBONE__NAME": "my_backbone"}
    check_unused_nodes(tiny_cfg(tmp_path, **settings))
    settings["MODEL__BACKBONE__NAME"] = "build_resnet_fpn_backbone"
    with pytest.raises(ConfigError, match=r"FPN\.STEPS"):
        check_unused_nodes(tiny_cfg(tmp_path, **settings))
