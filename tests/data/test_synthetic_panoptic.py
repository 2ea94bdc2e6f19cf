import contextlib
import filecmp
import io
import json
import multiprocessing
import time
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from panopticapi.evaluation import pq_compute_single_core
from panopticapi.utils import rgb2id
from PIL import Image

from rpanoptic.data.synthetic_classes import CLASSES, STUFF, THINGS
from rpanoptic.data.synthetic_panoptic import (
    MANIFEST,
    SyntheticParameters,
    build_synthetic_panoptic,
    read_manifest,
)
from rpanoptic.errors import DatasetError
from tests.data.helpers import load_script

TINY = SyntheticParameters(train=6, val=3, size=64, seed=11)


def _files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def _assert_same(first: Path, second: Path, names: list[str]) -> None:
    same, different, absent = filecmp.cmpfiles(first, second, names, shallow=False)
    assert (different, absent) == ([], [])
    assert len(same) == len(names) > 0


def _build(folder: Path, parameters: SyntheticParameters = TINY, **kwargs) -> bool:
    return build_synthetic_panoptic(folder, parameters, progress=False, **kwargs)


@pytest.mark.parametrize("split", ["train", "val"])
def test_png_json_and_masks_agree(synthetic_set, split):
    root = synthetic_set / "synthetic_panoptic"
    panoptic = json.loads((root / f"annotations/panoptic_{split}.json").read_text())
    instances = json.loads((root / f"annotations/instances_{split}.json").read_text())
    assert [c["id"] for c in panoptic["categories"]] == [c.id for c in CLASSES]
    assert [c["id"] for c in instances["categories"]] == [c.id for c in THINGS]
    assert panoptic["images"] == instances["images"]
    assert len({a["id"] for a in instances["annotations"]}) == len(instances["annotations"])
    assert min(a["id"] for a in instances["annotations"]) == 1
    stuff_labels = {item.id: 1 + i for i, item in enumerate(STUFF)}
    for image, annotation in zip(panoptic["images"], panoptic["annotations"], strict=True):
        assert annotation["image_id"] == image["id"]
        picture = Image.open(root / split / image["file_name"])
        assert picture.mode == "RGB" and picture.size == (image["width"], image["height"])
        ids = rgb2id(np.array(Image.open(root / f"panoptic_{split}" / annotation["file_name"])))
        semantic = np.array(Image.open(root / f"panoptic_stuff_{split}" / annotation["file_name"]))
        segments = annotation["segments_info"]
        assert set(np.unique(ids)) == {segment["id"] for segment in segments}
        expected = np.full_like(semantic, 255)
        things = []
        for segment in segments:
            mask = ids == segment["id"]
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert segment["area"] == mask.sum() and segment["bbox"] == box
            expected[mask] = stuff_labels.get(segment["category_id"], 0)
            if segment["category_id"] not in stuff_labels:
                things.append((segment, mask))
        assert np.array_equal(semantic, expected)
        records = [a for a in instances["annotations"] if a["image_id"] == image["id"]]
        for record, (segment, mask) in zip(records, things, strict=True):
            assert isinstance(record["segmentation"]["counts"], str)
            assert np.array_equal(mask_util.decode(record["segmentation"]), mask)
            for key in ("category_id", "area", "bbox", "iscrowd"):
                assert record[key] == segment[key]


def test_the_ground_truth_has_pq_100_by_panopticapi(synthetic_set):
    root = synthetic_set / "synthetic_panoptic"
    content = json.loads((root / "annotations/panoptic_train.json").read_text())
    pairs = [(a, json.loads(json.dumps(a))) for a in content["annotations"]]
    folder = str(root / "panoptic_train")
    categories = {item["id"]: item for item in content["categories"]}
    with contextlib.redirect_stdout(io.StringIO()):
        statistics = pq_compute_single_core(0, pairs, folder, folder, categories)
    for isthing in (True, False):
        averages, _ = statistics.pq_average(categories, isthing=isthing)
        assert averages == {"pq": 1.0, "sq": 1.0, "rq": 1.0, "n": 4}


def test_files_do_not_depend_on_workers(tmp_path):
    _build(tmp_path / "one", workers=1)
    _build(tmp_path / "two", workers=2)
    names = _files(tmp_path / "one")
    assert names == _files(tmp_path / "two")
    _assert_same(tmp_path / "one", tmp_path / "two", names)
    # Nothing temporary is left beside the sets.
    assert {entry.name for entry in tmp_path.iterdir()} == {"one", "two"}


def test_a_picture_does_not_depend_on_how_many_there_are(tmp_path):
    _build(tmp_path / "few")
    _build(tmp_path / "many", SyntheticParameters(train=9, val=4, size=64, seed=11))
    pictures = [name for name in _files(tmp_path / "few") if not name.endswith(".json")]
    _assert_same(tmp_path / "few", tmp_path / "many", pictures)


def test_seed_and_split_change_the_pictures(tmp_path):
    _build(tmp_path / "a")
    _build(tmp_path / "b", SyntheticParameters(train=6, val=3, size=64, seed=12))
    first = (tmp_path / "a/train/000000000001.jpg").read_bytes()
    assert first != (tmp_path / "b/train/000000000001.jpg").read_bytes()
    assert first != (tmp_path / "a/val/000000000001.jpg").read_bytes()


def test_an_interrupted_build_leaves_no_set_and_can_be_repeated(tmp_path, monkeypatch):
    import rpanoptic.data.synthetic_panoptic as module

    draw = module.draw_scene
    calls = []

    def fail_at_the_seventh(size, rng):
        calls.append(size)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return draw(size, rng)

    monkeypatch.setattr(module, "draw_scene", fail_at_the_seventh)
    with pytest.raises(KeyboardInterrupt):
        _build(tmp_path / "set")
    assert not (tmp_path / "set").exists()
    monkeypatch.setattr(module, "draw_scene", draw)
    assert _build(tmp_path / "set")
    _build(tmp_path / "reference")
    _assert_same(tmp_path / "set", tmp_path / "reference", _files(tmp_path / "reference"))
    assert _files(tmp_path / "set") == _files(tmp_path / "reference")


def _build_and_report(folder, queue):
    queue.put(_build(folder))


def test_of_several_processes_one_builds(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [
        context.Process(target=_build_and_report, args=(tmp_path / "set", queue)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    built = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert sorted(built) == [False, False, True]
    assert read_manifest(tmp_path / "set") is not None


def test_a_set_of_the_same_parameters_is_kept(tmp_path):
    assert _build(tmp_path / "set")
    stamp = (tmp_path / "set" / MANIFEST).stat().st_mtime_ns
    assert not _build(tmp_path / "set")
    assert (tmp_path / "set" / MANIFEST).stat().st_mtime_ns == stamp


def test_a_set_of_other_parameters_is_only_replaced_when_asked(tmp_path):
    folder = tmp_path / "set"
    _build(folder)
    other = SyntheticParameters(train=2, val=1, size=64, seed=3)
    with pytest.raises(DatasetError, match=r"set holds .* train 6, .* not train 2, .*--overwrite"):
        _build(folder, other)
    assert _build(folder, other, overwrite=True)
    assert len(list((folder / "train").iterdir())) == 2


def test_a_set_of_another_generator_version_is_refused(tmp_path):
    folder = tmp_path / "set"
    _build(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "version": 0}))
    with pytest.raises(DatasetError, match=r"set: .*version 0, this is version .*--overwrite"):
        read_manifest(folder)
    assert _build(folder, overwrite=True)


@pytest.mark.parametrize("text", ["not json", "[]", '{"version": 1}'])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(DatasetError, match=MANIFEST):
        read_manifest(tmp_path)


def test_a_folder_of_something_else_is_never_deleted(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(DatasetError, match="holds no synthetic panoptic set"):
            _build(tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"file/set: .* cannot be written"):
        _build(tmp_path / "file" / "set")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train": 0}, "train of at least 1, got 0"),
        ({"val": 0}, "val of at least 1"),
        ({"size": 32}, "size of at least 64, got 32"),
        ({"seed": -1}, "seed of at least 0"),
    ],
)
def test_impossible_parameters_are_named(changed, message):
    with pytest.raises(DatasetError, match=message):
        SyntheticParameters(**changed)


def test_a_core_draws_and_writes_many_pictures_a_second(tmp_path):
    """About 200 a second of processor time on a server's core. The limit is what an overloaded
    machine still reaches."""
    parameters = SyntheticParameters(train=60, val=1, size=160, seed=0)
    rates = []
    for attempt in range(3):
        begin = time.process_time()
        _build(tmp_path / str(attempt), parameters)
        rates.append(61 / (time.process_time() - begin))
    assert max(rates) > 50


def test_the_command_line_builds_repeats_and_reports_errors(tmp_path, capsys):
    script = load_script("datasets/prepare_synthetic_panoptic.py")
    options = ["--output", str(tmp_path / "set"), "--train", "2", "--val", "1", "--size", "64"]
    assert script.main([*options, "--workers", "1"]) == 0
    assert "written" in capsys.readouterr().out
    assert script.main([*options, "--workers", "2"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert script.main([*options, "--seed", "4"]) == 2
    assert "error: " in capsys.readouterr().err
    image = cv2.imread(str(tmp_path / "set/train/000000000002.jpg"))
    assert image.shape == (64, 64, 3)
