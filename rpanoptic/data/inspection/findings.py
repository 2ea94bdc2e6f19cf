"""What an inspection found: findings, counts, and the report that holds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rpanoptic.data.inspection.kinds import KINDS, SEVERITIES, Severity
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.errors import DatasetError

#: Findings of a kind beyond these are counted, not kept.
MOST_KEPT = 20


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or good to know.

    Attributes:
        kind: a name in :data:`rpanoptic.data.inspection.kinds.KINDS`.
        severity: that of the kind.
        where: the file, by its name in the JSON, or the JSON's entry, as "categories[2]".
        message: what is the matter there, without a full stop.
    """

    kind: str
    severity: Severity
    where: str
    message: str


class Findings:
    """Collects findings: all are counted, the first of each kind are kept.

    Args:
        most: how many of a kind are kept.

    Attributes:
        numbers: how many there are of each kind.
        kept: the first of each kind, in the order in which they were added.
    """

    def __init__(self, most: int = MOST_KEPT) -> None:
        self.numbers: Counter[str] = Counter()
        self.kept: list[Finding] = []
        self._most = most
        self._kept: Counter[str] = Counter()

    def add(self, kind: str, where: object, message: str) -> None:
        """Count a finding, and keep it if there are not too many of its kind.

        Args:
            kind: a name in :data:`~rpanoptic.data.inspection.kinds.KINDS`.
            where: the file or entry.
            message: without a full stop.
        """
        self.numbers[kind] += 1
        if self._kept[kind] < self._most:
            where, message = printable(str(where)), printable(message)
            self._keep(Finding(kind, KINDS[kind].severity, where, message))

    def merge(self, other: Findings) -> None:
        """Take over the findings of another collection."""
        self.numbers.update(other.numbers)
        for finding in other.kept:
            if self._kept[finding.kind] < self._most:
                self._keep(finding)

    def _keep(self, finding: Finding) -> None:
        self.kept.append(finding)
        self._kept[finding.kind] += 1

    def sorted(self) -> list[Finding]:
        """Those that are kept, in the order of the kinds."""
        order = {kind: index for index, kind in enumerate(KINDS)}
        return sorted(self.kept, key=lambda finding: order[finding.kind])


@dataclass
class ClassCount:
    """How often a class occurs.

    Attributes:
        id: of the category in the JSON.
        name: of the class.
        isthing: whether it is a thing.
        segments: number of its segments, those of crowds among them.
        crowds: number of its segments with iscrowd.
        pictures: number of pictures with a segment of it.
        pixels: number of its pixels in all panoptic PNGs.
    """

    id: int
    name: str
    isthing: bool
    segments: int = 0
    crowds: int = 0
    pictures: int = 0
    pixels: int = 0


@dataclass
class Counts:
    """What there is in a dataset, faulty entries left out.

    Attributes:
        pictures: number of images in the JSON.
        annotated: how many of them have an annotation.
        segments: number of segments in the JSON.
        crowds: how many of them have iscrowd.
        pixels: number of pixels of all panoptic PNGs that could be read.
        void: how many of them are void.
        category_ids: smallest and largest; None without any.
        segment_ids: smallest and largest; None without any.
        image_ids: smallest and largest; None without any, and where they are strings.
        classes: ascending by id.
    """

    pictures: int = 0
    annotated: int = 0
    segments: int = 0
    crowds: int = 0
    pixels: int = 0
    void: int = 0
    category_ids: tuple[int, int] | None = None
    segment_ids: tuple[int, int] | None = None
    image_ids: tuple[int, int] | None = None
    classes: list[ClassCount] = field(default_factory=list)

    @property
    def void_share(self) -> float:
        """Void pixels of all pixels, 0 to 1; 0 without any."""
        return self.void / self.pixels if self.pixels else 0.0


@dataclass(frozen=True)
class Inspection:
    """The result of :func:`rpanoptic.data.inspection.inspect_panoptic`.

    Attributes:
        source: what was inspected.
        findings: at most 20 of each kind, in the order of the kinds; errors come first.
        numbers: how many findings there are of each kind that was found.
        counts: what there is in the dataset.
    """

    source: PanopticSource
    findings: list[Finding]
    numbers: dict[str, int]
    counts: Counts

    @property
    def errors(self) -> list[Finding]:
        """The errors among the findings."""
        return self.of_severity("error")

    @property
    def warnings(self) -> list[Finding]:
        """The warnings among the findings."""
        return self.of_severity("warning")

    def of_severity(self, severity: Severity) -> list[Finding]:
        """The findings of a severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    def number(self, severity: Severity) -> int:
        """How many findings of a severity there are, also those that are not kept."""
        return sum(
            number for kind, number in self.numbers.items() if KINDS[kind].severity == severity
        )

    @property
    def worst(self) -> Severity | None:
        """The highest severity that was found; None if nothing was."""
        return next((severity for severity in SEVERITIES if self.number(severity)), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers of strings and numbers, for JSON files."""
        return {
            "source": {key: str(path) for key, path in vars(self.source).items()},
            "worst": self.worst,
            "numbers": dict(self.numbers),
            "findings": [asdict(finding) for finding in self.findings],
            "counts": {**asdict(self.counts), "void_share": self.counts.void_share},
        }

    @classmethod
    def from_dict(cls, content: Any) -> Inspection:
        """The inspection that :meth:`to_dict` has turned into plain containers.

        Raises:
            DatasetError: ``content`` is none.
        """
        try:
            return cls(
                PanopticSource(**{key: Path(path) for key, path in content["source"].items()}),
                [Finding(**finding) for finding in content["findings"]],
                {kind: int(number) for kind, number in content["numbers"].items() if KINDS[kind]},
                _counts(content["counts"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"no report of an inspection ({type(error).__name__}: {error})"
            ) from None


def _counts(content: Mapping[str, Any]) -> Counts:
    values = {key: value for key, value in content.items() if key != "void_share"}
    for key in ("category_ids", "segment_ids", "image_ids"):
        values[key] = None if values[key] is None else tuple(values[key])
    return Counts(**{**values, "classes": [ClassCount(**one) for one in values["classes"]]})


def id_range(ids: Iterable[Any]) -> tuple[int, int] | None:
    """The smallest and the largest id; None if there is none, or if any is no number."""
    found = list(ids)
    if not found or any(type(one) is not int for one in found):
        return None
    return min(found), max(found)


def printable(text: str) -> str:
    """The text on one line, with escapes for what a terminal could not show."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
