"""An inspection as tables for a terminal."""

from __future__ import annotations

from tabulate import tabulate

from rpanoptic.data.inspection.findings import Inspection, printable
from rpanoptic.data.inspection.kinds import KINDS, SEVERITIES


def summary(inspection: Inspection) -> str:
    """What there is in the dataset, and how many findings there are of each severity."""
    counts = inspection.counts
    rows = [
        ("pictures", f"{counts.pictures:,}, annotated {counts.annotated:,}"),
        ("segments", f"{counts.segments:,}, crowds {counts.crowds:,}"),
        ("classes", f"{len(counts.classes)}, things {sum(one.isthing for one in counts.classes)}"),
        ("void", f"{counts.void_share:.1%} of {counts.pixels:,} pixels"),
        ("image ids", _range(counts.image_ids)),
        ("segment ids", _range(counts.segment_ids)),
        ("category ids", _range(counts.category_ids)),
        *((f"{severity}s", f"{inspection.number(severity):,}") for severity in SEVERITIES),
    ]
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def findings_table(inspection: Inspection) -> str:
    """A line for each kind of finding: severity, kind, number, meaning; errors come first."""
    rows = [
        (kind.severity, name, inspection.numbers[name], kind.meaning)
        for name, kind in KINDS.items()
        if name in inspection.numbers
    ]
    return tabulate(rows, headers=("severity", "kind", "number", "meaning"), tablefmt="simple")


def findings_list(inspection: Inspection, *, most: int) -> str:
    """A line for each of the first ``most`` findings of each kind."""
    lines = []
    for name, kind in KINDS.items():
        kept = [finding for finding in inspection.findings if finding.kind == name][:most]
        lines += [f"{kind.severity} {name}: {one.where}: {one.message}" for one in kept]
        rest = inspection.numbers.get(name, 0) - len(kept)
        if rest > 0:
            lines.append(f"{kind.severity} {name}: {rest:,} more")
    return "\n".join(lines)


def class_table(inspection: Inspection) -> str:
    """A line for each class: what it is, its segments, its pictures, its share of the pixels."""
    pixels = inspection.counts.pixels or 1
    rows = [
        (
            one.id,
            printable(one.name),
            "thing" if one.isthing else "stuff",
            f"{one.segments:,}",
            f"{one.crowds:,}",
            f"{one.pictures:,}",
            f"{one.pixels / pixels:.2%}",
        )
        for one in inspection.counts.classes
    ]
    return tabulate(
        rows,
        headers=("id", "class", "kind", "segments", "crowds", "pictures", "pixels"),
        tablefmt="simple",
        disable_numparse=True,
        colalign=("right", "left", "left", *["right"] * 4),
    )


def _range(ids: tuple[int, int] | None) -> str:
    return "no numbers" if ids is None else f"{ids[0]} to {ids[1]}"
