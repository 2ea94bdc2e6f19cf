from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rpanoptic.data.convert.hold_out import hold_out
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.errors import DatasetError
from tests.data.convert.random_sets import inspection
from tests.data.helpers import edit_json, load_script, write_tiny_coco


@pytest.fixture
def panoptic_json(tmp_path: Path) -> Path:
    coco = write_tiny_coco(tmp_path, pictures=10)
    return coco / "annotations" / "panoptic_val2017.json"


def parts(panoptic_json: Path) -> tuple[Path, Path]:
    return panoptic_json.with_name("train.json"), panoptic_json.with_name("val.json")


def ids(path: Path) -> list[int]:
    content = json.loads(path.read_text())
    found = [annotation["image_id"] for annotation in content["annotations"]]
    assert [image["id"] for image in content["images"]] == found
    return found


def test_each_picture_is_in_one_part(panoptic_json: Path) -> None:
    def lose_one(content: dict[str, Any]) -> None:
        del content["annotations"][4]

    edit_json(panoptic_json, lose_one)
    report = hold_out(panoptic_json, *parts(panoptic_json), percent=30)
    train, held_out = (ids(part) for part in parts(panoptic_json))
    assert sorted(train + held_out) == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert (len(train), len(held_out)) == (report.train, report.held_out) == (6, 3)
    assert report.without_annotation == 1
    assert str(report) == "6 pictures to train on, 3 held out; 1 without annotation left out"
    coco = panoptic_json.parents[1]
    for part in parts(panoptic_json):
        source = PanopticSource(coco / "val2017", part, coco / "panoptic_val2017")
        assert inspection(source).errors == []


def test_the_choice_depends_on_ids_and_seed_alone(panoptic_json: Path) -> None:
    files = parts(panoptic_json)
    hold_out(panoptic_json, *files, percent=30)
    first = ids(files[1])
    edit_json(panoptic_json, lambda content: [content[k].reverse() for k in ("images",)])
    edit_json(panoptic_json, lambda content: content["annotations"].reverse())
    hold_out(panoptic_json, *files, percent=30, overwrite=True)
    assert ids(files[1]) == first[::-1]
    choices = set()
    for seed in range(4):
        hold_out(panoptic_json, *files, percent=30, seed=seed, overwrite=True)
        choices.add(frozenset(ids(files[1])))
    assert len(choices) > 1


def test_classes_that_only_held_out_pictures_have_are_told(panoptic_json: Path) -> None:
    files = parts(panoptic_json)
    hold_out(panoptic_json, *files)
    (held_out,) = ids(files[1])

    def add_class(content: dict[str, Any]) -> None:
        content["categories"].append({"id": 55, "name": "yeti", "isthing": 1})
        for annotation in content["annotations"]:
            if annotation["image_id"] == held_out:
                annotation["segments_info"][2]["category_id"] = 55

    edit_json(panoptic_json, add_class)
    report = hold_out(panoptic_json, *files, overwrite=True)
    assert report.missing_classes == ("yeti",)
    assert "only the held-out ones have yeti" in str(report)
    categories = [json.loads(file.read_text())["categories"] for file in files]
    assert categories[0] == categories[1]
    assert categories[0][-1]["name"] == "yeti"


@pytest.mark.parametrize("percent", [0, 100, 1, 99])
def test_a_part_without_pictures(panoptic_json: Path, percent: int) -> None:
    with pytest.raises(DatasetError, match=f"{percent}"):
        hold_out(panoptic_json, *parts(panoptic_json), percent=percent)
    assert not any(part.exists() for part in parts(panoptic_json))


def test_nothing_is_written_over(panoptic_json: Path) -> None:
    train, val = parts(panoptic_json)
    with pytest.raises(DatasetError, match="would replace an input"):
        hold_out(panoptic_json, panoptic_json, val, overwrite=True)
    with pytest.raises(DatasetError, match="need a file each"):
        hold_out(panoptic_json, val, val)
    val.write_text("mine")
    with pytest.raises(DatasetError, match="is there already"):
        hold_out(panoptic_json, train, val)
    assert val.read_text() == "mine"
    assert not train.exists()


def test_the_command(panoptic_json: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, val = parts(panoptic_json)
    script = load_script("datasets/convert_panoptic.py")
    words = ["hold-out", "--panoptic-json", panoptic_json, "--percent", 20]
    words += ["--output-train", train, "--output-held-out", val]
    assert script.main([str(word) for word in words]) == 0
    assert capsys.readouterr().out == "8 pictures to train on, 2 held out\n"
    assert script.main([str(word) for word in words]) == 2
