from __future__ import annotations

import csv
from pathlib import Path

import pytest

from rpanoptic.benchmarks.report import draw_over_steps, over_steps, write_csv

ROWS = [
    {"method": "bptt", "steps": 5, "peak_mib": 100.0},
    {"method": "bptt", "steps": 10, "peak_mib": 200.0},
    {"method": "rbp", "steps": 5, "peak_mib": 50.0},
    {"method": "rbp", "steps": 10, "error": "out of memory"},
]


def test_csv_has_a_column_for_every_name(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", ROWS)
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["method", "steps", "peak_mib", "error"]
    assert rows[1] == {"method": "bptt", "steps": "10", "peak_mib": "200.0", "error": ""}
    assert rows[3]["error"] == "out of memory"


@pytest.mark.parametrize("markdown", [False, True])
def test_table_over_steps(markdown: bool) -> None:
    text = over_steps(ROWS, "peak_mib", ".1f", markdown=markdown, growth=True)
    lines = [line for line in text.splitlines() if "rbp" in line or "bptt" in line]
    assert len(lines) == 2
    assert all(cell in lines[0] for cell in ("100.0", "200.0", "+100.0 %"))
    assert all(cell in lines[1] for cell in ("50.0", "failed", "-"))
    assert "growth 5 to 10" in text


def test_figure_has_a_line_a_method() -> None:
    figure = draw_over_steps(ROWS, "peak_mib", "MiB", "memory")
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines) == ["bptt", "rbp"]
    assert list(lines["bptt"].get_ydata()) == [100, 200]
    assert list(lines["rbp"].get_xdata()) == [5]
    assert axes.get_ylabel() == "MiB"
