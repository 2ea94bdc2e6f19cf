from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, SemSegEvaluator

from rpanoptic.engine import setup_config
from rpanoptic.errors import ConfigError, DatasetError
from rpanoptic.evaluation import EVALUATORS, build_evaluators, check_evaluator_type
from rpanoptic.evaluation.classification import ClassificationEvaluator
from rpanoptic.evaluation.contours import ContourEvaluator
from rpanoptic.evaluation.panoptic import PanopticEvaluator

NAME = "test_build_evaluators"


@pytest.fixture()
def register(tmp_path: Path) -> Iterator[object]:
    """Registers an empty dataset of a given type under NAME."""
    json_file = tmp_path / "instances.json"
    json_file.write_text('{"images": [], "annotations": [], "categories": []}')

    def enter(kind: str | None) -> str:
        DatasetCatalog.register(NAME, list)
        MetadataCatalog.get(NAME).set(
            json_file=str(json_file),
            image_root=str(tmp_path),
            panoptic_json=str(json_file),
            panoptic_root=str(tmp_path),
            thing_classes=["dog"],
            stuff_classes=["things", "sky"],
            thing_dataset_id_to_contiguous_id={1: 0},
            stuff_dataset_id_to_contiguous_id={0: 0, 2: 1},
            ignore_label=255,
        )
        if kind is not None:
            MetadataCatalog.get(NAME).set(evaluator_type=kind)
        return NAME

    yield enter
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.mark.parametrize(
    ("kind", "architecture", "expected"),
    [
        ("coco", "PanopticFPN", [COCOEvaluator]),
        ("coco", "GeneralizedRCNN", [COCOEvaluator]),
        ("coco", "RecurrentRetinaNet", [COCOEvaluator]),
        ("sem_seg", "PanopticFPN", [SemSegEvaluator]),
        ("sem_seg", "RecurrentSemanticSegmentor", [SemSegEvaluator]),
        (
            "coco_panoptic_seg",
            "RecurrentPanopticFPN",
            [SemSegEvaluator, COCOEvaluator, PanopticEvaluator],
        ),
        ("coco_panoptic_seg", "RetinaNet", [COCOEvaluator]),
        ("pathfinder_segmentation", "RecurrentSemanticSegmentor", [ContourEvaluator]),
        ("coco_panoptic_seg", "SemanticSegmentor", [SemSegEvaluator]),
    ],
)
def test_type_and_model_choose_the_evaluators(
    register, tmp_path: Path, kind: str, architecture: str, expected: list
) -> None:
    options = ["MODEL.META_ARCHITECTURE", architecture, "MODEL.MASK_ON", "True"]
    cfg = setup_config(None, options, output_dir=tmp_path)
    evaluators = build_evaluators(cfg, register(kind))._evaluators
    assert [type(e) for e in evaluators] == expected
    for judge in evaluators:
        if isinstance(judge, COCOEvaluator):
            assert ("segm" in judge._tasks) == ("RetinaNet" not in architecture)


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [
        ("coco", "SemanticSegmentor"),
        ("sem_seg", "RecurrentRetinaNet"),
        ("pathfinder_segmentation", "RetinaNet"),
        ("pathfinder_classification", "SemanticSegmentor"),
    ],
)
def test_nothing_to_judge(register, tmp_path: Path, kind: str, architecture: str) -> None:
    cfg = setup_config(None, ["MODEL.META_ARCHITECTURE", architecture], output_dir=tmp_path)
    with pytest.raises(ConfigError, match=rf"{NAME} judges .*, but a {architecture} predicts"):
        build_evaluators(cfg, register(kind))


def test_every_type_is_tested() -> None:
    pathfinder = {"pathfinder_segmentation", "pathfinder_classification"}
    detection = {"coco", "sem_seg", "coco_panoptic_seg"}
    assert set(EVALUATORS) == {"image_classification"} | detection | pathfinder


def test_pictures_with_one_label_need_the_names_of_their_classes(register, tmp_path: Path) -> None:
    cfg = setup_config(None, ["MODEL.META_ARCHITECTURE", "ImageClassifier"], output_dir=tmp_path)
    name = register("image_classification")
    with pytest.raises(DatasetError, match=f"{NAME}: its metadata names no classes"):
        build_evaluators(cfg, name)
    MetadataCatalog.get(name).set(classes=["cat", "dog", "owl"])
    (evaluator,) = build_evaluators(cfg, name)._evaluators
    assert isinstance(evaluator, ClassificationEvaluator)
    given, logits = {"image_id": 0, "label": 2}, torch.tensor([0.0, 1.0, 2.0])
    evaluator.process([given], [{"classification": logits}])
    assert evaluator.evaluate()["classification"]["top1"] == 100
    assert (tmp_path / "inference" / f"{NAME}_classification.json").is_file()


def test_panoptic_predictions_are_kept_on_request(register, tmp_path: Path) -> None:
    name = register("coco_panoptic_seg")
    for keep in (False, True):
        options = [
            "MODEL.META_ARCHITECTURE",
            "PanopticFPN",
            "RPANOPTIC.KEEP_PREDICTIONS",
            str(keep),
        ]
        cfg = setup_config(None, options, output_dir=tmp_path)
        evaluator = build_evaluators(cfg, name)._evaluators[-1]
        evaluator.process([], [])
        evaluator.evaluate()
        folder = tmp_path / "inference" / f"{NAME}_panoptic_predictions"
        assert folder.is_dir() == folder.with_suffix(".json").is_file() == keep


def test_files_of_detectron2_do_not_replace_those_of_another_test_set(
    register, tmp_path: Path
) -> None:
    name = register("coco_panoptic_seg")
    options = ["MODEL.META_ARCHITECTURE", "PanopticFPN", "DATASETS.TEST", f"('{name}',)"]
    cfg = setup_config(None, options, output_dir=tmp_path)
    folder = tmp_path / "inference"
    for own, names in ((folder, (name, name)), (folder / name, ("other", name))):
        cfg.DATASETS.TEST = names
        semantic, instances, panoptic = build_evaluators(cfg, name)._evaluators
        assert {Path(semantic._output_dir), Path(instances._output_dir)} == {own}
        assert panoptic._folder == folder


def test_the_json_that_detectron2_writes_outlasts_another_folder(register, tmp_path: Path) -> None:
    name = register("coco")
    metadata = MetadataCatalog.get(name)
    del metadata.json_file
    cfg = setup_config(None, ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"], output_dir=tmp_path)
    (judge,) = build_evaluators(cfg, name, tmp_path / "passing")._evaluators
    assert Path(judge._output_dir) == tmp_path / "passing"
    assert Path(metadata.json_file).parent == tmp_path / "inference"


@pytest.mark.parametrize("kind", [None, "lvis"])
def test_unknown_type_lists_the_known(register, tmp_path: Path, kind: str | None) -> None:
    cfg = setup_config(None, output_dir=tmp_path)
    with pytest.raises(DatasetError, match=f"{NAME}.*{kind}.*coco, .*, sem_seg"):
        build_evaluators(cfg, register(kind))


def test_missing_panopticapi_is_named_with_its_remedy(
    register, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = register("coco_panoptic_seg")
    # What an import of an absent module finds.
    monkeypatch.setitem(sys.modules, "panopticapi", None)
    with pytest.raises(ConfigError, match=rf"{name} needs the module panopticapi.*\[panoptic\]"):
        check_evaluator_type(name)
