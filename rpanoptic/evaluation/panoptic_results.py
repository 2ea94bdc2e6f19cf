"""Panoptic quality as figures, as a table for the log, and as a JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from rpanoptic.data.panoptic_classes import ClassTable, PanopticClass
from rpanoptic.evaluation.panoptic_count import ClassCount

if TYPE_CHECKING:
    from panopticapi.evaluation import PQStat

# Suffix of the results' keys -> name of the group, and whether things or stuff are its classes.
_GROUPS: dict[str, tuple[str, bool | None]] = {
    "": ("all", None),
    "_th": ("things", True),
    "_st": ("stuff", False),
}
_MEASURES = ("PQ", "SQ", "RQ")
_COUNTS = ("TP", "FP", "FN")


@dataclass(frozen=True)
class PanopticQuality:
    """Panoptic, segmentation and recognition quality (Kirillov et al., CVPR 2019, equation 1).

    PQ is the sum of the IoUs of matched segments by TP + FP/2 + FN/2; SQ the mean of these IoUs,
    RQ what is left of PQ. All are in per cent. A class without any segment, neither in the ground
    truth nor in the predictions, has none, NaN, and counts in no mean; so has a group of which no
    class has any. Of a class that was never matched SQ is 0.

    Attributes:
        classes: of the dataset.
        counts: the sums over all pictures, by category id.
    """

    classes: ClassTable
    counts: Mapping[int, ClassCount]

    def figures(self) -> dict[str, float]:
        """PQ, SQ and RQ of all classes, of things ("PQ_th", ...) and of stuff ("PQ_st", ...)."""
        found: dict[str, float] = {}
        for suffix, (_, isthing) in _GROUPS.items():
            means, _ = self._averages(isthing)
            found |= {measure + suffix: means[measure] for measure in _MEASURES}
        return found

    def by_class(self) -> Iterator[tuple[PanopticClass, dict[str, float], dict[str, int]]]:
        """Each class, things first, with its PQ, SQ and RQ and with its TP, FP and FN."""
        _, figures = self._averages(None)
        for one in (*self.classes.things, *self.classes.stuff):
            count = self._count(one)
            counts = dict(zip(_COUNTS, (count.tp, count.fp, count.fn), strict=True))
            yield one, figures[one.id], counts

    def table(self) -> str:
        """The figures of each class and of the groups, for the log; "-" where there is none."""
        rows: list[list[str]] = []
        for one, figures, counts in self.by_class():
            kind = "thing" if one.isthing else "stuff"
            shown = [_shown(figures[measure]) for measure in _MEASURES]
            rows.append([one.name, kind, *shown, *(str(counts[key]) for key in _COUNTS)])
        figures = self.figures()
        for suffix, (name, _) in _GROUPS.items():
            shown = [_shown(figures[measure + suffix]) for measure in _MEASURES]
            rows.append([f"mean of {name}", "", *shown, "", "", ""])
        return tabulate(
            rows,
            headers=["class", "", *_MEASURES, *_COUNTS],
            tablefmt="simple",
            disable_numparse=True,
            colalign=("left", "left", *("right" for _ in (*_MEASURES, *_COUNTS))),
        )

    def to_dict(self) -> dict[str, Any]:
        """All figures for a JSON: None in the place of NaN."""
        classes = [
            {
                "id": one.id,
                "name": one.name,
                "isthing": one.isthing,
                **_strict(figures),
                **counts,
                "IoU_sum": self._count(one).iou,
            }
            for one, figures, counts in self.by_class()
        ]
        return {**_strict(self.figures()), "classes": classes}

    def _count(self, one: PanopticClass) -> ClassCount:
        return self.counts.get(one.id, ClassCount(0.0, 0, 0, 0))

    def _averages(
        self, isthing: bool | None
    ) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
        """Means over the classes of a group, and the figures of each of them, by panopticapi."""
        group = [one for one in self.classes.classes if isthing in (None, one.isthing)]
        # panopticapi divides by the number of these, and calls the figures of the others 0.
        present = {one.id: {"isthing": int(one.isthing)} for one in group if self._present(one)}
        nothing = dict.fromkeys(_MEASURES, math.nan)
        figures = {one.id: nothing for one in group}
        if not present:
            return nothing, figures
        means, by_class = self._stat().pq_average(present, isthing)
        figures |= {category: _percent(one) for category, one in by_class.items()}
        return _percent(means), figures

    def _present(self, one: PanopticClass) -> bool:
        count = self._count(one)
        return count.tp + count.fp + count.fn > 0

    def _stat(self) -> PQStat:
        # Imported here: evaluations of other datasets need no panopticapi.
        from panopticapi.evaluation import PQStat

        stat = PQStat()
        for category, count in self.counts.items():
            entry = stat[category]
            entry.iou, entry.tp, entry.fp, entry.fn = count
        return stat


def _percent(figures: Mapping[str, float]) -> dict[str, float]:
    return {measure: 100 * float(figures[measure.lower()]) for measure in _MEASURES}


def _strict(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {key: None if math.isnan(value) else value for key, value in figures.items()}


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"
