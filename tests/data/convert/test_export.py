import json
from collections import Counter
from pathlib import PurePosixPath

import numpy as np
import pytest

from rpanoptic.data.convert.classes_file import read_classes
from rpanoptic.data.convert.export import export_panoptic, new_file
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.errors import DatasetError
from tests.data.convert.random_sets import CATEGORIES, NAMES, write_random_set


@pytest.fixture
def source(tmp_path):
    return write_random_set(tmp_path)


def write_text(picture, folder):
    """A file with the number of segments, and a note for each of them."""
    assert picture.ids.shape == (picture.image["height"], picture.image["width"])
    assert set(np.unique(picture.ids)) - {0} == {one["id"] for one in picture.segments}
    new_file(folder, picture.key.with_suffix(".txt")).write_text(str(len(picture.segments)))
    return Counter({"segments": len(picture.segments)})


def export(source, output, write=write_text, **options):
    options = {"progress": False, **options}
    return export_panoptic(
        source.panoptic_json, source.panoptic_root, output, lambda classes: write, **options
    )


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_each_picture_gets_its_file_and_the_classes_are_listed(source, tmp_path):
    report = export(source, tmp_path / "out", workers=2)
    expected = [*(name.replace(".png", ".txt") for name in NAMES), "classes.csv"]
    assert files(tmp_path / "out") == sorted(expected)
    assert (report.pictures, report.unannotated, report.notes) == (2, 0, {"segments": 14})
    assert str(report) == "2 pictures; segments: 14"
    classes = read_classes(tmp_path / "out/classes.csv")
    assert classes == ClassTable.from_categories(CATEGORIES)


def test_after_a_fault_everything_is_as_it_was(source, tmp_path):
    (source.panoptic_root / NAMES[1]).unlink()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DatasetError, match=r"ulm.*\.png: no such file"):
        export(source, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old.txt").write_text("old")
    with pytest.raises(DatasetError, match=r"ulm.*\.png: no such file"):
        export(source, tmp_path / "out", overwrite=True)
    assert files(tmp_path / "out") == ["old.txt"]


def test_nothing_goes_where_something_is(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old.txt").write_text("old")
    with pytest.raises(DatasetError, match="out: holds files already"):
        export(source, tmp_path / "out")
    with pytest.raises(DatasetError, match="the output would go to where the input"):
        export(source, source.panoptic_root, overwrite=True)
    export(source, tmp_path / "out", overwrite=True)
    assert "old.txt" in files(tmp_path / "out")


def test_a_set_without_annotations_is_refused(source, tmp_path):
    content = json.loads(source.panoptic_json.read_text())
    source.panoptic_json.write_text(json.dumps({**content, "annotations": []}))
    with pytest.raises(DatasetError, match="has no annotations to convert"):
        export(source, tmp_path / "out")


def test_a_name_that_leads_out_is_refused_with_its_json(source, tmp_path):
    content = json.loads(source.panoptic_json.read_text())
    content["images"][0]["file_name"] = "../a.jpg"
    source.panoptic_json.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"panoptic\.json: picture '\.\./a\.jpg'"):
        export(source, tmp_path / "out")


def test_a_png_that_contradicts_its_json_is_refused(source, tmp_path):
    content = json.loads(source.panoptic_json.read_text())
    content["annotations"][0]["segments_info"].pop()
    source.panoptic_json.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="the PNG has segments that the JSON lacks"):
        export(source, tmp_path / "out")


def test_a_file_has_one_owner(tmp_path):
    new_file(tmp_path, PurePosixPath("a/b.txt"))
    with pytest.raises(DatasetError, match=r"two pictures would be written to the file a/b\.txt"):
        new_file(tmp_path, PurePosixPath("a/b.txt"))
