import errno
import json
import os

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json, load_sem_seg
from detectron2.data.datasets.coco_panoptic import merge_to_panoptic
from panopticapi.utils import rgb2id
from PIL import Image

from rpanoptic.data import coco_panoptic, prepare_coco_panoptic
from rpanoptic.errors import DatasetError
from tests.data.helpers import add_segment, edit_json, load_script, write_tiny_coco


@pytest.fixture
def coco(tmp_path):
    return write_tiny_coco(tmp_path)


def _prepare(coco, **kwargs):
    return prepare_coco_panoptic(
        coco / "annotations/panoptic_val2017.json",
        coco / "panoptic_val2017",
        coco / "panoptic_stuff_val2017",
        coco / "annotations/instances_val2017.json",
        progress=False,
        **kwargs,
    )


def test_semantic_pngs_number_stuff_by_category_and_mark_void(coco):
    report = _prepare(coco)
    assert (report.pictures, report.written, report.stuff_classes) == (3, 3, 2)
    labels = np.array(Image.open(coco / "panoptic_stuff_val2017/000002.png"))
    expected = np.full((16, 24), 2)
    expected[8:] = 1
    expected[6:10, 2:8] = expected[12:15, 10:15] = 0
    expected[:, 22:] = 255
    assert labels.dtype == np.uint8 and np.array_equal(labels, expected)


def test_missing_instances_are_made_from_the_pngs(coco):
    assert _prepare(coco).instances == 6
    content = json.loads((coco / "annotations/instances_val2017.json").read_text())
    assert [category["id"] for category in content["categories"]] == [3]
    assert [annotation["id"] for annotation in content["annotations"]] == [1, 2, 3, 4, 5, 6]
    cat, crowd = (a for a in content["annotations"] if a["image_id"] == 2)
    assert (cat["iscrowd"], cat["area"], cat["bbox"]) == (0, 24, [2, 6, 6, 4])
    assert (crowd["iscrowd"], crowd["area"], crowd["bbox"]) == (1, 15, [10, 12, 5, 3])
    mask = np.zeros((16, 24))
    mask[6:10, 2:8] = 1
    assert np.array_equal(mask_util.decode(cat["segmentation"]), mask)


def test_instances_that_are_there_are_kept(coco):
    path = coco / "annotations/instances_val2017.json"
    path.write_text(json.dumps({"categories": [{"id": 3}], "images": [], "annotations": []}))
    before = path.read_bytes()
    assert _prepare(coco).instances is None
    assert path.read_bytes() == before


def test_instances_with_stuff_categories_are_refused(coco):
    path = coco / "annotations/instances_val2017.json"
    path.write_text(json.dumps({"categories": [{"id": 3}, {"id": 7}]}))
    with pytest.raises(DatasetError, match=r"instances_val2017.json: .*superfluous: \[7\]"):
        _prepare(coco)


def test_a_second_run_keeps_whole_pngs_and_redoes_torn_ones(coco):
    _prepare(coco)
    folder = coco / "panoptic_stuff_val2017"
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    stamp = (folder / "000001.png").stat().st_mtime_ns
    (folder / "000002.png").write_bytes(whole["000002.png"][:-5])
    (folder / "000003.png").unlink()
    assert _prepare(coco).written == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert (folder / "000001.png").stat().st_mtime_ns == stamp
    assert _prepare(coco).written == 0
    assert _prepare(coco, overwrite=True).written == 3


def test_a_png_of_another_size_is_redone(coco):
    _prepare(coco)
    target = coco / "panoptic_stuff_val2017/000001.png"
    Image.new("L", (8, 8)).save(target)
    assert _prepare(coco).written == 1
    assert Image.open(target).size == (24, 16)


@pytest.mark.parametrize("mode", ["RGB", "P", "1", "I;16", "LA"])
def test_a_png_of_another_kind_is_redone(coco, mode):
    _prepare(coco)
    target = coco / "panoptic_stuff_val2017/000001.png"
    whole = target.read_bytes()
    Image.new(mode, (24, 16)).save(target)
    assert target.read_bytes() != whole
    assert _prepare(coco).written == 1
    assert target.read_bytes() == whole


def test_an_output_in_the_place_of_an_input_is_refused(coco):
    (coco / "link").symlink_to(coco / "panoptic_val2017")
    annotations = coco / "annotations/panoptic_val2017.json"
    instances = coco / "annotations/instances_val2017.json"
    sources = annotations, coco / "panoptic_val2017"
    before = {path: path.read_bytes() for path in coco.rglob("*.*")}
    for output, made in ((coco / "panoptic_val2017", instances), (coco / "link", instances)):
        with pytest.raises(DatasetError, match=f"{output}: the semantic PNGs would overwrite"):
            prepare_coco_panoptic(*sources, output, made, overwrite=True, progress=False)
    with pytest.raises(DatasetError, match="the instance JSON would overwrite the panoptic JSON"):
        prepare_coco_panoptic(
            *sources, coco / "semantic", annotations, overwrite=True, progress=False
        )
    assert {path: path.read_bytes() for path in coco.rglob("*.*")} == before


def test_files_do_not_depend_on_workers(tmp_path):
    results = []
    for workers in (1, 2):
        coco = write_tiny_coco(tmp_path / str(workers), pictures=5)
        _prepare(coco, workers=workers)
        made = [
            *sorted((coco / "panoptic_stuff_val2017").iterdir()),
            coco / "annotations/instances_val2017.json",
        ]
        results.append([(path.name, path.read_bytes()) for path in made])
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_segment, r"000002.png: the JSON has segments that the PNG lacks: 424242"),
        (
            lambda c: c["annotations"][1]["segments_info"].pop(0),
            r"000002.png: the PNG has segments that the JSON lacks: 70000",
        ),
        (
            lambda c: c["annotations"][1]["segments_info"][0].update(category_id=99),
            r"segment 70000 of 000002.png has category 99",
        ),
        (
            lambda c: c["annotations"][1].update(file_name="absent.png"),
            r"panoptic_val2017/absent.png: no such file",
        ),
        (lambda c: c["annotations"][1].update(image_id=77), r"000002.png belongs to image 77"),
        (lambda c: c["annotations"][1].update(image_id=1), r"image 1 has two annotations"),
        (lambda c: c["images"][1].update(width=25), r"000002.png: is 24 x 16 .* says 25 x 16"),
        (lambda c: c.pop("categories"), r"panoptic_val2017.json: no COCO panoptic JSON"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_contradictions_are_named(coco, change, message, workers):
    edit_json(coco / "annotations/panoptic_val2017.json", change)
    with pytest.raises(DatasetError, match=message):
        _prepare(coco, workers=workers)
    assert not (coco / "annotations/instances_val2017.json").exists()


def test_a_torn_panoptic_png_is_named(coco):
    path = coco / "panoptic_val2017/000003.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DatasetError, match=r"000003.png: cannot be read"):
        _prepare(coco)


def test_a_semantic_png_in_the_place_of_a_panoptic_one_is_named(coco):
    Image.new("L", (24, 16)).save(coco / "panoptic_val2017/000001.png")
    with pytest.raises(DatasetError, match=r"000001.png: a panoptic PNG has three 8-bit channels"):
        _prepare(coco)


def test_missing_files_are_named(coco, tmp_path):
    script = load_script("datasets/prepare_coco_panoptic.py")
    assert script.main(["--root", str(tmp_path / "nowhere"), "--splits", "val2017"]) == 2
    (coco / "panoptic_val2017").rename(coco / "elsewhere")
    with pytest.raises(DatasetError, match=r"panoptic_val2017: no such folder"):
        _prepare(coco)


def test_more_stuff_than_eight_bits_hold_is_refused_before_anything_is_written(coco):
    """The 255th would look as void."""
    path = coco / "annotations/panoptic_val2017.json"
    more = [{"id": number, "name": f"stuff {number}", "isthing": 0} for number in range(10, 263)]
    edit_json(path, lambda content: content["categories"].extend(more))
    with pytest.raises(DatasetError, match=rf"{path}: 255 stuff classes"):
        _prepare(coco)
    assert not (coco / "panoptic_stuff_val2017").exists()


def test_a_full_disk_is_told_with_the_folder(coco, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(coco_panoptic, "write_atomically", full)
    with pytest.raises(DatasetError, match=rf"cannot write to {coco}: No space left on device"):
        _prepare(coco)


def test_the_command_line_takes_splits_or_explicit_paths(coco, tmp_path, capsys):
    script = load_script("datasets/prepare_coco_panoptic.py")
    assert script.main(["--root", str(coco), "--splits", "val2017", "--workers", "1"]) == 0
    assert "3 semantic PNGs (3 new), 2 stuff classes" in capsys.readouterr().out
    paths = [
        *("--panoptic-json", str(coco / "annotations/panoptic_val2017.json")),
        *("--panoptic-root", str(coco / "panoptic_val2017")),
        *("--output-sem-seg", str(tmp_path / "semantic")),
        *("--output-instances", str(tmp_path / "instances.json")),
    ]
    assert script.main(paths) == 0
    assert len(list((tmp_path / "semantic").glob("*.png"))) == 3
    with pytest.raises(SystemExit, match="2"):
        script.main(paths[:2])
    assert "explicit paths go together" in capsys.readouterr().err


class TestRealPictures:
    """The two sample pictures of COCO val2017, against Detectron2's own tables."""

    def test_semantic_labels_follow_detectron2(self, coco_layout):
        coco = coco_layout / "coco"
        content = json.loads((coco / "annotations/panoptic_val2017.json").read_text())
        metadata = MetadataCatalog.get("coco_2017_val_panoptic_separated")
        table = metadata.stuff_dataset_id_to_contiguous_id
        assert len(metadata.stuff_classes) == 54
        for annotation in content["annotations"]:
            ids = rgb2id(np.array(Image.open(coco / "panoptic_val2017" / annotation["file_name"])))
            path = coco / "panoptic_stuff_val2017" / annotation["file_name"]
            labels = np.array(Image.open(path))
            assert np.array_equal(labels == 255, ids == 0)
            for segment in annotation["segments_info"]:
                expected = table.get(segment["category_id"], 0)
                assert set(np.unique(labels[ids == segment["id"]])) == {expected}

    def test_instances_agree_with_the_panoptic_json(self, coco_layout):
        coco = coco_layout / "coco"
        panoptic = json.loads((coco / "annotations/panoptic_val2017.json").read_text())
        instances = json.loads((coco / "annotations/instances_val2017.json").read_text())
        things = {c["id"] for c in panoptic["categories"] if c["isthing"]}
        segments = [
            (annotation["image_id"], s["category_id"], s["iscrowd"], s["area"], s["bbox"])
            for annotation in panoptic["annotations"]
            for s in annotation["segments_info"]
            if s["category_id"] in things
        ]
        made = [
            (a["image_id"], a["category_id"], a["iscrowd"], a["area"], a["bbox"])
            for a in instances["annotations"]
        ]
        assert made == segments
        assert len(made) == 15 + 28 and sum(crowd for _, _, crowd, _, _ in made) == 3

    def test_masks_agree_with_the_published_detection_form(self, coco_layout, coco_sample):
        path = coco_layout / "coco/annotations/instances_val2017.json"
        made = json.loads(path.read_text())["annotations"]
        reference = json.loads((coco_sample / "panoptic_coco_detection_format.json").read_text())
        published = {(a["image_id"], a["segmentation"]["counts"]) for a in reference["annotations"]}
        assert {(a["image_id"], a["segmentation"]["counts"]) for a in made} <= published

    def test_detectron2_loads_them(self, coco_layout):
        coco = coco_layout / "coco"
        name = "rpanoptic_test_coco_sample"
        try:
            records = merge_to_panoptic(
                load_coco_json(
                    str(coco / "annotations/instances_val2017.json"), str(coco / "val2017"), name
                ),
                load_sem_seg(str(coco / "panoptic_stuff_val2017"), str(coco / "val2017")),
            )
            loaded, builtin = (
                MetadataCatalog.get(n) for n in (name, "coco_2017_val_panoptic_separated")
            )
            assert len(records) == 2
            for key in ("thing_classes", "thing_dataset_id_to_contiguous_id"):
                assert loaded.get(key) == builtin.get(key)
        finally:
            MetadataCatalog.remove(name)
