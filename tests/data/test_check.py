import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from rpanoptic.data import check_dataset, prepare_coco_panoptic
from rpanoptic.errors import DatasetError
from tests.data.helpers import add_segment, edit_json, write_tiny_coco
from tests.paths import ROOT

NAME = "rpanoptic_test_tiny"


@pytest.fixture
def coco(tmp_path):
    """A tiny prepared set, registered as ``NAME`` in the separated form."""
    coco = write_tiny_coco(tmp_path, pictures=4)
    paths = {
        "image_root": coco / "val2017",
        "panoptic_root": coco / "panoptic_val2017",
        "panoptic_json": coco / "annotations/panoptic_val2017.json",
        "sem_seg_root": coco / "panoptic_stuff_val2017",
        "json_file": coco / "annotations/instances_val2017.json",
    }
    prepare_coco_panoptic(
        paths["panoptic_json"],
        paths["panoptic_root"],
        paths["sem_seg_root"],
        paths["json_file"],
        progress=False,
    )
    DatasetCatalog.register(NAME, list)
    MetadataCatalog.get(NAME).set(
        **{key: str(path) for key, path in paths.items()},
        thing_classes=["cat"],
        stuff_classes=["things", "grass", "sky"],
        thing_dataset_id_to_contiguous_id={3: 0},
        stuff_dataset_id_to_contiguous_id={7: 1, 9: 2, 0: 0},
        ignore_label=255,
        evaluator_type="coco_panoptic_seg",
    )
    yield coco
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def _fault(match):
    return pytest.raises(DatasetError, match=match)


def test_a_sound_dataset_passes(coco, caplog):
    with caplog.at_level(logging.WARNING):
        check_dataset(NAME)
    assert not caplog.records


def test_an_unknown_name_gets_close_names():
    with _fault(r"'synthetic_panoptic_trian'.*synthetic_panoptic_train"):
        check_dataset("synthetic_panoptic_trian")


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("val2017", "image_root"),
        ("panoptic_val2017", "panoptic_root"),
        ("panoptic_stuff_val2017", "sem_seg_root"),
        ("annotations/panoptic_val2017.json", "panoptic_json"),
        ("annotations/instances_val2017.json", "json_file"),
    ],
)
def test_a_missing_folder_or_file_is_named_with_the_variable(coco, monkeypatch, path, key):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/data/sets")
    (coco / path).rename(coco / "gone")
    with _fault(rf"{path}: no such (file|folder) \({key}.*DETECTRON2_DATASETS \('/data/sets' now"):
        check_dataset(NAME)


def test_what_the_script_makes_is_said(coco):
    (coco / "panoptic_stuff_val2017").rename(coco / "gone")
    with _fault(r"python datasets/prepare_coco_panoptic.py"):
        check_dataset(NAME)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("val2017/000002.jpg", "instances_val2017.json"),
        ("panoptic_val2017/000002.png", "panoptic_val2017.json"),
        ("panoptic_stuff_val2017/000002.png", "instances_val2017.json"),
    ],
)
def test_an_absent_picture_or_png_is_named_whatever_the_sample(coco, path, source):
    (coco / path).unlink()
    with _fault(rf"{path}: no such file, but .*{source} needs it"):
        check_dataset(NAME, max_pngs=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_segment, r"000002.png: the JSON has segments that the PNG lacks: 424242"),
        (
            lambda c: c["annotations"][1]["segments_info"].pop(0),
            r"000002.png: the PNG has segments that the JSON lacks: 70000",
        ),
        (
            lambda c: (
                c["categories"].append({"id": 11, "name": "sea", "isthing": 0}),
                c["annotations"][1]["segments_info"][0].update(category_id=11),
            ),
            r"segment 70000 of 000002.png has category 11, which is not in the metadata of "
            rf"'{NAME}'",
        ),
        (
            lambda c: c["images"][1].update(width=25),
            r"24 x 16 pixels by .*instances_val2017.json, but 25 x 16 by .*panoptic_val2017.json",
        ),
        (
            lambda c: (
                c["images"].append({"id": 9, "file_name": "9.jpg", "width": 24, "height": 16}),
                c["annotations"].append(
                    {**c["annotations"][0], "image_id": 9, "file_name": "9.png"}
                ),
            ),
            r"instances_val2017.json: lacks image 9 \(9.jpg\)",
        ),
        (lambda c: c.pop("images"), r"panoptic_val2017.json: no COCO panoptic JSON"),
    ],
)
def test_faults_of_the_panoptic_json_are_named(coco, change, message):
    edit_json(coco / "annotations/panoptic_val2017.json", change)
    with _fault(message):
        check_dataset(NAME)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["categories"].append({"id": 7, "name": "grass"}),
            rf"instances_val2017.json: its categories .*'{NAME}'; superfluous: \[7\]",
        ),
        (
            lambda c: c["annotations"][0].update(category_id=8),
            r"an annotation of image 1 has category 8",
        ),
        (
            lambda c: c["annotations"][0].update(image_id=50),
            r"an annotation belongs to image 50, which the file lacks",
        ),
        (lambda c: c["images"][0].pop("width"), r"no COCO instance JSON \(KeyError: 'width'\)"),
    ],
)
def test_faults_of_the_instance_json_are_named(coco, change, message):
    edit_json(coco / "annotations/instances_val2017.json", change)
    with _fault(message):
        check_dataset(NAME)


@pytest.mark.parametrize(
    "path",
    ["val2017/000003.jpg", "panoptic_val2017/000003.png", "panoptic_stuff_val2017/000003.png"],
)
@pytest.mark.parametrize("kept", [0.6, 0.0])
def test_a_truncated_file_is_named(coco, path, kept):
    data = (coco / path).read_bytes()
    (coco / path).write_bytes(data[: int(kept * len(data))])
    with _fault(rf"{path}: cannot be read as a picture"):
        check_dataset(NAME)


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("val2017/000001.jpg", "RGB"),
        ("panoptic_val2017/000001.png", "RGB"),
        ("panoptic_stuff_val2017/000001.png", "L"),
    ],
)
def test_a_file_of_another_size_is_named(coco, path, mode):
    Image.new(mode, (30, 16)).save(coco / path)
    with _fault(rf"{path}: is 30 x 16 pixels, but 24 x 16 by"):
        check_dataset(NAME)


def test_a_label_outside_the_classes_is_named(coco):
    path = coco / "panoptic_stuff_val2017/000004.png"
    labels = np.array(Image.open(path))
    labels[0, :3] = 3
    Image.fromarray(labels).save(path)
    with _fault(r"000004.png: .*labels 0 to 2, or 255 for void; .*the labels \[3\]"):
        check_dataset(NAME)


def test_a_colour_picture_as_semantic_png_is_named(coco):
    Image.new("RGB", (24, 16)).save(coco / "panoptic_stuff_val2017/000001.png")
    with _fault(r"000001.png: .*one channel .*shape \(16, 24, 3\)"):
        check_dataset(NAME)


def test_metadata_without_the_stuff_table_is_named(coco):
    delattr(MetadataCatalog.get(NAME), "stuff_dataset_id_to_contiguous_id")
    with _fault(rf"metadata of dataset '{NAME}' lacks stuff_dataset_id_to_contiguous_id"):
        check_dataset(NAME)


def test_wrong_areas_give_a_warning(coco, caplog):
    edit_json(
        coco / "annotations/panoptic_val2017.json",
        lambda c: c["annotations"][0]["segments_info"][2].update(area=2),
    )
    with caplog.at_level(logging.WARNING):
        check_dataset(NAME)
    assert "segment 5 has 24 pixels, but area 2" in caplog.text


def test_the_sample_is_spread_from_the_first_to_the_last_picture(coco):
    for number, found in ((1, True), (2, False), (4, True)):
        path = coco / f"panoptic_val2017/00000{number}.png"
        data = path.read_bytes()
        path.write_bytes(data[:50])
        if found:
            with _fault(path.name):
                check_dataset(NAME, max_pngs=2)
        else:
            check_dataset(NAME, max_pngs=2)
        path.write_bytes(data)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_pngs": 2}, "opened a sample of 2 of 4 pictures"),
        ({"max_pngs": None}, "opened all 4 pictures"),
        ({}, "opened all 4 pictures"),
    ],
)
def test_the_log_says_how_many_were_opened(coco, caplog, options, said):
    with caplog.at_level(logging.INFO, logger="rpanoptic"):
        check_dataset(NAME, **options)
    assert said in caplog.text


def test_a_dataset_without_files_passes():
    name = "rpanoptic_test_no_files"
    DatasetCatalog.register(name, list)
    try:
        check_dataset(name)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_the_synthetic_set_passes(synthetic_set, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(synthetic_set))
    check_dataset("synthetic_panoptic_train")
    check_dataset("synthetic_panoptic_val")


@pytest.mark.parametrize(
    "name",
    ["coco_2017_val_panoptic_separated", "coco_2017_val_panoptic_stuffonly", "coco_2017_val"],
)
def test_real_coco_passes_under_detectron2s_own_names(coco_layout, name):
    """In a process of its own: Detectron2 reads the variable when it is imported."""
    code = f"from rpanoptic.data import check_dataset; check_dataset({name!r})"
    environment = {**os.environ, "DETECTRON2_DATASETS": str(coco_layout)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=ROOT)


def test_real_coco_that_is_not_there_is_named():
    with _fault(r"coco/train2017: no such folder .*DETECTRON2_DATASETS"):
        check_dataset("coco_2017_train_panoptic_separated")
