"""The classes of a panoptic dataset: names, colours, contiguous ids, in every form they are needed.

Detectron2's separated form numbers the things from 0 and the stuff from 1, each in the order of
their category ids; stuff 0 stands for all things.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from detectron2.data.catalog import Metadata

from rpanoptic.errors import DatasetError

Color = tuple[int, int, int]

#: Stuff label 0 of the separated form.
THINGS_NAME = "things"
_THINGS_COLOR: Color = (96, 96, 96)
# Steps of this part of the colour circle never come close to an earlier hue.
_GOLDEN_RATIO = 0.61803398875
# Labels of a semantic PNG of 8 bits, without 0 (things) and 255 (void).
MOST_STUFF = 254


class PanopticClass(NamedTuple):
    """A category: its id in the files, its name, and its colour (R, G, B) in drawings."""

    id: int
    name: str
    isthing: bool
    color: Color


@dataclass(frozen=True)
class ClassTable:
    """The classes of a dataset, each once, in the order of their ids.

    Attributes:
        classes: things and stuff, ascending by id.
    """

    classes: tuple[PanopticClass, ...]

    @classmethod
    def from_categories(cls, categories: Iterable[Mapping[str, Any]]) -> ClassTable:
        """The classes of a panoptic JSON.

        Args:
            categories: its "categories", checked as
                :func:`rpanoptic.data.panoptic_json.load_panoptic_json` does: "id" and "isthing".
                A class without a usable "name" is called "class 7" by its id 7; one without a
                usable "color" (R, G, B, 0 to 255) gets one that depends on its place alone.

        Raises:
            DatasetError: there are more than 254 stuff classes, which 8-bit semantic PNGs cannot
                tell apart.
        """
        classes = []
        places = {True: 0, False: 1}
        for entry in sorted(categories, key=lambda entry: entry["id"]):
            isthing = bool(entry["isthing"])
            color = _color(entry.get("color")) or default_color(places[isthing], isthing=isthing)
            places[isthing] += 1
            classes.append(PanopticClass(entry["id"], class_name(entry), isthing, color))
        table = cls(tuple(classes))
        if len(table.stuff) > MOST_STUFF:
            raise DatasetError(
                f"{len(table.stuff)} stuff classes; an 8-bit semantic PNG tells at most "
                f"{MOST_STUFF} apart."
            )
        return table

    @classmethod
    def from_metadata(cls, metadata: Metadata) -> ClassTable | None:
        """The classes of a registered dataset, by its metadata; None where it has no such tables.

        The stuff may or may not be numbered from 1, with 0 for all things.
        """
        classes = []
        for kind in ("thing", "stuff"):
            ids = metadata.get(f"{kind}_dataset_id_to_contiguous_id")
            names = metadata.get(f"{kind}_classes")
            if ids is None or names is None:
                return None
            colors = metadata.get(f"{kind}_colors") or ()
            isthing = kind == "thing"
            for category_id, index in ids.items():
                if not isthing and index == 0 and names[0] == THINGS_NAME:
                    continue
                known = _color(colors[index]) if index < len(colors) else None
                color = known or default_color(index, isthing=isthing)
                classes.append(PanopticClass(int(category_id), names[index], isthing, color))
        return cls(tuple(sorted(classes)))

    @classmethod
    def from_dict(cls, content: Any) -> ClassTable:
        """The table that :meth:`to_dict` has turned into plain containers.

        Raises:
            DatasetError: ``content`` is none.
        """
        try:
            entries = [
                PanopticClass(
                    int(entry["id"]),
                    str(entry["name"]),
                    bool(entry["isthing"]),
                    _color(entry["color"]) or _THINGS_COLOR,
                )
                for entry in content["classes"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"no table of classes ({type(error).__name__}: {error})") from None
        return cls(tuple(sorted(entries)))

    def to_dict(self) -> dict[str, Any]:
        """Plain containers of strings and numbers, for JSON files and checkpoints."""
        return {"classes": self.categories()}

    @cached_property
    def things(self) -> tuple[PanopticClass, ...]:
        """The things, in the order of their contiguous ids."""
        return tuple(one for one in self.classes if one.isthing)

    @cached_property
    def stuff(self) -> tuple[PanopticClass, ...]:
        """The stuff, in the order of their contiguous ids, which begin at 1."""
        return tuple(one for one in self.classes if not one.isthing)

    def categories(self) -> list[dict[str, Any]]:
        """The "categories" of a COCO panoptic JSON."""
        return [
            {
                "id": one.id,
                "name": one.name,
                "isthing": int(one.isthing),
                "color": list(one.color),
            }
            for one in self.classes
        ]

    def difference(self, other: ClassTable) -> str | None:
        """What a model's labels mean otherwise under another table; None where all are the same.

        Labels are compared by their names, not by ids in files or colours.

        Returns:
            "3 kinds of things in the one, 4 in the other", or "thing 2 is 'cup' in the one and
            'can' in the other", whatever comes first; stuff is counted without the label of all
            things.
        """
        pairs = (("thing", self.things, other.things), ("stuff", self.stuff, other.stuff))
        for kind, ours, theirs in pairs:
            if len(ours) != len(theirs):
                plural = "things" if kind == "thing" else kind
                return f"{len(ours)} kinds of {plural} in the one, {len(theirs)} in the other"
            for number, (one, another) in enumerate(zip(ours, theirs, strict=True)):
                if one.name != another.name:
                    label = number + (kind == "stuff")
                    return (
                        f"{kind} {label} is {one.name!r} in the one and {another.name!r} in the "
                        "other"
                    )
        return None

    def metadata(self) -> dict[str, Any]:
        """The class tables of Detectron2's metadata, in the separated form (stuff 0 is "things").

        The id of "things" in the files, which none of them has, is 0, or one that no class has.
        """
        ids = {one.id for one in self.classes}
        free = 0 if 0 not in ids else max(ids) + 1
        return {
            "thing_classes": [one.name for one in self.things],
            "thing_colors": [list(one.color) for one in self.things],
            "thing_dataset_id_to_contiguous_id": {
                one.id: index for index, one in enumerate(self.things)
            },
            "stuff_classes": [THINGS_NAME, *(one.name for one in self.stuff)],
            "stuff_colors": [list(_THINGS_COLOR), *(list(one.color) for one in self.stuff)],
            "stuff_dataset_id_to_contiguous_id": {
                **{one.id: 1 + index for index, one in enumerate(self.stuff)},
                free: 0,
            },
        }


def class_name(category: Mapping[str, Any]) -> str:
    """The name of an entry of a panoptic JSON's "categories", or "class 7" by its id 7."""
    name = category.get("name")
    return name if isinstance(name, str) and name.strip() else f"class {category['id']}"


def default_color(index: int, *, isthing: bool) -> Color:
    """The colour of a class that names none, by its contiguous id; RGB, 0 to 255.

    Things are strong and stuff is pale, so that things stand out.
    """
    start, lightness, saturation = (0.0, 0.5, 0.85) if isthing else (0.3, 0.6, 0.4)
    rgb = colorsys.hls_to_rgb((start + index * _GOLDEN_RATIO) % 1, lightness, saturation)
    red, green, blue = (round(255 * value) for value in rgb)
    return red, green, blue


def _color(value: Any) -> Color | None:
    """A colour as three numbers from 0 to 255; None if it is something else."""
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        return None
    if any(isinstance(part, bool) or not isinstance(part, int) for part in value):
        return None
    if any(not 0 <= part <= 255 for part in value):
        return None
    red, green, blue = value
    return red, green, blue
