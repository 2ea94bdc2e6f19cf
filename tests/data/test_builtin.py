import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, SemSegEvaluator
from PIL import Image

import rpanoptic.data
from rpanoptic.data import SYNTHETIC_DATASETS, builtin
from rpanoptic.data.synthetic_panoptic import SyntheticParameters
from rpanoptic.errors import DatasetError
from rpanoptic.evaluation.panoptic import PanopticEvaluator
from tests.paths import ROOT

TRAIN, VAL = "synthetic_panoptic_train", "synthetic_panoptic_val"


@pytest.fixture
def use(monkeypatch):
    """Choose the folder of datasets for one test."""
    return lambda folder: monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))


@pytest.fixture
def tiny_default(monkeypatch):
    """First use builds a set of 3 + 2 pictures."""
    import rpanoptic.data.synthetic_panoptic as module

    build = module.build_synthetic_panoptic
    tiny = SyntheticParameters(train=3, val=2, size=64)
    monkeypatch.setattr(module, "build_synthetic_panoptic", lambda folder: build(folder, tiny))


def test_metadata_has_every_key(synthetic_set, use):
    use(synthetic_set)
    metadata = MetadataCatalog.get(TRAIN)
    assert metadata.evaluator_type == "coco_panoptic_seg"
    assert metadata.thing_classes == ["disk", "square", "triangle", "star"]
    assert metadata.stuff_classes == ["things", "stripes", "checks", "dots", "clouds"]
    assert len(metadata.thing_colors) == 4 and len(metadata.stuff_colors) == 5
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 3: 2, 4: 3}
    assert metadata.stuff_dataset_id_to_contiguous_id == {0: 0, 5: 1, 6: 2, 7: 3, 8: 4}
    assert metadata.ignore_label == 255 and metadata.label_divisor == 1000
    root = synthetic_set / "synthetic_panoptic"
    assert metadata.image_root == str(root / "train")
    assert metadata.as_dict()["sem_seg_root"] == str(root / "panoptic_stuff_train")


def test_records_have_what_training_and_drawing_need(synthetic_set, use):
    use(synthetic_set)
    records = DatasetCatalog.get(TRAIN)
    assert len(records) == 24
    for record in records:
        assert (record["height"], record["width"]) == (96, 96)
        assert {annotation["category_id"] for annotation in record["annotations"]} <= set(range(4))
        for key in ("file_name", "sem_seg_file_name", "pan_seg_file_name"):
            assert Path(record[key]).is_file()
        things = [segment for segment in record["segments_info"] if segment["isthing"]]
        assert [segment["category_id"] for segment in things] == [
            annotation["category_id"] for annotation in record["annotations"]
        ]
        stuff = {s["category_id"] for s in record["segments_info"] if not s["isthing"]}
        labels = np.array(Image.open(record["sem_seg_file_name"]))
        assert set(np.unique(labels)) == stuff | {0}


def test_the_variable_is_read_at_each_use(synthetic_set, tmp_path, use, tiny_default):
    use(synthetic_set)
    assert len(DatasetCatalog.get(VAL)) == 8
    use(tmp_path)
    assert len(DatasetCatalog.get(VAL)) == 2
    assert MetadataCatalog.get(VAL).json_file.startswith(str(tmp_path))
    use(synthetic_set)
    assert len(DatasetCatalog.get(VAL)) == 8


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: COCOEvaluator(VAL, output_dir=str(folder), use_fast_impl=False),
        lambda folder: SemSegEvaluator(VAL, output_dir=str(folder)),
        lambda folder: PanopticEvaluator(VAL, folder),
    ],
)
def test_an_evaluator_may_come_first(tmp_path, use, tiny_default, make):
    use(tmp_path / "not" / "there" / "yet")
    with contextlib.redirect_stdout(io.StringIO()):
        make(tmp_path)
    assert len(DatasetCatalog.get(VAL)) == 2


def test_registering_again_changes_nothing():
    before = {name: MetadataCatalog.get(name) for name in SYNTHETIC_DATASETS}
    rpanoptic.data.register_synthetic_panoptic()
    assert {name: MetadataCatalog.get(name) for name in SYNTHETIC_DATASETS} == before


def test_importing_builds_nothing(tmp_path):
    code = (
        "import rpanoptic.data; "
        "from detectron2.data import MetadataCatalog as M; "
        f"assert M.get({TRAIN!r}).thing_classes"
    )
    environment = {**os.environ, "DETECTRON2_DATASETS": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=ROOT)
    assert list(tmp_path.iterdir()) == []


def test_a_set_of_another_version_is_named_on_use(tmp_path, use, tiny_default):
    use(tmp_path)
    DatasetCatalog.get(VAL)
    manifest = tmp_path / "synthetic_panoptic" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 0'))
    for action in (lambda: DatasetCatalog.get(VAL), lambda: MetadataCatalog.get(VAL).json_file):
        with pytest.raises(DatasetError, match=r"synthetic_panoptic: .*version 0"):
            action()


def test_missing_opencv_is_named(tmp_path, use, monkeypatch):
    use(tmp_path)
    monkeypatch.delitem(sys.modules, "rpanoptic.data.synthetic_panoptic", raising=False)
    monkeypatch.delattr(rpanoptic.data, "synthetic_panoptic", raising=False)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DatasetError, match="pip install opencv-python-headless"):
        builtin.ensure_synthetic_panoptic()
