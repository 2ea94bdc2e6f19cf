"""All results of an evaluation in one small table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

_PANOPTIC_ROWS = {"All": "", "Things": "_th", "Stuff": "_st"}
_CONTOUR_ROWS = {"whole set": "", "mean of batches": "batch_"}
_CONTOUR_COLUMNS = ("F1", "IoU", "precision", "recall", "balanced_accuracy")
_CLASSIFICATION_COLUMNS = {
    "top1": "top-1",
    "top5": "top-5",
    "calibration_error": "calibration error",
}

Results = Mapping[str, Any]


def summary_table(results: Results) -> str:
    """Lay out panoptic quality, box and mask AP and mIoU; or contour results; in per cent.

    Of pictures with one label it is a line: accuracies, calibration error, and the loss, in nats.

    Args:
        results: what the evaluators of one dataset return, by task ("panoptic_seg", "bbox",
            "segm", "sem_seg"; "contour"; "classification"), or such results by dataset name. Parts
            may be absent.

    Returns:
        a table for each dataset; a value that is absent or not a number shows as "-".
    """
    if not results:
        return "no evaluation results"
    if any(task in results for tasks, _ in _TABLES for task in tasks):
        return _one_dataset(results)
    return "\n\n".join(f"{name}\n{_one_dataset(part)}" for name, part in results.items())


def _one_dataset(results: Results) -> str:
    shown = [table(results) for tasks, table in _TABLES if any(task in results for task in tasks)]
    return "\n".join(shown or [_panoptic(results)])


def _panoptic(results: Results) -> str:
    panoptic = results.get("panoptic_seg") or {}
    rows = [
        [name, *(_shown(panoptic.get(measure + suffix)) for measure in ("PQ", "SQ", "RQ"))]
        for name, suffix in _PANOPTIC_ROWS.items()
    ]
    quality = _table(["PQ", "SQ", "RQ"], rows)
    others = [("box AP", "bbox", "AP"), ("mask AP", "segm", "AP"), ("mIoU", "sem_seg", "mIoU")]
    line = "   ".join(
        f"{title} {_shown((results.get(task) or {}).get(measure))}"
        for title, task, measure in others
    )
    return f"{quality}\n{line}"


def _contours(results: Results) -> str:
    found = results["contour"]
    rows = [
        [name, *(_shown(found.get(prefix + measure)) for measure in _CONTOUR_COLUMNS)]
        for name, prefix in _CONTOUR_ROWS.items()
    ]
    return _table([measure.replace("_", " ") for measure in _CONTOUR_COLUMNS], rows)


def _classification(results: Results) -> str:
    found = results["classification"]
    if "top1" not in found:
        return f"accuracy {_shown(found.get('accuracy'))}"
    shown = {
        title: _shown(found[name])
        for name, title in _CLASSIFICATION_COLUMNS.items()
        if name in found
    }
    loss = found.get("loss", math.nan)
    shown["loss"] = "-" if math.isnan(loss) else f"{loss:.3f} nats"
    return "   ".join(f"{title} {value}" for title, value in shown.items())


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(
        rows,
        headers=["", *columns],
        tablefmt="simple_outline",
        disable_numparse=True,
        colalign=("left", *("right" for _ in columns)),
    )


def _shown(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.1f}"


# The results that a table shows, and the table. The first is that of a dataset without results.
_TABLES: tuple[tuple[tuple[str, ...], Callable[[Results], str]], ...] = (
    (("panoptic_seg", "bbox", "segm", "sem_seg"), _panoptic),
    (("contour",), _contours),
    (("classification",), _classification),
)
