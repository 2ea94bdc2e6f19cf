"""The panoptic evaluator: an example counted by hand, panopticapi's own figures, odd inputs."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from panopticapi.evaluation import pq_compute
from PIL import Image

from rpanoptic.data.panoptic_format import panoptic_rgb, read_panoptic_png
from rpanoptic.errors import ConfigError, DatasetError
from rpanoptic.evaluation.panoptic import PanopticEvaluator
from tests.evaluation.panoptic_sets import (
    CAR,
    DOG,
    NAME,
    ROAD,
    SKY,
    THINGS,
    annotation,
    change,
    evaluate,
    hand_made,
    perfect,
    prediction,
    random_picture,
    random_prediction,
    record,
    registered,
    two_pictures,
    write_truth,
)

KEYS = [f"{measure}{group}" for group in ("", "_th", "_st") for measure in ("PQ", "SQ", "RQ")]


def test_an_example_counted_by_hand(two_panoptic_pictures: Path) -> None:
    found = evaluate(hand_made())
    # Cars: one match of IoU 0.8, one false positive, one false negative.
    car_sq, car_rq = 0.8, 1 / (1 + 0.5 + 0.5)
    # Dogs: one exact match. The second is a false positive by panopticapi's rule unless more than
    # half of it is void or crowd of its class; all of it is.
    dog_sq, dog_rq = 1.0, 1.0
    # Sky. First picture: 52 of the truth, 64 - 8 void = 56 predicted that count. 52 less the 12
    # that the second car takes are common. Second picture: all 60.
    first_sky = 40 / (52 + 56 - 40)
    sky_sq, sky_rq = (first_sky + 1.0) / 2, 1.0
    expected = {
        "PQ_th": (car_sq * car_rq + dog_sq * dog_rq) / 2,
        "SQ_th": (car_sq + dog_sq) / 2,
        "RQ_th": (car_rq + dog_rq) / 2,
        "PQ_st": sky_sq * sky_rq,
        "SQ_st": sky_sq,
        "RQ_st": sky_rq,
    }
    assert first_sky > 0.5  # else it would be no match
    assert list(found) == KEYS
    for key, value in expected.items():
        assert found[key] == pytest.approx(100 * value, rel=1e-9), key
    pq = (car_sq * car_rq + dog_sq * dog_rq + sky_sq * sky_rq) / 3
    assert found["PQ"] == pytest.approx(100 * pq, rel=1e-9)


def test_a_picture_without_any_segment_counts_as_missed(two_panoptic_pictures: Path) -> None:
    nothing = prediction(np.zeros((10, 10)), [])
    found = evaluate({1: nothing, 2: perfect()[2]})
    # Both cars and one of two skies are missed; what is left is exact.
    assert found["PQ_th"] == pytest.approx(100 * (0 + 1) / 2)
    assert found["SQ_st"] == pytest.approx(100)
    assert found["PQ_st"] == pytest.approx(100 / 1.5)


@pytest.mark.parametrize("seed", range(8))
def test_random_segmentations_give_panopticapis_figures(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    # The groups of panopticapi must not be empty, so one picture has both.
    pictures: dict[int, Any] = dict(two_pictures())
    pictures |= {image_id: random_picture(random) for image_id in range(3, 11)}
    file, pngs = write_truth(tmp_path / "truth", pictures)
    folder = tmp_path / "predicted"
    folder.mkdir()
    written, outputs = [], {}
    for image_id, (ids, segments) in pictures.items():
        found, kept = random_prediction(ids, segments, random)
        outputs[image_id] = prediction(found, kept)
        entry = annotation(image_id, found, [(i, category, False) for i, category in kept])
        written.append(entry)
        Image.fromarray(panoptic_rgb(found)).save(folder / entry["file_name"])
    predicted = tmp_path / "predicted.json"
    predicted.write_text(json.dumps({"annotations": written}))
    with contextlib.redirect_stdout(io.StringIO()):
        own = pq_compute(str(file), str(predicted), str(pngs), str(folder))
    with registered(NAME, file, pngs):
        figures = evaluate(outputs, tmp_path / "out")
    # panopticapi adds the same numbers, by the share of each of its processes: the order of a sum
    # of a few dozen IoUs below 1 changes it by far less than 1e-9.
    groups = {"": own["All"], "_th": own["Things"], "_st": own["Stuff"]}
    for suffix, group in groups.items():
        for measure in ("PQ", "SQ", "RQ"):
            assert figures[measure + suffix] == pytest.approx(
                100 * group[measure.lower()], abs=1e-9
            )
    report = json.loads((tmp_path / "out" / f"{NAME}_panoptic_results.json").read_text())
    assert [one["id"] for one in report["classes"]] == [CAR, DOG, SKY, ROAD]
    for one in report["classes"]:
        figures_of_class = own["per_class"][one["id"]]
        for measure in ("PQ", "SQ", "RQ"):
            # Of a class that never occurs panopticapi says 0.
            value = one[measure] or 0.0
            assert value == pytest.approx(100 * figures_of_class[measure.lower()], abs=1e-9)
            assert (one[measure] is None) == (one["TP"] + one["FP"] + one["FN"] == 0)


@pytest.mark.parametrize("seed", range(3))
def test_random_ground_truth_against_itself_is_100(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    pictures: dict[int, Any] = {}
    for image_id in range(6):
        ids, segments = random_picture(random)
        pictures[image_id] = ids, [one for one in segments if (ids == one[0]).any()]
    with registered(NAME, *write_truth(tmp_path, pictures)):
        found = evaluate(perfect(pictures))
    assert found == dict.fromkeys(KEYS, 100.0)


def test_the_two_coco_pictures_against_themselves(
    coco_sample: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = coco_sample / "panoptic_examples.json"
    content = json.loads(file.read_text())
    coco = json.loads((coco_sample / "panoptic_coco_categories.json").read_text())
    content["categories"] = coco
    tables: list[dict[int, int]] = [{}, {0: 0}]
    for one in coco:
        table = tables[1 - one["isthing"]]
        table[one["id"]] = len(table)
    written = tmp_path / "panoptic.json"
    written.write_text(json.dumps(content))
    MetadataCatalog.get(NAME).set(
        image_root=str(coco_sample / "input_images"),
        panoptic_json=str(written),
        panoptic_root=str(coco_sample / "panoptic_examples"),
        thing_dataset_id_to_contiguous_id=tables[0],
        stuff_dataset_id_to_contiguous_id=tables[1],
    )
    try:
        evaluator = PanopticEvaluator(NAME, None)
        for one in content["annotations"]:
            ids = read_panoptic_png(coco_sample / "panoptic_examples" / one["file_name"])
            # Without "isthing" these are category ids.
            segments = [
                {"id": s["id"], "category_id": s["category_id"]} for s in one["segments_info"]
            ]
            output = {"panoptic_seg": (torch.as_tensor(ids.astype(np.int64)), segments)}
            evaluator.process([record(one["image_id"], ids.shape)], [output])
        found = evaluator.evaluate()["panoptic_seg"]
    finally:
        MetadataCatalog.remove(NAME)
    assert found == dict.fromkeys(KEYS, 100.0)
    assert "areas" not in caplog.text


def test_the_synthetic_set_against_itself(
    synthetic_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the registered records, whose segments have contiguous ids."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(synthetic_set))
    name = "synthetic_panoptic_val"
    evaluator = PanopticEvaluator(name, None)
    for given in DatasetCatalog.get(name):
        ids = read_panoptic_png(Path(given["pan_seg_file_name"])).astype(np.int32)
        keys = ("id", "category_id", "isthing")
        segments = [{key: one[key] for key in keys} for one in given["segments_info"]]
        evaluator.process([given], [{"panoptic_seg": (torch.as_tensor(ids), segments)}])
    assert evaluator.evaluate()["panoptic_seg"] == dict.fromkeys(KEYS, 100.0)


def test_areas_are_those_of_the_pngs(
    two_panoptic_pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    right = evaluate(hand_made())

    def divide(content: dict[str, Any]) -> None:
        for one in content["annotations"]:
            for segment in one["segments_info"]:
                segment["area"] //= 10

    change(two_panoptic_pictures, divide)
    assert evaluate(hand_made(), tmp_path) == right
    report = json.loads((tmp_path / f"{NAME}_panoptic_results.json").read_text())
    assert report["pictures_with_other_areas"] == 2
    assert "of 2 pictures the areas" in caplog.text


def test_what_a_json_may_leave_out_or_write_otherwise(two_panoptic_pictures: Path) -> None:
    right = evaluate(hand_made())

    def thin_out(content: dict[str, Any]) -> None:
        for one in content["annotations"]:
            for segment in one["segments_info"]:
                del segment["area"]
                crowd = segment.pop("iscrowd")
                if crowd:
                    segment["iscrowd"] = True
        for category in content["categories"]:
            category["isthing"] = bool(category["isthing"])

    change(two_panoptic_pictures, thin_out)
    assert evaluate(hand_made()) == right


def test_image_ids_may_be_words(two_panoptic_pictures: Path, tmp_path: Path) -> None:
    right = evaluate(hand_made())

    def word(content: dict[str, Any]) -> None:
        for one in content["images"]:
            one["id"] = f"town/{one['id']}"
            one["file_name"] = f"town/{one['file_name']}"
        for one in content["annotations"]:
            one["image_id"] = f"town/{one['image_id']}"

    change(two_panoptic_pictures, word)
    outputs = {f"town/{image_id}": output for image_id, output in hand_made().items()}
    assert evaluate(outputs, tmp_path, keep_predictions=True) == right
    kept = json.loads((tmp_path / f"{NAME}_panoptic_predictions.json").read_text())
    assert [one["image_id"] for one in kept["annotations"]] == ["town/1", "town/2"]
    assert kept["images"][0]["file_name"] == "town/1.jpg"


def test_ids_that_a_loader_has_changed_are_told(two_panoptic_pictures: Path) -> None:
    def word(content: dict[str, Any]) -> None:
        for one in content["images"]:
            one["id"] = f"{one['id']:04d}"
        for one in content["annotations"]:
            one["image_id"] = f"{one['image_id']:04d}"

    change(two_panoptic_pictures, word)
    with pytest.raises(DatasetError, match=r"image_id 1 has '0001' there"):
        evaluate(hand_made())


def test_prints_nothing(two_panoptic_pictures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    evaluate(hand_made())
    assert capfd.readouterr().out == ""


def test_faulty_ground_truth_is_told(two_panoptic_pictures: Path) -> None:
    png = two_panoptic_pictures.parent / "panoptic" / "1.png"
    Image.fromarray(panoptic_rgb(np.zeros((10, 12)))).save(png)
    with pytest.raises(DatasetError, match=rf"image_id 1\).*{png} is \(10, 12\) px"):
        evaluate(hand_made())
    png.write_bytes(png.read_bytes()[:40])
    with pytest.raises(DatasetError, match=f"{png}: cannot be read"):
        evaluate(hand_made())
    png.unlink()
    with pytest.raises(DatasetError, match=f"{png}: no such file"):
        evaluate(hand_made())


def test_pictures_without_ground_truth_are_left_out(
    two_panoptic_pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    right = evaluate(hand_made())
    extra = {99: prediction(np.full((4, 5), 1), [(1, CAR)])}
    assert evaluate(hand_made() | extra) == right
    assert "1 pictures have no ground truth" in caplog.text
    with pytest.raises(ConfigError, match=r"the picture is \(10, 10\).*prediction \(4, 5\)"):
        PanopticEvaluator(NAME, None).process([record(99)], [extra[99]])


def test_pictures_without_prediction_have_missed_all(
    two_panoptic_pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, nothing = hand_made()[1], prediction(np.zeros((10, 10)), [])
    expected = evaluate({1: first, 2: nothing}, tmp_path / "nothing")
    assert "no prediction" not in caplog.text
    assert evaluate({1: first}, tmp_path / "none") == expected
    assert "no prediction came for 1 of the 2 annotated pictures (image_id 2)" in caplog.text
    counted, report = (
        json.loads((tmp_path / folder / f"{NAME}_panoptic_results.json").read_text())
        for folder in ("nothing", "none")
    )
    assert (report["pictures"], report["pictures_without_prediction"]) == (2, 1)
    # Crowds are not missed.
    assert report["classes"] == counted["classes"]
    caplog.clear()
    evaluator = PanopticEvaluator(NAME, None)
    evaluator.process([record(1)], [perfect()[1]])
    assert evaluator.evaluate(img_ids=[1])["panoptic_seg"]["PQ"] == 100
    # The table may be there: other tests let the log show more.
    assert "no prediction" not in caplog.text


@pytest.mark.parametrize("key_is_there", [True, False])
def test_without_any_annotation_there_are_no_figures(
    two_panoptic_pictures: Path, tmp_path: Path, key_is_there: bool
) -> None:
    def forget(content: dict[str, Any]) -> None:
        content["annotations"] = []
        if not key_is_there:
            del content["annotations"]

    change(two_panoptic_pictures, forget)
    found = evaluate(hand_made(), tmp_path, keep_predictions=True)
    assert list(found) == KEYS
    assert all(math.isnan(value) for value in found.values())
    report = json.loads((tmp_path / f"{NAME}_panoptic_results.json").read_text())
    assert report["PQ"] is None and report["pictures_without_ground_truth"] == 2
    kept = json.loads((tmp_path / f"{NAME}_panoptic_predictions.json").read_text())
    assert len(kept["annotations"]) == 2
    assert not (tmp_path / f"{NAME}_panoptic_confusion.png").exists()


def test_a_group_without_classes_is_nan(two_panoptic_pictures: Path) -> None:
    def things_alone(content: dict[str, Any]) -> None:
        content["categories"] = [one for one in content["categories"] if one["isthing"]]
        for one in content["annotations"]:
            one["segments_info"] = [s for s in one["segments_info"] if s["category_id"] in THINGS]

    change(two_panoptic_pictures, things_alone)
    pictures = {
        image_id: (np.where(ids == 7, 0, ids), [one for one in segments if one[1] in THINGS])
        for image_id, (ids, segments) in two_pictures().items()
    }
    outputs = perfect(pictures)
    found = evaluate(outputs)
    assert found["PQ"] == found["PQ_th"] == 100
    assert all(math.isnan(found[f"{measure}_st"]) for measure in ("PQ", "SQ", "RQ"))


def test_pictures_that_come_twice_count_once(two_panoptic_pictures: Path) -> None:
    right = evaluate(hand_made())
    evaluator = PanopticEvaluator(NAME, None)
    for image_id, output in [*hand_made().items(), *hand_made().items()]:
        evaluator.process([record(image_id)], [output])
    assert evaluator.evaluate()["panoptic_seg"] == right
    other = {**record(1), "file_name": "elsewhere/1.jpg"}
    evaluator.process([other], [hand_made()[1]])
    with pytest.raises(DatasetError, match=r"somewhere/1\.jpg and elsewhere/1\.jpg both have"):
        evaluator.evaluate()


def test_reset_forgets(two_panoptic_pictures: Path) -> None:
    evaluator = PanopticEvaluator(NAME, None)
    evaluator.process([record(1)], [hand_made()[1]])
    evaluator.reset()
    for image_id, output in perfect().items():
        evaluator.process([record(image_id)], [output])
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == 100


def test_metadata_without_panoptic_files_or_ids_is_told(two_panoptic_pictures: Path) -> None:
    metadata = MetadataCatalog.get(NAME)
    del metadata.stuff_dataset_id_to_contiguous_id
    with pytest.raises(DatasetError, match=f"{NAME}.* lacks stuff_dataset_id_to_contiguous_id"):
        PanopticEvaluator(NAME, None)
    del metadata.panoptic_json
    with pytest.raises(DatasetError, match=f"{NAME}.* lacks panoptic_json"):
        PanopticEvaluator(NAME, None)
