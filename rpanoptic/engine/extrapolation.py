"""What becomes of results past the steps of training: a few numbers out of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rpanoptic.benchmarks.report import Row, table
from rpanoptic.data.paths import write_atomically
from rpanoptic.engine.step_sweep import curves_by_dataset
from rpanoptic.visualization.step_sweep import Curve

_HEADERS = ("model", "seeds", "trained steps", "dataset", "best", "as trained", "2x", "4x or last")


def extrapolation_table(rows: Sequence[Row], metric: str, *, markdown: bool) -> str:
    """Lay out a metric, the mean over seeds, at its best and at multiples of the trained steps.

    As the extrapolation of Linsley et al. (NeurIPS 2020) can be told in numbers.

    Args:
        rows: of one sweep or several.
        metric: name of a column; the larger the better.
        markdown: for a document rather than a terminal.

    Returns:
        a line for each label and dataset. A cell is "value @ test steps": the largest value, that
        after as many steps as in training, after twice and after four times as many; in the place
        of the last, that of the largest number of steps if it is above twice. "-": not evaluated,
        or the seeds were trained for different numbers of steps. A model without recurrence has
        one value.

    Raises:
        UserError: no row has such a metric, or a label stands for two kinds of models.
    """
    found = [
        (dataset, curve)
        for dataset, shown in curves_by_dataset(rows, metric).items()
        for curve in shown
    ]
    order = list(dict.fromkeys(curve.label for _, curve in found))
    found.sort(key=lambda one: order.index(one[1].label))
    lines = [
        [
            curve.label,
            str(curve.seeds),
            ", ".join(map(str, curve.trained_steps)) or "-",
            dataset,
            *_cells(curve),
        ]
        for dataset, curve in found
    ]
    return table(_HEADERS, lines, markdown=markdown)


def save_extrapolation(folder: Path, rows: Sequence[Row], metrics: Sequence[str]) -> list[Path]:
    """Write the table of each metric as Markdown.

    Args:
        folder: exists.
        rows: of one sweep or several.
        metrics: names of columns; "contour/F1" becomes ``contour_F1.md``.

    Returns:
        the files.

    Raises:
        UserError: see :func:`extrapolation_table`.
    """
    texts = {metric: extrapolation_table(rows, metric, markdown=True) for metric in metrics}
    files = []
    for metric, text in texts.items():
        file = folder / f"{metric.replace('/', '_')}.md"
        write_atomically(file, f"{metric} @ test steps, mean over seeds\n\n{text}\n".encode())
        files.append(file)
    return files


def _cells(curve: Curve) -> list[str]:
    mean, _, _ = curve.over_seeds()
    if not curve.steps.size:
        return [f"{mean[0]:.2f}", "-", "-", "-"]
    values = dict(zip(curve.steps.tolist(), mean.tolist(), strict=True))

    def cell(count: int) -> str:
        return f"{values[count]:.2f} @ {count}" if count in values else "-"

    best = cell(int(curve.steps[np.argmax(mean)]))
    if len(curve.trained_steps) != 1:
        return [best, "-", "-", "-"]
    (trained,) = curve.trained_steps
    last = max(values)
    farthest = 4 * trained if 4 * trained in values or last <= 2 * trained else last
    return [best, cell(trained), cell(2 * trained), cell(farthest)]
