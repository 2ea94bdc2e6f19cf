from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from rpanoptic.engine import Trainer, setup_config
from rpanoptic.engine.check import (
    check_output_dir,
    check_penalties,
    check_process_count,
    check_run,
    check_settings,
)
from rpanoptic.errors import ConfigError, DatasetError
from tests.engine.tiny import tiny_cfg
from tests.pathfinder.imagenet.data.folder import registered, write_folder
from tests.paths import CONFIGS


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_process_count(2)
    with pytest.raises(ConfigError, match="--num-gpus 3: PyTorch finds 2"):
        check_process_count(3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_process_count(3)


def test_output_folder_is_created(tmp_path: Path) -> None:
    folder = check_output_dir(tmp_path / "a" / "b", key="OUTPUT_DIR")
    assert folder.is_dir()
    assert not any(folder.iterdir())


def test_file_in_the_way_of_the_output_folder(tmp_path: Path) -> None:
    file = tmp_path / "taken"
    file.write_text("x")
    for path in (file, file / "below"):
        with pytest.raises(ConfigError, match=rf"OUTPUT_DIR.*{path}"):
            check_output_dir(path, key="OUTPUT_DIR")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_read_only_output_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match=r"OUTPUT_DIR.*Permission denied"):
        check_output_dir(tmp_path, key="OUTPUT_DIR")


def test_sound_run_passes(tmp_path: Path, tiny_data: Path) -> None:
    check_run(tiny_cfg(tmp_path / "out"))
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.RECURRENT.MASK_HEAD.STEPS", 0, r"MASK_HEAD\.STEPS must be at least 1"),
        ("MODEL.RECURRENT.MASK_HEAD.CELL", "hgrru", r"MASK_HEAD\.CELL.*known: .*hgru"),
        ("MODEL.RECURRENT.MASK_HEAD.GRADIENT", "crpb", r"MASK_HEAD\.GRADIENT.*known: .*crbp"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 80, r"ROI_HEADS\.NUM_CLASSES is 80.*has 4"),
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 54, r"SEM_SEG_HEAD\.NUM_CLASSES is 54.*has 5"),
        ("DATASETS.TRAIN", (), r"DATASETS\.TRAIN is empty"),
        (
            "MODEL.ROI_MASK_HEAD.NAME",
            "RecurrentMaskHead",
            r"ROI_MASK_HEAD\.NAME 'RecurrentMaskHead' is unknown; known: .*MaskRCNNConvUpsample.*"
            r"Did you mean RecurrentMaskRCNNHead",
        ),
        ("MODEL.META_ARCHITECTURE", "PanopticFNP", r"META_ARCHITECTURE.*mean PanopticFPN"),
        ("MODEL.BACKBONE.NAME", "resnet", r"BACKBONE\.NAME 'resnet'.*build_resnet_fpn_backbone"),
        ("MODEL.SEM_SEG_HEAD.NAME", "SemSegHead", r"SEM_SEG_HEAD\.NAME .*mean SemSegFPNHead"),
        ("MODEL.MASK_ON", False, r"MASK_ON is False, but a RecurrentPanopticFPN"),
        (
            "MODEL.RECURRENT.FPN.STEPS",
            5,
            r"RECURRENT\.FPN\.STEPS is set, but MODEL\.BACKBONE\.NAME build_resnet_fpn_backbone "
            r"does not read it: .*build_recurrent_fpn_backbone or",
        ),
        (
            "MODEL.RECURRENT.SEM_SEG_HEAD.ADJOINT.MAX_STEPS",
            5,
            r"SEM_SEG_HEAD\.ADJOINT\.MAX_STEPS is set.*SEM_SEG_HEAD\.NAME RecurrentSemSegFPNHead",
        ),
        ("MODEL.RECURRENT.CONVRNN.WIDTH", 0.5, r"CONVRNN\.WIDTH is set"),
        ("MODEL.RECURRENT.FPN.TOP_DOWN_KERNEL_SIZE", 2, r"FPN\.TOP_DOWN_KERNEL_SIZE must be odd"),
        ("MODEL.RECURRENT.RESNET.FEEDBACK_KERNEL_SIZE", -1, r"FEEDBACK_KERNEL_SIZE must be odd"),
        ("RPANOPTIC.LOG_PERIOD", 0, r"LOG_PERIOD is 0; at least 1"),
        ("RPANOPTIC.TEST_BATCH", 0, r"TEST_BATCH is 0; at least 1"),
        ("SOLVER.CHECKPOINT_PERIOD", 0, r"SOLVER\.CHECKPOINT_PERIOD is 0; at least 1"),
        ("SOLVER.AMP.ENABLED", True, r"AMP\.ENABLED with float16 needs a GPU.*bfloat16"),
    ],
)
def test_faults_found_before_anything_is_built(
    tmp_path: Path, tiny_data: Path, key: str, value: object, message: str
) -> None:
    changes = {"MODEL__META_ARCHITECTURE": "RecurrentPanopticFPN", key.replace(".", "__"): value}
    cfg = tiny_cfg(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message):
        check_run(cfg)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("TEST.AUG.MIN_SIZES", (), r"TEST\.AUG\.MIN_SIZES is empty"),
        ("TEST.AUG.MIN_SIZES", (64, 0), r"TEST\.AUG\.MIN_SIZES: .*at least 1, got 0"),
        ("TEST.AUG.MAX_SIZE", 1100, r"TEST\.AUG\.MAX_SIZE is 1100: .* 1200 of"),
        ("MODEL.META_ARCHITECTURE", "ImageClassifier", r"META_ARCHITECTURE ImageClassifier has no"),
        ("MODEL.KEYPOINT_ON", True, r"MODEL\.KEYPOINT_ON"),
    ],
)
def test_impossible_augmentation_is_found(
    tmp_path: Path, tiny_data: Path, key: str, value: object, message: str
) -> None:
    options = {"TEST__AUG__ENABLED": True, key.replace(".", "__"): value}
    if value == "ImageClassifier":
        options["MODEL__BACKBONE__NAME"] = "build_convrnn_backbone"
        options["MODEL__RECURRENT__MASK_HEAD__STEPS"] = 20  # the default: it has no such head
    with pytest.raises(ConfigError, match=message):
        check_settings(tiny_cfg(tmp_path, **options))


def test_augmentation_that_is_not_enabled_is_not_looked_at(tmp_path: Path) -> None:
    check_settings(tiny_cfg(tmp_path, TEST__AUG__MIN_SIZES=()))
    check_settings(tiny_cfg(tmp_path, TEST__AUG__ENABLED=True))


def test_unknown_dataset_names_close_ones(tmp_path: Path, tiny_data: Path) -> None:
    cfg = tiny_cfg(tmp_path, DATASETS__TEST=("synthetic_panoptic_vall",))
    with pytest.raises(DatasetError, match="synthetic_panoptic_val"):
        check_run(cfg)


def test_evaluation_needs_no_training_set(tmp_path: Path, tiny_data: Path) -> None:
    cfg = tiny_cfg(tmp_path, DATASETS__TRAIN=("no_such_dataset",))
    assert "no_such_dataset" not in DatasetCatalog
    check_run(cfg, eval_only=True)
    with pytest.raises(DatasetError, match="no_such_dataset"):
        check_run(cfg)


def test_test_set_of_an_unknown_type_is_found_before_the_training(
    tmp_path: Path, tiny_data: Path
) -> None:
    name = "check_test_unknown_type"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(evaluator_type="lvis_x")
    try:
        cfg = tiny_cfg(tmp_path, DATASETS__TEST=(name,))
        with pytest.raises(DatasetError, match=rf"{name}.*'lvis_x'; known: .*coco"):
            check_run(cfg)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize(
    ("architecture", "key"),
    [
        ("RecurrentRetinaNet", "RETINANET"),
        ("RecurrentGeneralizedRCNN", "ROI_HEADS"),
        ("RecurrentSemanticSegmentor", "SEM_SEG_HEAD"),
    ],
)
def test_class_counts_of_the_heads_that_there_are(
    tmp_path: Path, tiny_data: Path, architecture: str, key: str
) -> None:
    right = {"RETINANET": 4, "ROI_HEADS": 4, "SEM_SEG_HEAD": 5}
    changes = {f"MODEL__{name}__NUM_CLASSES": 7 for name in right}
    changes |= {"MODEL__META_ARCHITECTURE": architecture, "MODEL__MASK_ON": False}
    with pytest.raises(ConfigError, match=rf"{key}\.NUM_CLASSES is 7"):
        check_run(tiny_cfg(tmp_path, **changes))
    changes[f"MODEL__{key}__NUM_CLASSES"] = right[key]
    check_run(tiny_cfg(tmp_path, **changes))


def test_class_count_and_settings_of_a_classifier(tmp_path: Path) -> None:
    options = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"]
    cfg = setup_config(CONFIGS / "imagenet/digits/feedforward.yaml", options, output_dir=tmp_path)
    check_run(cfg)
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 12
    message = r"MODEL\.CLASSIFIER\.NUM_CLASSES is 12, but dataset digits_train has 10 classes"
    with pytest.raises(ConfigError, match=message):
        check_run(cfg)
    cfg.MODEL.CLASSIFIER.DECODER = "first"
    with pytest.raises(ConfigError, match=r"MODEL\.CLASSIFIER: DECODER must be one of 'last'"):
        check_run(cfg)


def test_classes_of_several_sets_are_compared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"]
    cfg = setup_config(CONFIGS / "imagenet/digits/feedforward.yaml", options, output_dir=tmp_path)
    write_folder(tmp_path / "set", [*"01234567", "eight", "nine"], pictures=1)
    with registered(tmp_path / "set") as name:
        cfg.DATASETS.TEST = (name,)
        check_run(cfg)
        assert f"Datasets digits_train and {name} have different classes" in caplog.text
        assert "label 8 is '8' in the one and 'eight' in the other" in caplog.text
        cfg.DATASETS.TRAIN = ("digits_train", name)
        with pytest.raises(ConfigError, match=rf"TRAIN: datasets digits_train and {name} have"):
            check_run(cfg)


def test_a_test_set_that_judges_nothing_of_the_model(tmp_path: Path, tiny_data: Path) -> None:
    name = "check_test_instances"
    DatasetCatalog.register(name, lambda: [{"file_name": "a.jpg"}])
    MetadataCatalog.get(name).set(evaluator_type="coco")
    try:
        cfg = tiny_cfg(
            tmp_path, DATASETS__TEST=(name,), MODEL__META_ARCHITECTURE="SemanticSegmentor"
        )
        with pytest.raises(ConfigError, match=rf"{name} judges instances, but a Sem.* sem_seg"):
            check_run(cfg)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize(
    ("architecture", "form", "other"),
    [
        ("ContourSegmentor", "", "_classification"),
        ("ContourClassifier", "_classification", ""),
    ],
)
def test_a_training_set_without_what_the_model_learns(
    tmp_path: Path, tiny_data: Path, architecture: str, form: str, other: str
) -> None:
    changes: dict[str, Any] = {
        "MODEL__META_ARCHITECTURE": architecture,
        "DATASETS__TEST": (f"pathfinder_9{form}_val_on_the_fly",),
        "INPUT__RANDOM_FLIP": "both",
        "INPUT__MIN_SIZE_TRAIN": (0,),
    }
    right, wrong = (f"pathfinder_9{of}_train_on_the_fly" for of in (form, other))
    check_run(tiny_cfg(tmp_path, **changes, DATASETS__TRAIN=(right,)))
    with pytest.raises(ConfigError, match=rf"^DATASETS.TRAIN: {wrong} has .*{architecture} pred"):
        check_run(tiny_cfg(tmp_path, **changes, DATASETS__TRAIN=(right, wrong)))


def test_a_penalty_that_would_be_lost_is_refused(tmp_path: Path, tiny_data: Path) -> None:
    lost = {"MODEL__BACKBONE__NAME": "build_recurrent_fpn_backbone"}
    lost |= {"MODEL__RECURRENT__FPN__STEPS": 2}
    with pytest.raises(ConfigError, match=r"PanopticFPN would lose .* backbone: take Recurrent"):
        Trainer(tiny_cfg(tmp_path, **lost))
    for sound in (
        {"MODEL__META_ARCHITECTURE": "RecurrentPanopticFPN"},
        {"MODEL__RECURRENT__FPN__LIPSCHITZ__WEIGHT": 0.0},
        {"MODEL__RECURRENT__FPN__GRADIENT": "rbp"},
        # The mask head gives its penalty to the losses itself.
        {"MODEL__BACKBONE__NAME": "build_resnet_fpn_backbone"},
    ):
        check_penalties(build_model(tiny_cfg(tmp_path, **{**lost, **sound})))


@pytest.mark.parametrize("limit", [-1.0, float("inf"), float("nan")])
def test_time_limit_that_is_none(tiny_data: Path, tmp_path: Path, limit: float) -> None:
    cfg = tiny_cfg(tmp_path)
    cfg.RPANOPTIC.PROCESS_TIMEOUT = limit
    with pytest.raises(ConfigError, match="PROCESS_TIMEOUT must be above 0 and finite"):
        check_run(cfg)
