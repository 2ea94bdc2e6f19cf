"""Tables and the figure of neural fits, as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rpanoptic.benchmarks.report import read_csv, table, write_csv
from rpanoptic.data.paths import write_atomically
from rpanoptic.errors import UserError
from rpanoptic.pathfinder.imagenet.neural_fit.tables import COLUMNS, Row
from rpanoptic.visualization import save_figure
from rpanoptic.visualization.neural_fit import draw_neural_fits

_TEXT = ("label", "layer", "map", "assembly")
_WHOLE = ("stimuli", "neuroids", "unreliable", "constant")
_COLUMNS = (*_TEXT, "stimuli", *COLUMNS)
# Of the printed table, by columns.
_SHOWN = {
    "correlation": "correlation",
    "ceiling": "ceiling",
    "predictivity": "corrected",
}


def save_fits(
    folder: Path, bins: Sequence[Row], overall: Sequence[Row], settings: dict[str, Any]
) -> list[Path]:
    """Write ``neural_fit.csv``, a row for each bin, ``.json``, with layers and settings, ``.png``.

    Args:
        folder: exists.
        bins: rows of bins.
        overall: rows of layers.
        settings: of the fits, for the JSON.

    Returns:
        the files, each of which appeared only when it was complete.
    """
    table_file, json_file = folder / "neural_fit.csv", folder / "neural_fit.json"
    write_csv(table_file, bins)
    content = {"settings": settings, "layers": list(overall), "bins": list(bins)}
    text = json.dumps(content, allow_nan=False, indent=1)
    write_atomically(json_file, f"{text}\n".encode())
    return [table_file, json_file, *save_fit_figure(folder, bins)]


def save_fit_figure(folder: Path, bins: Sequence[Row]) -> list[Path]:
    """Write ``neural_fit.png``; where no neuroid counts in any bin there is none, not an old one.

    Raises:
        UserError: there are two rows of one model, layer, assembly and bin.
    """
    seen = set()
    for row in bins:
        key = tuple(row[name] for name in ("label", "layer", "assembly", "time_bin_start"))
        if key in seen:
            raise UserError(
                f"model {key[0]}, layer {key[1]}, assembly {key[2]}: the bin from {key[3]:g} ms "
                "stands twice; give models labels of their own"
            )
        seen.add(key)
    figure = folder / "neural_fit.png"
    if all(row["correlation"] is None for row in bins):
        figure.unlink(missing_ok=True)
        return []
    return [save_figure(figure, draw_neural_fits(bins))]


def read_fits(file: Path) -> list[Row]:
    """Read the rows of bins that :func:`save_fits` has written.

    Raises:
        UserError: the file is missing, or not of this kind.
    """
    rows = read_csv(file, _COLUMNS, _read, what="table of neural fits")
    return [{name: row[name] for name in _COLUMNS} for row in rows]


def _read(name: str, text: str) -> Any:
    if name in _TEXT or name not in _COLUMNS:
        return text
    if not text:
        return None
    return int(text) if name in _WHOLE else float(text)


def fit_table(overall: Sequence[Row]) -> str:
    """Lay out rows of layers, a line each."""
    lines = [
        [
            f"{row['label']} {row['layer']}",
            *("-" if row[key] is None else f"{row[key]:.3f}" for key in _SHOWN),
            *(str(row[key]) for key in ("neuroids", "unreliable", "constant")),
        ]
        for row in overall
    ]
    headers = ["layer", *_SHOWN.values(), "neuroids", "unreliable", "constant"]
    return table(headers, lines, markdown=False)
