import json
import random
import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from rpanoptic.data import check_dataset, write_coco_splits
from rpanoptic.data.coco_splits import PERCENTAGES, reduced_ids, register_coco_split, split_name
from rpanoptic.errors import DatasetError
from tests.data.helpers import load_script, write_tiny_coco

FULL = "rpanoptic_test_full"
CATEGORIES = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]


def write_annotations(folder, ids, *, shuffle=None):
    """A panoptic and an instance JSON of made-up pictures; two things on each."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 4, "height": 4} for i in ids]
    segments = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 2}]
    panoptic = [
        {"image_id": i, "file_name": f"{i}.png", "segments_info": segments} for i in reversed(ids)
    ]
    things = [{"id": 2 * i + k, "image_id": i, "category_id": 1} for i in ids for k in (0, 1)]
    if shuffle is not None:
        for entries in (images, panoptic, things):
            random.Random(shuffle).shuffle(entries)
    paths = folder / "panoptic_train2017.json", folder / "instances_train2017.json"
    contents = (
        {"images": images, "annotations": panoptic, "categories": CATEGORIES},
        {"images": images, "annotations": things, "categories": CATEGORIES[:1]},
    )
    for path, content in zip(paths, contents, strict=True):
        path.write_text(json.dumps(content))
    return paths


def pictures_of(path):
    content = json.loads(path.read_text())
    listed = [image["id"] for image in content["images"]]
    assert len(set(listed)) == len(listed)
    assert {a["image_id"] for a in content["annotations"]} == set(listed)
    return set(listed)


def test_splits_have_their_size_and_lie_in_each_other(tmp_path):
    reports = write_coco_splits(*write_annotations(tmp_path, range(1, 1001)))
    assert [(r.percent, r.pictures) for r in reports] == [(1, 10), (10, 100), (25, 250), (50, 500)]
    smaller = set()
    for report in reports:
        panoptic, instances = report.files
        assert panoptic.name == f"panoptic_train2017_reduce_{report.percent}.json"
        assert report.written == report.files
        chosen = pictures_of(panoptic)
        assert len(chosen) == report.pictures
        assert pictures_of(instances) == chosen
        assert len(json.loads(instances.read_text())["annotations"]) == 2 * len(chosen)
        assert smaller < chosen
        smaller = chosen


def test_a_choice_depends_on_the_seed_alone():
    ids = list(range(200))
    chosen = reduced_ids(ids, 10)
    assert reduced_ids(reversed(ids), 10) == chosen
    assert reduced_ids(ids, 10, seed=1) != chosen
    # As sha256sum and sort give them; a change would change the splits of everybody.
    assert sorted(reduced_ids(ids, 2)) == [15, 44, 46, 87]


def test_files_do_not_depend_on_the_order_of_the_full_ones(tmp_path):
    made = []
    for folder, shuffle in (("a", None), ("b", 1)):
        paths = write_annotations(tmp_path / folder, range(1, 101), shuffle=shuffle)
        made.append([f.read_bytes() for r in write_coco_splits(*paths) for f in r.files])
    assert made[0] == made[1]
    assert json.loads(made[0][0])["info"] == {"reduced_to_percent": 1, "seed": 0}


def test_files_that_differ_are_kept_unless_told(tmp_path):
    paths = write_annotations(tmp_path, range(1, 101))
    reports = write_coco_splits(*paths)
    files = [file for report in reports for file in report.files]
    files[3].unlink()
    again = write_coco_splits(*paths)
    assert [file for report in again for file in report.written] == [files[3]]
    before = {file: file.read_bytes() for file in files}
    files[-1].unlink()
    with pytest.raises(DatasetError, match=r"reduce_1.json: is there and differs.*--overwrite"):
        write_coco_splits(*paths, seed=1)
    assert not files[-1].exists()
    assert all(file.read_bytes() == before[file] for file in files[:-1])
    replaced = write_coco_splits(*paths, seed=1, overwrite=True)
    assert all(report.written == report.files for report in replaced)
    assert sorted(tmp_path.iterdir()) == sorted([*paths, *files])


@pytest.mark.parametrize(
    ("percentages", "match"),
    [((0,), "1 to 99 %.*got 0"), ((100,), "got 100"), ((1,), "1 % of 20 pictures are none")],
)
def test_impossible_percentages_are_named(tmp_path, percentages, match):
    paths = write_annotations(tmp_path, range(1, 21))
    with pytest.raises(DatasetError, match=match):
        write_coco_splits(*paths, percentages)
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_faults_of_the_full_set_are_named(tmp_path):
    panoptic, instances = write_annotations(tmp_path, range(1, 101))
    content = json.loads(instances.read_text())
    content["images"] = content["images"][:40]
    instances.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"instances_train2017.json: lacks 60 pictures"):
        write_coco_splits(panoptic, instances)
    instances.write_text("[]")
    with pytest.raises(DatasetError, match=r"instances_train2017.json: no COCO instance JSON"):
        write_coco_splits(panoptic, instances)
    instances.unlink()
    with pytest.raises(DatasetError, match=r"no such file.*prepare_coco_panoptic.py"):
        write_coco_splits(panoptic, instances)
    panoptic.unlink()
    with pytest.raises(DatasetError, match=r"panoptic_train2017.json: cannot be read"):
        write_coco_splits(panoptic, instances)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def register():
    """Register a prepared COCO folder as ``FULL``, and forget it and its split afterwards."""

    def register_full(coco, split, **classes):
        DatasetCatalog.register(FULL, list)
        MetadataCatalog.get(FULL).set(
            image_root=str(coco / split),
            panoptic_root=str(coco / f"panoptic_{split}"),
            panoptic_json=str(coco / f"annotations/panoptic_{split}.json"),
            sem_seg_root=str(coco / f"panoptic_stuff_{split}"),
            json_file=str(coco / f"annotations/instances_{split}.json"),
            evaluator_type="coco_panoptic_seg",
            ignore_label=255,
            **classes,
        )

    yield register_full
    for name in (FULL, split_name(50, FULL)):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_a_split_loads_and_passes_the_check(tmp_path, register):
    coco = write_tiny_coco(tmp_path, pictures=6)
    script = load_script("datasets/prepare_coco_panoptic.py")
    assert script.main(["--root", str(coco), "--splits", "val2017", "--workers", "1"]) == 0
    register(
        coco,
        "val2017",
        thing_classes=["cat"],
        stuff_classes=["things", "grass", "sky"],
        thing_dataset_id_to_contiguous_id={3: 0},
        stuff_dataset_id_to_contiguous_id={7: 1, 9: 2, 0: 0},
    )
    name = register_coco_split(50, FULL)
    assert register_coco_split(50, FULL) == name == f"{FULL}_reduce_50"
    with pytest.raises(DatasetError, match=r"_reduce_50.json: .*datasets/prepare_coco_splits.py"):
        check_dataset(name)
    full = MetadataCatalog.get(FULL)
    (report,) = write_coco_splits(Path(full.panoptic_json), Path(full.json_file), [50])
    check_dataset(name)
    records = DatasetCatalog.get(name)
    assert {record["image_id"] for record in records} == pictures_of(report.files[0])
    assert all("sem_seg_file_name" in r and len(r["annotations"]) == 2 for r in records)


def test_real_coco_can_be_split(coco_layout, tmp_path, register):
    coco = tmp_path / "coco"
    shutil.copytree(coco_layout / "coco", coco)
    full = MetadataCatalog.get("coco_2017_val_panoptic_separated")
    classes = (
        "thing_classes",
        "stuff_classes",
        "thing_dataset_id_to_contiguous_id",
        "stuff_dataset_id_to_contiguous_id",
    )
    register(coco, "val2017", **{key: full.get(key) for key in classes})
    annotations = coco / "annotations"
    write_coco_splits(
        annotations / "panoptic_val2017.json", annotations / "instances_val2017.json", [50]
    )
    name = register_coco_split(50, FULL)
    check_dataset(name)
    assert len(DatasetCatalog.get(name)) == 1


def test_the_papers_names_are_registered():
    for percent in PERCENTAGES:
        name = f"coco_2017_train_panoptic_separated_reduce_{percent}"
        assert name in DatasetCatalog
        metadata = MetadataCatalog.get(name)
        assert metadata.name == name
        assert len(metadata.thing_classes) == 80 and len(metadata.stuff_classes) == 54
        assert metadata.json_file.endswith(f"instances_train2017_reduce_{percent}.json")
        assert metadata.image_root.endswith("coco/train2017")


def test_the_command(tmp_path, capsys):
    script = load_script("datasets/prepare_coco_splits.py")
    root = ["--root", str(tmp_path)]
    assert script.main(root) == 2
    assert "panoptic_train2017.json: cannot be read" in capsys.readouterr().err
    write_annotations(tmp_path / "annotations", range(1, 101))
    assert script.main(root) == 0
    assert "reduce_25.json: 25 pictures (25 %), written" in capsys.readouterr().out
    assert script.main(root) == 0
    assert "written" not in capsys.readouterr().out
    assert script.main([*root, "--seed", "1"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert script.main([*root, "--seed", "1", "--overwrite"]) == 0
