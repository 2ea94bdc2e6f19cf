from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rpanoptic.engine.extrapolation import extrapolation_table, save_extrapolation
from rpanoptic.errors import UserError

METRIC = "contour/F1"


def rows(
    label: str, dataset: str, values: dict[int | None, float], *, trained: int = 2, seed: int = 1
) -> list[dict[str, Any]]:
    names = {"label": label, "dataset": dataset, "weights_sha256": f"{label}{seed}"}
    return [
        {
            **names,
            "trained_steps": None if steps is None else trained,
            "test_steps": steps,
            METRIC: value,
        }
        for steps, value in values.items()
    ]


def lines(table: str) -> list[list[str]]:
    """The cells below the headings, of a table in Markdown."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n")][2:]


ROWS = [
    *rows("crbp", "14", {1: 10.0, 2: 80.0, 3: 90.0, 4: 85.0, 8: 70.0, 9: 60.0}),
    *rows("crbp", "14", {1: 20.0, 2: 90.0, 3: 80.0, 4: 95.0, 8: 80.0, 9: 70.0}, seed=2),
    *rows("feed-forward", "14", {None: 40.0}),
    *rows("crbp", "20", {2: 50.0, 5: 60.0}),
]


def test_best_and_multiples_of_the_trained_steps_of_the_mean_over_seeds() -> None:
    assert lines(extrapolation_table(ROWS, METRIC, markdown=True)) == [
        # The mean is the same as at 3 steps, 85, and more at 4.
        ["crbp", "2", "2", "14", "90.00 @ 4", "85.00 @ 2", "90.00 @ 4", "75.00 @ 8"],
        # Not after 4 steps; and 5 are the last.
        ["crbp", "1", "2", "20", "60.00 @ 5", "50.00 @ 2", "-", "60.00 @ 5"],
        ["feed-forward", "1", "-", "14", "40.00", "-", "-", "-"],
    ]


@pytest.mark.parametrize(
    ("values", "trained", "expected"),
    [
        ({5: 1.0, 10: 2.0}, 20, ["2.00 @ 10", "-", "-", "-"]),
        ({20: 3.0, 40: 2.0}, 20, ["3.00 @ 20", "3.00 @ 20", "2.00 @ 40", "-"]),
        ({20: 3.0, 40: 2.0, 60: 1.0}, 20, ["3.00 @ 20", "3.00 @ 20", "2.00 @ 40", "1.00 @ 60"]),
        ({2: 3.0, 8: 2.0, 60: 1.0}, 2, ["3.00 @ 2", "3.00 @ 2", "-", "2.00 @ 8"]),
    ],
)
def test_what_was_not_evaluated(
    values: dict[int | None, float], trained: int, expected: list[str]
) -> None:
    (line,) = lines(
        extrapolation_table(rows("a", "14", values, trained=trained), METRIC, markdown=True)
    )
    assert line[4:] == expected


def test_seeds_of_different_trained_steps_have_no_common_multiple() -> None:
    mixed = [*rows("a", "14", {2: 1.0}), *rows("a", "14", {2: 3.0}, trained=1, seed=2)]
    (line,) = lines(extrapolation_table(mixed, METRIC, markdown=True))
    assert line == ["a", "2", "1, 2", "14", "2.00 @ 2", "-", "-", "-"]


def test_file(tmp_path: Path) -> None:
    (file,) = save_extrapolation(tmp_path, ROWS, [METRIC])
    table = extrapolation_table(ROWS, METRIC, markdown=True)
    assert file.name == "contour_F1.md"
    assert file.read_text() == f"contour/F1 @ test steps, mean over seeds\n\n{table}\n"
    assert "│" in extrapolation_table(ROWS, METRIC, markdown=False)


def test_an_unknown_metric_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no row has a result 'contour/f1'; there are: contour/F1"):
        save_extrapolation(tmp_path, ROWS, [METRIC, "contour/f1"])
    assert not list(tmp_path.iterdir())


def test_a_label_of_two_kinds_is_refused_with_its_dataset() -> None:
    mixed = [*ROWS, *rows("crbp", "20", {None: 1.0}, seed=2)]
    with pytest.raises(UserError, match="20: label 'crbp' names recurrent and feed-forward"):
        extrapolation_table(mixed, METRIC, markdown=False)
