"""Turns numbers at the pixels into the segments of a panoptic picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from rpanoptic.data.convert.write import Segment, SegmentedPicture
from rpanoptic.data.panoptic_classes import ClassTable, PanopticClass
from rpanoptic.data.panoptic_format import VOID_ID
from rpanoptic.errors import DatasetError, listed

#: What becomes of the pixels of a thing that no instance has: one crowd segment of their class,
#: one ordinary segment of their class, void, or an error.
WITHOUT_INSTANCE = ("crowd", "segment", "void", "error")
#: What often stands for void in label images of 8 and 16 bits.
USUAL_VOID = (0, 255, 65535)


@dataclass(frozen=True)
class LabelRules:
    """What the numbers of label images mean.

    Attributes:
        classes: by the ids that the images hold.
        void: ids of the images that mean void.
        without_instance: one of :data:`WITHOUT_INSTANCE`.
    """

    classes: ClassTable
    void: frozenset[int] = frozenset()
    without_instance: str = "crowd"

    @classmethod
    def of(
        cls, classes: ClassTable, void: Iterable[int] | None, without_instance: str = "crowd"
    ) -> LabelRules:
        """Rules for a table of classes; without ``void``, :data:`USUAL_VOID`, if no classes."""
        if void is None:
            void = set(USUAL_VOID) - {one.id for one in classes.classes}
        return cls(classes, frozenset(void), without_instance)

    @cached_property
    def _by_id(self) -> dict[int, PanopticClass]:
        return {one.id: one for one in self.classes.classes}

    def segmented(
        self, values: np.ndarray, split: Callable[[int], tuple[int, int | None]], path: Path
    ) -> SegmentedPicture:
        """The segments of one picture.

        The pixels of a thing with one instance number make a segment, wherever they are. All
        pixels of a stuff class make one, whatever their instance numbers.

        Args:
            values: (H, W) int64 numbers.
            split: a number -> class id, and instance number or None.
            path: of the file that holds the classes, for messages.

        Raises:
            DatasetError: a class id is unknown, or a thing has no instance number although
                ``without_instance`` is "error".
        """
        found, places = np.unique(values, return_inverse=True)
        numbers: dict[Segment, int] = {}
        notes: Counter[str] = Counter()
        ids = np.full(len(found), VOID_ID, dtype=np.uint32)
        for index, value in enumerate(found.tolist()):
            segment = self._segment(*split(value), path, notes)
            if segment is not None:
                ids[index] = numbers.setdefault(segment, 1 + len(numbers))
        segments = {number: segment for segment, number in numbers.items()}
        return SegmentedPicture(ids[places.reshape(values.shape)], segments, notes=notes)

    def _segment(
        self, label: int, instance: int | None, path: Path, notes: Counter[str]
    ) -> Segment | None:
        """The segment that pixels of this class and instance belong to; None where void."""
        if label in self.void:
            return None
        if label not in self._by_id:
            known, void = listed(sorted(self._by_id), most=10), listed(sorted(self.void), most=10)
            raise DatasetError(
                f"{path}: holds the class {label}, which is neither among the classes ({known}) "
                f"nor void ({void or 'no value'}). What is void is said by --void."
            )
        name = self._by_id[label].name
        if not self._by_id[label].isthing:
            if instance is not None:
                notes["instance numbers of stuff ignored"] += 1
            return Segment(label, origin=name)
        if instance is not None:
            return Segment(label, origin=f"{name} {instance}")
        if self.without_instance == "error":
            raise DatasetError(f"{path}: holds the thing {label} ({name}) without an instance.")
        notes[f"things without an instance taken for {self.without_instance}"] += 1
        if self.without_instance == "void":
            return None
        return Segment(label, iscrowd=self.without_instance == "crowd", origin=name)
