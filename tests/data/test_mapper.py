import shutil
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, build_detection_test_loader
from PIL import Image

from rpanoptic.data import PanopticDatasetMapper
from rpanoptic.errors import DatasetError


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.INPUT.MIN_SIZE_TRAIN = (96,)
    cfg.INPUT.MIN_SIZE_TEST = 96
    cfg.INPUT.RANDOM_FLIP = "none"
    return cfg


@pytest.fixture
def record(synthetic_set, monkeypatch, tmp_path):
    """A record whose files may be damaged."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(synthetic_set))
    record = dict(DatasetCatalog.get("synthetic_panoptic_val")[0])
    for key in ("file_name", "sem_seg_file_name"):
        record[key] = shutil.copy(record[key], tmp_path)
    return record


@pytest.mark.parametrize("is_train", [True, False])
def test_a_sound_record_is_mapped_as_detectron2_maps_it(cfg, record, is_train):
    ours = PanopticDatasetMapper(cfg, is_train)(record)
    theirs = DatasetMapper(cfg, is_train)(record)
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["image"], theirs["image"])
    assert torch.equal(ours["sem_seg"], theirs["sem_seg"])
    if is_train:
        assert torch.equal(ours["instances"].gt_masks.tensor, theirs["instances"].gt_masks.tensor)
        assert len(ours["instances"]) > 0


@pytest.mark.parametrize("key", ["file_name", "sem_seg_file_name"])
@pytest.mark.parametrize("kept", [0.7, 0.0])
def test_a_truncated_file_is_named(cfg, record, key, kept):
    path = Path(record[key])
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(DatasetError, match=f"{path.name}: cannot be read as a picture"):
        PanopticDatasetMapper(cfg, True)(record)


@pytest.mark.parametrize("key", ["file_name", "sem_seg_file_name"])
def test_a_missing_file_is_named(cfg, record, key):
    Path(record[key]).unlink()
    with pytest.raises(DatasetError, match=f"{Path(record[key]).name}: no such file"):
        PanopticDatasetMapper(cfg, True)(record)


def test_a_picture_of_another_size_is_named(cfg, record):
    Image.new("RGB", (50, 40)).save(record["file_name"])
    with pytest.raises(DatasetError, match=f"{Path(record['file_name']).name}.*50, 40.*96, 96"):
        PanopticDatasetMapper(cfg, True)(record)


def test_a_semantic_png_of_another_size_is_named(cfg, record):
    Image.new("L", (50, 40)).save(record["sem_seg_file_name"])
    with pytest.raises(DatasetError, match=r"\.png: is 50 x 40 pixels, .* 96 x 96"):
        PanopticDatasetMapper(cfg, True)(record)


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("size", [(2000, 1), (1, 2000)])
def test_a_picture_of_which_resizing_leaves_nothing_is_named(cfg, tmp_path, size, is_train):
    path = tmp_path / "line.png"
    Image.new("RGB", size).save(path)
    cfg.INPUT.MAX_SIZE_TRAIN = cfg.INPUT.MAX_SIZE_TEST = 900
    mapper = PanopticDatasetMapper(cfg, is_train)
    with pytest.raises(DatasetError, match=rf"line\.png: {size[0]} x {size[1]} .* at most 900"):
        mapper({"file_name": str(path)})
    # From 1000 on a half is rounded up.
    cfg.INPUT.MAX_SIZE_TRAIN = cfg.INPUT.MAX_SIZE_TEST = 1000
    image = PanopticDatasetMapper(cfg, is_train)({"file_name": str(path)})["image"]
    assert sorted(image.shape) == [1, 3, 1000]


def test_an_error_that_no_file_causes_stays_as_it_is(cfg, record):
    record["annotations"] = [{"bbox": None}]
    with pytest.raises(KeyError, match="bbox_mode"):
        PanopticDatasetMapper(cfg, True)(record)


def test_the_error_comes_out_of_a_worker_process_with_type_and_file(cfg, record):
    Path(record["file_name"]).write_bytes(b"not a picture")
    mapper = PanopticDatasetMapper(cfg, False)
    loader = build_detection_test_loader([record], mapper=mapper, num_workers=1)
    with pytest.raises(DatasetError, match=rf"{Path(record['file_name']).name}: cannot be read"):
        list(loader)
