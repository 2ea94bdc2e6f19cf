from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from rpanoptic.data.inspection import Inspection
from tests.data.helpers import load_script
from tests.data.inspection.small_set import SmallSet

tool = load_script("tools/check_dataset.py")


@pytest.fixture
def data(tmp_path: Path) -> SmallSet:
    return SmallSet(tmp_path)


def paths(data: SmallSet) -> list[str]:
    """The three paths of a set, as it now is."""
    data.source.panoptic_json.write_text(json.dumps(data.content))
    return [str(path) for path in vars(data.source).values()]


def check(*argv: object) -> int:
    return tool.main([*map(str, argv), "--workers", "1"])


def test_a_sound_set_has_status_0(data: SmallSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(*paths(data)) == 0
    text = capsys.readouterr().out
    assert re.search(r"pictures +3, annotated 3\n", text)
    assert re.search(r"segments +12, crowds 3\n", text)
    # Three cats of 24 pixels and three crowds of 15, of three pictures of 384.
    assert re.search(r" 3 +cat +thing +6 +3 +3 +10.16%\n", text)
    assert re.search(r"errors +0\nwarnings +0\nnotes +0\n", text)


def test_the_status_is_that_of_the_worst_finding(
    data: SmallSet, capsys: pytest.CaptureFixture[str]
) -> None:
    del data.segments()[0]["area"]
    assert check(*paths(data)) == 0
    data.segments()[1]["area"] = 1
    assert check(*paths(data)) == 1
    data.png(2).unlink()
    capsys.readouterr()
    assert check(*paths(data)) == 2
    text = capsys.readouterr().out
    rows = re.findall(r"^(error|warning|note) +(\w+) +(\d+) ", text, flags=re.MULTILINE)
    assert rows == [
        ("error", "png_missing", "1"),
        ("warning", "area_mismatch", "1"),
        ("note", "missing_area", "1"),
    ]
    assert "error png_missing: 000003.png: is not there" in text


def test_examples_are_limited(data: SmallSet, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        data.segments(number)[0]["area"] = 1
    assert check(*paths(data), "--examples", 1) == 1
    text = capsys.readouterr().out
    assert text.count("warning area_mismatch: ") == 2
    assert "warning area_mismatch: 2 more" in text


def test_report_and_preview(data: SmallSet, tmp_path: Path) -> None:
    data.segments()[1]["area"] = 1
    report, preview = tmp_path / "new" / "check.json", tmp_path / "new" / "check.png"
    assert check(*paths(data), "--report", report, "--preview", preview, "--pictures", 2) == 1
    assert Inspection.from_dict(json.loads(report.read_text())) == data.inspect()
    assert Image.open(preview).width == 2 * 448 + 8


def test_stats(data: SmallSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(*paths(data), "--stats") == 0
    assert re.search(r"[\d.]+ s; peak memory \d+ MiB", capsys.readouterr().out)


def test_a_name_of_a_config_whose_data_is_broken(
    data: SmallSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.categories[0]["isthing"] = "yes"
    entry = dict(zip(("IMAGES", "JSON", "PNGS"), paths(data), strict=True))
    config = tmp_path / "own.yaml"
    config.write_text(json.dumps({"DATASETS": {"PANOPTIC": [{"NAME": "own", **entry}]}}))
    assert check("own", "--config-file", config) == 2
    assert "wrong_flag" in capsys.readouterr().out
    assert check("other", "--config-file", config) == 2
    error = capsys.readouterr().err
    assert "own.yaml has no dataset 'other' in DATASETS.PANOPTIC; it has own." in error


def test_a_registered_name(synthetic_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(synthetic_set))
    assert check("synthetic_panoptic_val") == 0


def test_a_registered_name_without_files_tells_where_they_belong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = MetadataCatalog.get("coco_2017_val_panoptic_separated")
    if Path(metadata.image_root).is_dir():
        pytest.skip("COCO is there")
    assert check("coco_2017_val_panoptic_separated") == 2
    error = capsys.readouterr().err
    assert f"error: {metadata.image_root}: no such folder" in error
    assert "DETECTRON2_DATASETS" in error


def test_input_that_cannot_be_used_is_one_message(
    data: SmallSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, file, pngs = paths(data)
    other = tmp_path / "other.json"
    other.write_text("[]")
    cases = [
        (
            ["synthetic_panoptic_vl"],
            "There is no registered dataset 'synthetic_panoptic_vl'. Close",
        ),
        (["pathfinder_14_val"], "dataset 'pathfinder_14_val' is no panoptic dataset"),
        ([tmp_path / "none", file, pngs], "none: no such folder of the pictures"),
        ([images, tmp_path / "none.json", pngs], "none.json: no such file"),
        ([images, file, tmp_path / "none"], "none: no such folder of the panoptic PNGs"),
        ([file, images, pngs], ".json: is a file, not the folder of the pictures. The three are,"),
        ([images, pngs, file], ": is a folder, not the file of the panoptic annotations"),
        ([images, other, pngs], "no COCO panoptic JSON"),
        ([images, file, pngs, "--report", tmp_path], "is a folder, not a file"),
        ([images, file, pngs, "--preview", other / "a.png"], "--preview: cannot write to"),
        (["own", "--config-file", tmp_path / "none.yaml"], "none.yaml does not exist"),
    ]
    for argv, message in cases:
        assert check(*argv) == 2
        captured = capsys.readouterr()
        assert message in captured.err and captured.out == ""
        assert captured.err.count("error: ") == 1


def test_two_paths_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        tool.main(["a", "b"])
    assert caught.value.code == 2
    assert "NAME, or IMAGES JSON PNGS, was expected, got 2 words" in capsys.readouterr().err
