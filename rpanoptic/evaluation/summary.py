"""All results of an evaluation in one small table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

_TASKS = ("panoptic_seg", "bbox", "segm", "sem_seg")
_PANOPTIC_ROWS = {"All": "", "Things": "_th", "Stuff": "_st"}


def summary_table(results: Mapping[str, Any]) -> str:
    """Lay out panoptic quality, box and mask AP and mIoU, all in percent.

    Args:
        results: what the evaluators of one dataset return, by task ("panoptic_seg", "bbox",
            "segm", "sem_seg"), or such results by dataset name. Parts may be absent.

    Returns:
        a table for each dataset; a value that is absent or not a number shows as "-".
    """
    if not results:
        return "no evaluation results"
    if any(task in results for task in _TASKS):
        return _one_table(results)
    return "\n\n".join(f"{name}\n{_one_table(part)}" for name, part in results.items())


def _one_table(results: Mapping[str, Any]) -> str:
    panoptic = results.get("panoptic_seg") or {}
    rows = [
        [name, *(_shown(panoptic.get(measure + suffix)) for measure in ("PQ", "SQ", "RQ"))]
        for name, suffix in _PANOPTIC_ROWS.items()
    ]
    quality = tabulate(
        rows,
        headers=["", "PQ", "SQ", "RQ"],
        tablefmt="simple_outline",
        disable_numparse=True,
        colalign=("left", "right", "right", "right"),
    )
    others = [("box AP", "bbox", "AP"), ("mask AP", "segm", "AP"), ("mIoU", "sem_seg", "mIoU")]
    line = "   ".join(
        f"{title} {_shown((results.get(task) or {}).get(measure))}"
        for title, task, measure in others
    )
    return f"{quality}\n{line}"


def _shown(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.1f}"
