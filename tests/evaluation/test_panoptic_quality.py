"""Detectron2's panoptic evaluator: an example counted by hand, and panopticapi's own figures."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from panopticapi.evaluation import pq_compute
from PIL import Image

from rpanoptic.data.panoptic_format import panoptic_rgb, read_panoptic_png

# Dataset ids: two things, one stuff; none is its contiguous id.
CAR, DOG, SKY = 3, 18, 187
Segment = tuple[int, int, bool]  # id in the picture, dataset category, crowd


@pytest.fixture()
def dataset(tmp_path: Path) -> Iterator[tuple[str, dict[int, np.ndarray]]]:
    """A dataset of two pictures of 10 x 10 pixels, by its name, and their segment ids."""
    first = np.full((10, 10), 7)  # sky
    first[0:4, 0:5] = 1  # car, 20 pixels
    first[5:9, 0:5] = 2  # car, 20 pixels
    first[0:2, 6:10] = 0  # void, 8 pixels
    second = np.full((10, 10), 7)
    second[0:5, 0:4] = 3  # dog, 20 pixels
    second[6:10, 5:10] = 4  # crowd of dogs, 20 pixels
    listed: list[tuple[np.ndarray, list[Segment]]] = [
        (first, [(1, CAR, False), (2, CAR, False), (7, SKY, False)]),
        (second, [(3, DOG, False), (4, DOG, True), (7, SKY, False)]),
    ]
    name = "panoptic_quality_test"
    folder = tmp_path / "panoptic"
    folder.mkdir()
    annotations = []
    for image_id, (ids, segments) in enumerate(listed, start=1):
        Image.fromarray(panoptic_rgb(ids)).save(folder / f"{image_id}.png")
        info = [
            {"id": i, "category_id": category, "iscrowd": int(crowd), "area": int((ids == i).sum())}
            for i, category, crowd in segments
        ]
        annotations.append(
            {"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": info}
        )
    categories = [
        {"id": CAR, "name": "car", "isthing": 1},
        {"id": DOG, "name": "dog", "isthing": 1},
        {"id": SKY, "name": "sky", "isthing": 0},
    ]
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 10, "width": 10} for i in (1, 2)]
    truth = tmp_path / "panoptic.json"
    truth.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    MetadataCatalog.get(name).set(
        panoptic_json=str(truth),
        panoptic_root=str(folder),
        thing_dataset_id_to_contiguous_id={CAR: 0, DOG: 1},
        stuff_dataset_id_to_contiguous_id={SKY: 1},
    )
    yield name, {1: first, 2: second}
    MetadataCatalog.remove(name)


def _evaluate(name: str, output: Path, predictions: dict[int, tuple[np.ndarray, Any]]) -> Any:
    """The evaluator's figures for segment ids and ``(id, contiguous class, isthing)`` by image."""
    evaluator = COCOPanopticEvaluator(name, str(output))
    evaluator.reset()
    for image_id, (ids, segments) in predictions.items():
        info = [{"id": i, "category_id": c, "isthing": thing} for i, c, thing in segments]
        record = {"image_id": image_id, "file_name": f"somewhere/{image_id}.jpg"}
        evaluator.process([record], [{"panoptic_seg": (torch.as_tensor(ids), info)}])
    return evaluator.evaluate()["panoptic_seg"]


def test_an_example_counted_by_hand(dataset: Any, tmp_path: Path) -> None:
    name, _ = dataset
    first = np.full((10, 10), 9)  # sky everywhere else
    first[0:4, 0:4] = 1  # car: 16 of the 20 pixels, IoU 16 / 20 = 0.8
    first[5:9, 3:8] = 2  # car: 8 of 20 common, 20 beside them, IoU 8 / 32: no match
    second = np.full((10, 10), 9)
    second[0:5, 0:4] = 5  # dog, exact
    second[6:10, 5:10] = 6  # dog, all of it in the crowd: neither right nor wrong
    found = _evaluate(
        name,
        tmp_path / "out",
        {
            1: (first, [(1, 0, True), (2, 0, True), (9, 1, False)]),
            2: (second, [(5, 1, True), (6, 1, True), (9, 1, False)]),
        },
    )
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
    for key, value in expected.items():
        assert found[key] == pytest.approx(100 * value, rel=1e-9), key
    pq = (car_sq * car_rq + dog_sq * dog_rq + sky_sq * sky_rq) / 3
    assert found["PQ"] == pytest.approx(100 * pq, rel=1e-9)


def test_a_picture_without_any_segment_counts_as_missed(dataset: Any, tmp_path: Path) -> None:
    name, truth = dataset
    nothing = np.zeros((10, 10), dtype=np.int64)
    exact = np.where(truth[2] == 4, 0, truth[2])  # a crowd may be left out
    found = _evaluate(
        name, tmp_path / "out", {1: (nothing, []), 2: (exact, [(3, 1, True), (7, 1, False)])}
    )
    # Both cars and one of two skies are missed; what is left is exact.
    assert found["PQ_th"] == pytest.approx(100 * (0 + 1) / 2)
    assert found["SQ_st"] == pytest.approx(100)
    assert found["PQ_st"] == pytest.approx(100 / 1.5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_predictions_on_the_synthetic_set_give_panopticapis_figures(
    synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Ground truth that was shifted, relabelled and thinned out, judged by both."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(synthetic_set))
    name = "synthetic_panoptic_val"
    meta = MetadataCatalog.get(name)
    random = np.random.default_rng(seed)
    # The evaluator wants contiguous ids, panopticapi those of the JSON.
    to_dataset = {
        True: {v: k for k, v in meta.thing_dataset_id_to_contiguous_id.items()},
        False: {v: k for k, v in meta.stuff_dataset_id_to_contiguous_id.items()},
    }
    folder = tmp_path / "predicted"
    folder.mkdir()
    annotations, predictions = [], {}
    for record in DatasetCatalog.get(name):
        ids = read_panoptic_png(Path(record["pan_seg_file_name"])).astype(np.int64)
        ids = np.roll(ids, random.integers(-6, 7, size=2), axis=(0, 1))
        segments = []
        for segment in record["segments_info"]:
            if random.random() < 0.2 or not (ids == segment["id"]).any():
                ids[ids == segment["id"]] = 0
                continue
            thing = bool(segment["isthing"])
            # Contiguous class 0 of the stuff stands for all things and is in no JSON.
            classes = [c for c in sorted(to_dataset[thing]) if thing or c]
            chosen = segment["category_id"] if random.random() < 0.7 else random.choice(classes)
            segments.append((segment["id"], int(chosen), thing))
        file = f"{record['image_id']}.png"
        Image.fromarray(panoptic_rgb(ids)).save(folder / file)
        info = [{"id": i, "category_id": to_dataset[thing][c]} for i, c, thing in segments]
        annotations.append(
            {"image_id": record["image_id"], "file_name": file, "segments_info": info}
        )
        predictions[record["image_id"]] = (ids, segments)
    written = tmp_path / "predicted.json"
    written.write_text(json.dumps({"annotations": annotations}))
    with contextlib.redirect_stdout(io.StringIO()):
        own = pq_compute(meta.panoptic_json, str(written), meta.panoptic_root, str(folder))
    found = _evaluate(name, tmp_path / "out", predictions)
    assert 0 < found["PQ"] < 100
    for key, group in (("", "All"), ("_th", "Things"), ("_st", "Stuff")):
        for figure in ("pq", "sq", "rq"):
            assert found[figure.upper() + key] == pytest.approx(100 * own[group][figure], rel=1e-12)
