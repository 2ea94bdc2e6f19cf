"""What an evaluation of panoptic predictions writes."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from panopticapi.evaluation import pq_compute

from rpanoptic.evaluation.panoptic import PanopticEvaluator
from tests.evaluation.panoptic_sets import (
    CAR,
    DOG,
    NAME,
    ROAD,
    SKY,
    evaluate,
    hand_made,
    perfect,
    prediction,
    record,
)


def test_predictions_are_kept_in_cocos_format(two_panoptic_pictures: Path, tmp_path: Path) -> None:
    found = evaluate(hand_made(), tmp_path, keep_predictions=True)
    file = tmp_path / f"{NAME}_panoptic_predictions.json"
    # By its own default the PNGs are in the folder of the JSON's name.
    with contextlib.redirect_stdout(io.StringIO()):
        again = pq_compute(
            str(two_panoptic_pictures), str(file), str(two_panoptic_pictures.parent / "panoptic")
        )
    assert 100 * again["All"]["pq"] == pytest.approx(found["PQ"], abs=1e-9)
    kept = json.loads(file.read_text())
    assert {one["id"] for one in kept["categories"]} == {CAR, DOG, SKY, ROAD}
    first = kept["annotations"][0]["segments_info"][0]
    assert first == {"id": 1, "category_id": CAR, "area": 16, "iscrowd": 0}
    # An evaluation that is interrupted leaves no JSON that tells of other PNGs than there are.
    evaluator = PanopticEvaluator(NAME, tmp_path, keep_predictions=True)
    evaluator.process([record(1)], [perfect()[1]])
    assert not file.exists()
    evaluator.evaluate()
    assert len(json.loads(file.read_text())["annotations"]) == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_long_ids_of_pictures_are_kept_apart(two_panoptic_pictures: Path, tmp_path: Path) -> None:
    ids = ["\u732b" * 100 + end for end in "ab"]
    evaluator = PanopticEvaluator(NAME, tmp_path, keep_predictions=True)
    for image_id in ids:
        evaluator.process([record(image_id)], [perfect()[1]])
    evaluator.evaluate()
    kept = json.loads((tmp_path / f"{NAME}_panoptic_predictions.json").read_text())["annotations"]
    assert [one["image_id"] for one in kept] == ids
    assert len({one["file_name"] for one in kept}) == 2
    folder = tmp_path / f"{NAME}_panoptic_predictions"
    assert {file.name for file in folder.iterdir()} == {one["file_name"] for one in kept}


def test_a_folder_is_needed_to_keep_predictions(two_panoptic_pictures: Path) -> None:
    with pytest.raises(ValueError, match="needs a folder"):
        PanopticEvaluator(NAME, None, keep_predictions=True)


def test_files_and_the_table(
    two_panoptic_pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rpanoptic")
    evaluate(hand_made(), tmp_path / "not" / "there")
    names = {file.name for file in (tmp_path / "not" / "there").iterdir()}
    # Named by the dataset: those of several test sets do not overwrite each other.
    assert names == {f"{NAME}_panoptic_results.json", f"{NAME}_panoptic_confusion.png"}
    lines = [line.split() for line in caplog.text.splitlines()]
    assert ["car", "thing", "40.0", "80.0", "50.0", "1", "1", "1"] in lines
    assert ["road", "stuff", "-", "-", "-", "0", "0", "0"] in lines
    order = [line[0] for line in lines if line and line[0] in ("car", "dog", "sky", "road")]
    assert order == ["car", "dog", "sky", "road"]


def test_the_confusion_counts_pixels_by_class(
    two_panoptic_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []

    def note(pixels: np.ndarray, names: list[str], groups: tuple[int, int], **_: Any) -> Figure:
        drawn.append((pixels.tolist(), names, groups))
        return Figure()

    monkeypatch.setattr("rpanoptic.evaluation.panoptic.draw_confusion", note)
    second = np.zeros((10, 10))  # nothing predicted
    second[0:5, 0:4] = 5  # the dog
    second[6:10, 5:10] = 6  # the crowd of dogs, as a car
    evaluate({1: hand_made()[1], 2: prediction(second, [(5, DOG), (6, CAR)])}, tmp_path)
    ((pixels, names, groups),) = drawn
    assert (names, groups) == (["car", "dog", "sky", "road"], (2, 2))
    # Cars of the first picture: 16 + 8 of 40 pixels found; 12 of its sky are taken for a car.
    assert pixels == [
        [24, 0, 16, 0, 0],
        [20, 20, 0, 0, 0],
        [12, 0, 40, 0, 60],
        [0, 0, 0, 0, 0],
        [0, 0, 8, 0, 0],  # void
    ]
