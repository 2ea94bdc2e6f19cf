"""Predictions in every form that models give, and faulty ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog

from rpanoptic.errors import ConfigError
from rpanoptic.evaluation.panoptic import PanopticEvaluator
from tests.evaluation.panoptic_sets import NAME, ROAD, SKY, THINGS, evaluate, hand_made, record


@pytest.mark.parametrize("kind", [np.int32, np.uint8, np.int64, torch.tensor])
def test_numbers_and_flags_of_numpy_and_pytorch(two_panoptic_pictures: Path, kind: Any) -> None:
    outputs = hand_made()
    right = evaluate(hand_made())
    flag = np.bool_ if kind is not torch.tensor else torch.tensor
    for output in outputs.values():
        for segment in output["panoptic_seg"][1]:
            segment["id"], segment["category_id"] = (
                kind(segment["id"]),
                kind(segment["category_id"]),
            )
            segment["isthing"] = flag(segment["isthing"])
    assert evaluate(outputs) == right
    assert evaluate({kind(image_id): output for image_id, output in outputs.items()}) == right
    as_numbers = hand_made()
    for output in as_numbers.values():
        for segment in output["panoptic_seg"][1]:
            segment["isthing"] = int(segment["isthing"])
    assert evaluate(as_numbers) == right


def test_predictions_without_a_list_of_segments(two_panoptic_pictures: Path) -> None:
    """Class and instance in one number, -1 where nothing is predicted."""
    outputs = {}
    for image_id, output in hand_made().items():
        ids, segments = output["panoptic_seg"]
        labels = torch.full_like(ids, -1)
        for instance, segment in enumerate(segments):
            # In this form things and stuff share their numbers, so the stuff's follow.
            place = segment["category_id"] + (0 if segment["isthing"] else len(THINGS) - 1)
            labels[ids == segment["id"]] = 1000 * place + instance
        outputs[image_id] = {"panoptic_seg": (labels, None)}
    right = evaluate(hand_made())
    metadata = MetadataCatalog.get(NAME)
    del metadata.stuff_dataset_id_to_contiguous_id
    metadata.stuff_dataset_id_to_contiguous_id = {SKY: 2, ROAD: 3}
    before = {image_id: output["panoptic_seg"][0].clone() for image_id, output in outputs.items()}
    assert evaluate(outputs) == right
    # Nothing of the model's output is changed: others judge it too.
    for image_id, labels in before.items():
        assert torch.equal(outputs[image_id]["panoptic_seg"][0], labels)
    del metadata.label_divisor
    with pytest.raises(ConfigError, match=f"label_divisor in the metadata of dataset {NAME}"):
        evaluate(outputs)


def test_outputs_are_left_as_they_are(two_panoptic_pictures: Path) -> None:
    outputs, copies = hand_made(), hand_made()
    evaluate(outputs)
    for image_id, copied in copies.items():
        assert outputs[image_id]["panoptic_seg"][1] == copied["panoptic_seg"][1]


def spoiled(**changes: Any) -> dict[str, Any]:
    """The hand-made prediction of picture 1, with changes to its first segment."""
    output = hand_made()[1]
    output["panoptic_seg"][1][0].update(changes)
    return output


def with_ids(edit: Any) -> dict[str, Any]:
    output = hand_made()[1]
    ids, segments = output["panoptic_seg"]
    return {"panoptic_seg": (edit(ids), segments)}


def set_to(value: int) -> Any:
    def edit(ids: torch.Tensor) -> torch.Tensor:
        ids = ids.clone()
        ids[0, 9] = value
        return ids

    return edit


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (spoiled(category_id=5), r"segment 1 has the thing class 5; .* has 0, 1\."),
        (spoiled(isthing=False), r"segment 1 has the stuff class 0; .* has 1, 2\."),
        (spoiled(isthing=None, category_id=4), r"the category 4; .* has 3, 18, 187, 200\."),
        (spoiled(category_id=0.5), r"category_id 0\.5; expected a whole number"),
        (spoiled(isthing="yes"), r"isthing 'yes'; expected True or False"),
        (spoiled(id=0), r"lists the id 0; expected 1 to 16777215"),
        (spoiled(id=-3), r"lists the id -3; expected 1 to"),
        (spoiled(id=256**3), r"lists the id 16777216; expected 1 to"),
        (spoiled(id=2), r"lists the segment 2 twice"),
        (spoiled(id=4), r"segments 1 have pixels, but are not listed"),
        (
            with_ids(lambda ids: torch.where(ids == 1, 9, ids)),
            r"segments 1 are listed .* no pixels",
        ),
        (with_ids(set_to(-1)), r"ids reach from -1 to 9; expected 0 to 16777215"),
        (with_ids(set_to(256**3)), r"ids reach from 1 to 16777216; expected 0 to 16777215"),
        (
            with_ids(lambda ids: ids[:, :9]),
            r"\(10, 10\) px \(height, width\), its prediction \(10, 9\)",
        ),
        (with_ids(lambda ids: ids.float()), r"whole numbers \(H, W\), got float32"),
        (with_ids(lambda ids: ids[None]), r"whole numbers \(H, W\), got int64 \(1, 10, 10\)"),
        ({"panoptic_seg": (torch.full((10, 10), -2), None)}, r"label is -2; expected -1"),
        ({"panoptic_seg": torch.zeros(10, 10)}, r"is a pair of segment ids and their list"),
        ({"panoptic_seg": (torch.zeros(10, 10).long(), 3)}, r"segments_info must be a list"),
        ({"sem_seg": 0}, r"no 'panoptic_seg', but sem_seg"),
    ],
)
def test_faulty_predictions_are_told(
    two_panoptic_pictures: Path, output: Any, message: str
) -> None:
    place = rf"{NAME}: somewhere/1\.jpg \(image_id 1\).*"
    with pytest.raises(ConfigError, match=place + message):
        PanopticEvaluator(NAME, None).process([record(1)], [output])
