from __future__ import annotations

import itertools
import json
import logging
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets.coco import load_coco_json, load_sem_seg
from detectron2.data.datasets.coco_panoptic import merge_to_panoptic
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators, SemSegEvaluator
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances
from panopticapi.utils import rgb2id
from PIL import Image

from rpanoptic.config import add_rpanoptic_config
from rpanoptic.data import (
    PanopticDatasetMapper,
    build_test_loader,
    build_train_loader,
    check_dataset,
    register_panoptic,
)
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.errors import DatasetError
from tests.data.foreign import CAR, ROAD, UNNAMED, WALKER, ForeignSet, write_foreign_set
from tests.data.helpers import edit_json, write_tiny_coco

NAME = "rpanoptic_test_own"

pytestmark = pytest.mark.usefixtures("unregistered")


@pytest.fixture(scope="module")
def derived_set(tmp_path_factory: pytest.TempPathFactory) -> ForeignSet:
    """A foreign set whose derived files are there, for tests that change nothing."""
    files = write_foreign_set(tmp_path_factory.mktemp("foreign"))
    register_panoptic("rpanoptic_test_first", *files)
    check_dataset("rpanoptic_test_first")
    return files


@pytest.fixture
def foreign(tmp_path: Path, derived_set: ForeignSet) -> ForeignSet:
    """A copy of it that a test may change; its files are as new as those that it is copied from."""
    root = derived_set.image_root.parent
    shutil.copytree(root, tmp_path / "set")
    return ForeignSet(*(tmp_path / "set" / path.relative_to(root) for path in derived_set))


def _config() -> CfgNode:
    cfg = get_cfg()
    add_rpanoptic_config(cfg)
    cfg.merge_from_list(["MODEL.MASK_ON", True, "INPUT.MASK_FORMAT", "bitmask", "SEED", 1])
    return cfg


def test_nothing_is_derived_when_a_dataset_is_registered(tmp_path: Path) -> None:
    files = write_foreign_set(tmp_path)
    classes = register_panoptic(NAME, *files)
    assert [one.id for one in classes.things] == [CAR, WALKER]
    assert [one.name for one in classes.stuff] == ["road", "class 12"]
    assert [path.name for path in files.panoptic_json.parent.iterdir()] == ["my set.json"]


def test_all_keys_that_detectron2_knows_are_there(derived_set: ForeignSet) -> None:
    classes = register_panoptic(NAME, *derived_set)
    metadata = MetadataCatalog.get(NAME)
    content = metadata.as_dict()
    assert content.items() >= classes.metadata().items()
    assert (
        content.items()
        >= {
            "name": NAME,
            "evaluator_type": "coco_panoptic_seg",
            "ignore_label": 255,
            "label_divisor": 1000,
            "image_root": str(derived_set.image_root),
            "panoptic_json": str(derived_set.panoptic_json),
            "panoptic_root": str(derived_set.panoptic_root),
        }.items()
    )
    assert content["stuff_dataset_id_to_contiguous_id"] == {ROAD: 1, UNNAMED: 2, 501: 0}
    assert content["thing_dataset_id_to_contiguous_id"] == {CAR: 0, WALKER: 1}
    assert Path(content["json_file"]).is_file() and Path(content["sem_seg_root"]).is_dir()
    assert ClassTable.from_metadata(metadata) == classes
    assert pickle.loads(pickle.dumps(metadata)).sem_seg_root == metadata.sem_seg_root


def test_records_are_drawn_from_the_pngs(derived_set: ForeignSet) -> None:
    register_panoptic(NAME, *derived_set)
    records = DatasetCatalog.get(NAME)
    assert [record["image_id"] for record in records] == [
        *("south#4", "north/day#3", "south#2", "north/day#1", "south#0")
    ]
    assert (records[0]["segments_info"], records[0]["annotations"]) == ([], [])
    for record in records:
        ids = rgb2id(np.array(Image.open(record["pan_seg_file_name"])))
        labels = np.array(Image.open(record["sem_seg_file_name"]))
        assert ids.shape == labels.shape == (record["height"], record["width"]) == (32, 48)
        assert Image.open(record["file_name"]).size == (48, 32)
        assert np.array_equal(labels == 255, ids == 0)
        things = [segment for segment in record["segments_info"] if segment["isthing"]]
        assert len(things) == len(record["annotations"])
        for segment in record["segments_info"]:
            label = 0 if segment["isthing"] else segment["category_id"]
            assert set(labels[ids == segment["id"]]) == {label}
        for segment, instance in zip(things, record["annotations"], strict=True):
            assert instance["category_id"] == segment["category_id"]
            assert instance["iscrowd"] == segment["iscrowd"] == (segment["category_id"] == 1)
            assert instance["bbox_mode"] is BoxMode.XYWH_ABS
            mask = _mask(instance["segmentation"])
            assert np.array_equal(mask, ids == segment["id"])
            box = BoxMode.convert(instance["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
            assert box == _box(mask)


def _mask(rle: dict[str, Any]) -> np.ndarray:
    return mask_util.decode(rle).astype(bool)


def _box(mask: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_detectron2s_evaluators_find_the_ground_truth_without_a_fault(
    derived_set: ForeignSet,
) -> None:
    """With ids that are words, with the category 0, with a class that crowds alone have."""
    register_panoptic(NAME, *derived_set)
    evaluator = DatasetEvaluators(
        [
            SemSegEvaluator(NAME),
            COCOEvaluator(NAME, ("bbox", "segm"), use_fast_impl=False),
        ]
    )
    evaluator.reset()
    for record in DatasetCatalog.get(NAME):
        evaluator.process([record], [_as_prediction(record)])
    results = evaluator.evaluate()
    for task in ("bbox", "segm"):
        # COCO's precision at a hundred recalls is divided by itself plus a machine epsilon.
        assert results[task]["AP"] == pytest.approx(100)
        assert results[task]["AP-car"] == pytest.approx(100)
        assert np.isnan(results[task]["AP-walker"])
    assert results["sem_seg"]["mIoU"] == results["sem_seg"]["IoU-class 12"] == 100


def _as_prediction(record: dict[str, Any]) -> dict[str, Any]:
    labels = torch.as_tensor(np.array(Image.open(record["sem_seg_file_name"])).astype(int))
    labels[labels == 255] = 0
    shown = [one for one in record["annotations"] if not one["iscrowd"]]
    instances = Instances((record["height"], record["width"]))
    masks = [torch.as_tensor(_mask(one["segmentation"])) for one in shown]
    instances.pred_masks = torch.stack(masks) if masks else torch.zeros(0, 32, 48, dtype=bool)
    instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
    instances.pred_classes = torch.tensor([one["category_id"] for one in shown]).long()
    instances.scores = torch.ones(len(shown))
    return {
        "sem_seg": torch.nn.functional.one_hot(labels, 3).permute(2, 0, 1).float(),
        "instances": instances,
    }


def test_detectron2s_own_readers_read_what_is_derived(tmp_path: Path) -> None:
    coco = write_tiny_coco(tmp_path)
    json_file = coco / "annotations/panoptic_val2017.json"
    register_panoptic(NAME, coco / "val2017", json_file, coco / "panoptic_val2017")
    metadata = MetadataCatalog.get(NAME)
    # With the name, load_coco_json sets the class tables, which Detectron2 lets no one change.
    instances = load_coco_json(metadata.json_file, metadata.image_root, NAME)
    theirs = merge_to_panoptic(instances, load_sem_seg(metadata.sem_seg_root, metadata.image_root))
    ours = DatasetCatalog.get(NAME)
    assert [{key: record[key] for key in theirs[0]} for record in ours] == theirs
    annotations = json.loads(Path(metadata.json_file).read_text())["annotations"]
    assert len({annotation["id"] for annotation in annotations} - {0}) == len(annotations) == 6


def test_names_that_the_json_lacks_are_in_the_derived_one(foreign: ForeignSet) -> None:
    edit_json(foreign.panoptic_json, lambda content: content["categories"][2].pop("name"))
    register_panoptic(NAME, *foreign)
    metadata = MetadataCatalog.get(NAME)
    assert metadata.thing_classes == ["class 0", "walker"]
    assert len(load_coco_json(metadata.json_file, metadata.image_root, NAME)) == 6


def test_loaders_read_it_in_processes_and_drop_pictures_without_things(
    derived_set: ForeignSet,
) -> None:
    register_panoptic(NAME, *derived_set)
    assert len(get_detection_dataset_dicts([NAME], filter_empty=False)) == 5
    assert len(get_detection_dataset_dicts([NAME], filter_empty=True)) == 4
    cfg = _config()
    cfg.merge_from_list(["DATASETS.TRAIN", (NAME,), "DATASETS.TEST", (NAME,)])
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 1])
    batches = list(
        itertools.islice(build_train_loader(cfg, PanopticDatasetMapper(cfg, is_train=True)), 2)
    )
    for mapped in itertools.chain(*batches):
        # Crowds are not learned.
        assert mapped["instances"].gt_classes.tolist() == [0]
        assert mapped["sem_seg"].unique().tolist() == [0, 1, 2, 255]
        assert isinstance(mapped["instances"].gt_boxes, Boxes)
    loader = build_test_loader(cfg, NAME)
    assert sorted(record["image_id"] for batch in loader for record in batch)[-1] == "south#4"


def test_a_set_of_stuff_alone_loses_no_picture(foreign: ForeignSet) -> None:
    def only_stuff(content: dict[str, Any]) -> None:
        for category in content["categories"]:
            category["isthing"] = 0

    edit_json(foreign.panoptic_json, only_stuff)
    assert register_panoptic(NAME, *foreign).things == ()
    records = get_detection_dataset_dicts([NAME], filter_empty=True)
    assert len(records) == 5 and "annotations" not in records[0]


def test_things_that_are_crowds_alone_are_told_where_pictures_need_others(
    foreign: ForeignSet,
) -> None:
    def only_crowds(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            for segment in annotation["segments_info"]:
                segment["iscrowd"] = segment["category_id"] in (CAR, WALKER)

    edit_json(foreign.panoptic_json, only_crowds)
    register_panoptic(NAME, *foreign)
    cfg = _config()
    cfg.merge_from_list(["DATASETS.TRAIN", (NAME,)])
    mapper = PanopticDatasetMapper(cfg, is_train=True)
    with pytest.raises(DatasetError, match=rf"{NAME} has .*FILTER_EMPTY_ANNOTATIONS to False"):
        build_train_loader(cfg, mapper)
    cfg.merge_from_list(["DATALOADER.FILTER_EMPTY_ANNOTATIONS", False])
    build_train_loader(cfg, mapper)


def test_pictures_without_annotation_are_counted(
    derived_set: ForeignSet, caplog: pytest.LogCaptureFixture
) -> None:
    register_panoptic(NAME, *derived_set)
    with caplog.at_level(logging.INFO, logger="rpanoptic"):
        DatasetCatalog.get(NAME)
    assert "1 of 6 pictures has no annotation" in caplog.text


def test_check_dataset_tells_what_was_looked_at_and_warns(
    foreign: ForeignSet, caplog: pytest.LogCaptureFixture
) -> None:
    def shrink(content: dict[str, Any]) -> None:
        content["annotations"][1]["segments_info"][0]["area"] = 1

    edit_json(foreign.panoptic_json, shrink)
    register_panoptic(NAME, *foreign)
    with caplog.at_level(logging.INFO, logger="rpanoptic"):
        check_dataset(NAME)
    assert f"Dataset {NAME!r}: 5 annotated pictures, all looked through" in caplog.text
    assert "its area is 1" in caplog.text
    assert f"python tools/check_dataset.py '{foreign.image_root}'" in caplog.text


@pytest.mark.parametrize("name", ["", " ", "town/val", "town\\val", "town\0"])
def test_a_name_that_results_cannot_have_is_refused(derived_set: ForeignSet, name: str) -> None:
    with pytest.raises(DatasetError, match="cannot be the name of a dataset"):
        register_panoptic(name, *derived_set)
    assert name not in DatasetCatalog


class TestTheSameNameAgain:
    def test_the_same_files_change_nothing(self, derived_set: ForeignSet, tmp_path: Path) -> None:
        first = register_panoptic(NAME, *derived_set)
        metadata = MetadataCatalog.get(NAME)
        link = tmp_path / "link"
        link.symlink_to(derived_set.image_root)
        again = register_panoptic(NAME, link, *derived_set[1:], cache=derived_set[1].parent)
        assert again == first and MetadataCatalog.get(NAME) is metadata

    def test_a_relative_path_outlives_a_change_of_the_folder(
        self, derived_set: ForeignSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = derived_set.image_root.parent
        monkeypatch.chdir(root)
        register_panoptic(NAME, *(path.relative_to(root) for path in derived_set))
        monkeypatch.chdir(tmp_path)
        assert Path(DatasetCatalog.get(NAME)[0]["file_name"]).is_file()

    def test_other_files_are_refused_unless_they_shall_replace(
        self, derived_set: ForeignSet, tmp_path: Path
    ) -> None:
        coco = write_tiny_coco(tmp_path)
        tiny = (
            coco / "val2017",
            coco / "annotations/panoptic_val2017.json",
            coco / "panoptic_val2017",
        )
        register_panoptic(NAME, *derived_set)
        with pytest.raises(DatasetError, match=rf"{NAME!r} .*{derived_set[0]}.*replace=True"):
            register_panoptic(NAME, *tiny)
        assert MetadataCatalog.get(NAME).thing_classes == ["car", "walker"]
        register_panoptic(NAME, *tiny, replace=True)
        assert MetadataCatalog.get(NAME).thing_classes == ["cat"]
        assert len(DatasetCatalog.get(NAME)) == 3

    @pytest.mark.parametrize("name", ["synthetic_panoptic_val", "coco_2017_val_panoptic_separated"])
    @pytest.mark.parametrize("replace", [False, True])
    def test_datasets_that_others_registered_stay(
        self, derived_set: ForeignSet, name: str, replace: bool
    ) -> None:
        before = MetadataCatalog.get(name), DatasetCatalog[name]
        with pytest.raises(DatasetError, match=f"another dataset of the name {name!r}"):
            register_panoptic(name, *derived_set, replace=replace)
        assert (MetadataCatalog.get(name), DatasetCatalog[name]) == before

    def test_a_name_that_was_only_asked_for_is_free(self, derived_set: ForeignSet) -> None:
        MetadataCatalog.get(NAME)
        register_panoptic(NAME, *derived_set)
        assert MetadataCatalog.get(NAME).thing_classes == ["car", "walker"]

    def test_new_classes_are_read_where_the_json_has_changed(self, foreign: ForeignSet) -> None:
        register_panoptic(NAME, *foreign)
        edit_json(
            foreign.panoptic_json,
            lambda content: content["categories"].append({"id": 3, "name": "bus", "isthing": 1}),
        )
        with pytest.raises(DatasetError, match=rf"classes have changed .*{NAME!r}"):
            DatasetCatalog.get(NAME)
        register_panoptic(NAME, *foreign)
        assert MetadataCatalog.get(NAME).thing_classes == ["car", "bus", "walker"]
        car, walker = DatasetCatalog.get(NAME)[1]["annotations"]
        assert (car["category_id"], walker["category_id"]) == (0, 2)


@pytest.mark.parametrize("missing", range(3))
def test_a_missing_file_or_folder_is_named(derived_set: ForeignSet, missing: int) -> None:
    paths = list(derived_set)
    paths[missing] = paths[missing].with_name("absent")
    with pytest.raises(DatasetError, match=r"absent: no such (file|folder) of the p"):
        register_panoptic(NAME, *paths)
    assert NAME not in DatasetCatalog and NAME not in MetadataCatalog


def test_a_file_that_is_no_panoptic_json_is_named(derived_set: ForeignSet, tmp_path: Path) -> None:
    wrong = tmp_path / "instances.json"
    wrong.write_text('{"images": [], "categories": []}')
    with pytest.raises(
        DatasetError, match=r"instances.json: no COCO panoptic JSON .*check_dataset"
    ):
        register_panoptic(NAME, derived_set[0], wrong, derived_set[2])


def test_too_many_classes_are_told_with_their_file(derived_set: ForeignSet, tmp_path: Path) -> None:
    wrong = tmp_path / "many.json"
    categories = [{"id": number, "isthing": 0} for number in range(255)]
    wrong.write_text(json.dumps({"categories": categories, "images": [], "annotations": []}))
    with pytest.raises(DatasetError, match=r"many.json: 255 stuff classes"):
        register_panoptic(NAME, derived_set[0], wrong, derived_set[2])


def test_the_sample_of_coco_is_read(coco_sample: Path, tmp_path: Path) -> None:
    classes = register_panoptic(
        NAME,
        coco_sample / "input_images",
        coco_sample / "panoptic_examples.json",
        coco_sample / "panoptic_examples",
        cache=tmp_path,
    )
    theirs = MetadataCatalog.get("coco_2017_val_panoptic_separated")
    for key in ("thing_classes", "thing_dataset_id_to_contiguous_id", "thing_colors"):
        assert MetadataCatalog.get(NAME).get(key) == theirs.get(key)
    # Detectron2 shortens "water-other" and its like.
    names = zip(classes.stuff, theirs.stuff_classes[1:], strict=True)
    assert all(one.name.startswith(short.removesuffix("-merged")) for one, short in names)
    check_dataset(NAME)
    records = DatasetCatalog.get(NAME)
    assert [len(record["annotations"]) for record in records] == [15, 28]
    assert sum(one["iscrowd"] for record in records for one in record["annotations"]) == 3
    mapped = PanopticDatasetMapper(_config(), is_train=True)(records[0])
    assert len(mapped["instances"]) > 0 and mapped["sem_seg"].shape == mapped["image"].shape[1:]
