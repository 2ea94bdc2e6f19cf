"""Rows of numbers as CSV, as tables, as figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, ScalarFormatter
from tabulate import tabulate

from rpanoptic.data.paths import write_atomically
from rpanoptic.errors import UserError
from rpanoptic.visualization.style import CURVES, INK, new_figure, style_axes

Row = dict[str, Any]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows, with a column for every name that any of them has.

    Args:
        path: the file; it appears only when it is complete.
        rows: in the order in which they are to stand; absent values are left empty.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, stream.getvalue().encode())


def read_csv(
    path: Path, needed: Sequence[str], parse: Callable[[str, str], Any], *, what: str
) -> list[Row]:
    """Read rows that :func:`write_csv` has written.

    Args:
        path: the file.
        needed: columns that it must have.
        parse: from a column's name and its text to a value; may raise a ValueError or TypeError.
        what: the table is, for messages.

    Raises:
        UserError: the file is missing, or not of this kind.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{path} is no {what}: it lacks {', '.join(missing)}")
            return [{name: parse(name, text) for name, text in row.items()} for row in reader]
    except UserError:
        raise
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read as the {what}: {error}") from error


def over_steps(rows: Sequence[Row], key: str, form: str, *, markdown: bool, growth: bool) -> str:
    """A table of one number: a line a method, a column a number of steps.

    Args:
        rows: with "method", "steps" and ``key``, or with "error".
        key: the number that is shown.
        form: how it is formatted, as ".1f".
        markdown: for a document rather than a terminal.
        growth: append the growth from the first to the last number of steps, in per cent.

    Returns:
        the table; "failed" stands where a measurement has an error.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    steps = sorted({row["steps"] for row in rows})
    cells = {(row["method"], row["steps"]): row for row in rows}
    lines = []
    for method in methods:
        found = [cells.get((method, count), {}) for count in steps]
        line = [method, *(_shown(row, key, form) for row in found)]
        if growth:
            line.append(_growth(found[0].get(key), found[-1].get(key)))
        lines.append(line)
    headers = ["method", *(f"{count} steps" for count in steps)]
    if growth:
        headers.append(f"growth {steps[0]} to {steps[-1]}")
    return table(headers, lines, markdown=markdown)


def table(headers: Sequence[str], lines: Sequence[Sequence[str]], *, markdown: bool) -> str:
    """Lay out lines, the first column to the left and the others to the right."""
    return tabulate(
        lines,
        headers=headers,
        tablefmt="github" if markdown else "simple_outline",
        disable_numparse=True,
        colalign=("left", *("right" for _ in headers[1:])),
    )


def draw_over_steps(rows: Sequence[Row], key: str, label: str, title: str) -> Figure:
    """Draw one number against the steps, a line a method; both axes logarithmic.

    Args:
        rows: as for :func:`over_steps`; those without ``key`` are left out.
        key: the number that is drawn.
        label: of the vertical axis.
        title: over the figure.
    """
    figure = new_figure(7.2, 4.2, title)
    axes = figure.subplots()
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for place, method in enumerate(methods):
        points = [(r["steps"], r[key]) for r in rows if r["method"] == method and r.get(key)]
        color, marker, dash = CURVES[place % len(CURVES)]
        axes.plot(
            *zip(*points, strict=True) if points else ((), ()),
            color=color,
            marker=marker,
            linestyle=dash,
            # Where lines coincide, the later ones stand behind and look out.
            markersize=4.5 + 0.25 * place,
            zorder=len(methods) - place + 2,
            linewidth=1.4,
            label=method,
        )
    _finish(axes, sorted({row["steps"] for row in rows}), label)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9, labelcolor=INK)
    return figure


def _finish(axes: Axes, steps: Sequence[int], label: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(steps, [str(count) for count in steps])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("steps")
    axes.set_ylabel(label)
    style_axes(axes)


def _shown(row: Row, key: str, form: str) -> str:
    if "error" in row:
        return "failed"
    value = row.get(key)
    return "-" if value is None else format(value, form)


def _growth(first: float | None, last: float | None) -> str:
    if not first or last is None:
        return "-"
    return f"{100 * (last / first - 1):+.1f} %"
