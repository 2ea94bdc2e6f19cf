from __future__ import annotations

import math

from rpanoptic.evaluation import summary_table

PANOPTIC = {
    "PQ": 61.25,
    "SQ": 80.0,
    "RQ": 70.5,
    "PQ_th": 50.04,
    "SQ_th": 79.0,
    "RQ_th": 63.0,
    "PQ_st": 72.5,
    "SQ_st": 81.0,
    "RQ_st": 78.0,
}


def rows(table: str) -> dict[str, list[str]]:
    """First cell -> other cells, of the lines that have cells."""
    cells = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in table.splitlines()
        if line.startswith("│")
    ]
    return {first: rest for first, *rest in cells}


def test_all_parts() -> None:
    table = summary_table(
        {
            "panoptic_seg": PANOPTIC,
            "bbox": {"AP": 33.333},
            "segm": {"AP": 30.0},
            "sem_seg": {"mIoU": 88.88},
        }
    )
    assert rows(table) == {
        "": ["PQ", "SQ", "RQ"],
        "All": ["61.2", "80.0", "70.5"],
        "Things": ["50.0", "79.0", "63.0"],
        "Stuff": ["72.5", "81.0", "78.0"],
    }
    assert table.splitlines()[-1] == "box AP 33.3   mask AP 30.0   mIoU 88.9"


def test_absent_parts_and_nan_show_as_dashes() -> None:
    table = summary_table({"bbox": {"AP": math.nan}, "sem_seg": {"mIoU": 12.0}})
    assert rows(table)["Things"] == ["-", "-", "-"]
    assert table.splitlines()[-1] == "box AP -   mask AP -   mIoU 12.0"


def test_several_datasets() -> None:
    table = summary_table({"first": {"panoptic_seg": PANOPTIC}, "second": {"bbox": {"AP": 1.0}}})
    first, second = table.split("\n\n")
    assert first.startswith("first\n")
    assert "61.2" in first
    assert second.startswith("second\n")
    assert "box AP 1.0" in second


def test_no_results() -> None:
    assert summary_table({}) == "no evaluation results"


CONTOUR = {"F1": 98.04, "IoU": 96.16, "precision": 97.0, "recall": 99.0, "balanced_accuracy": 99.5}


def test_contours() -> None:
    batches = {f"batch_{name}": value - 1 for name, value in CONTOUR.items()}
    assert rows(summary_table({"contour": CONTOUR | batches})) == {
        "": ["F1", "IoU", "precision", "recall", "balanced accuracy"],
        "whole set": ["98.0", "96.2", "97.0", "99.0", "99.5"],
        "mean of batches": ["97.0", "95.2", "96.0", "98.0", "98.5"],
    }


def test_classification_and_tasks_together() -> None:
    classes = {"classification": {"accuracy": 93.15}}
    assert summary_table(classes) == "accuracy 93.2"
    assert summary_table({"test": classes}) == "test\naccuracy 93.2"
    absent = {"classification": {"accuracy": math.nan}, "contour": {"F1": 50.0}}
    table = summary_table(absent)
    assert rows(table)["whole set"] == ["50.0", "-", "-", "-", "-"]
    assert table.splitlines()[-1] == "accuracy -"


def test_pictures_with_one_label() -> None:
    found = {
        "top1": 71.25,
        "top5": 90.0,
        "loss": 1.2345,
        "calibration_error": 2.0,
        "top1_step_3": 1,
    }
    line = "top-1 71.2   top-5 90.0   calibration error 2.0   loss 1.234 nats"
    assert summary_table({"classification": found}) == line
    nothing = dict.fromkeys(("top1", "loss", "calibration_error"), math.nan)
    line = "top-1 -   calibration error -   loss -"
    assert summary_table({"classification": nothing}) == line


def test_a_dataset_without_results() -> None:
    first, second = summary_table({"first": {"contour": CONTOUR}, "second": {}}).split("\n\n")
    assert "98.0" in first and rows(second)["All"] == ["-", "-", "-"]
