"""The classes of the synthetic panoptic set."""

from __future__ import annotations

from typing import Any, NamedTuple


class SyntheticClass(NamedTuple):
    """A category: its id in the files, its name, and its colour (R, G, B) in drawings."""

    id: int
    name: str
    isthing: bool
    color: tuple[int, int, int]


# A stuff region is told by its texture alone; its colours are random. A thing is told by its shape
# and by its hue: each class has a range of its own.
THINGS = (
    SyntheticClass(1, "disk", True, (226, 106, 92)),
    SyntheticClass(2, "square", True, (78, 148, 214)),
    SyntheticClass(3, "triangle", True, (240, 184, 72)),
    SyntheticClass(4, "star", True, (150, 104, 200)),
)
STUFF = (
    SyntheticClass(5, "stripes", False, (132, 184, 158)),
    SyntheticClass(6, "checks", False, (198, 172, 140)),
    SyntheticClass(7, "dots", False, (146, 176, 206)),
    SyntheticClass(8, "clouds", False, (204, 204, 196)),
)
CLASSES = THINGS + STUFF

_THINGS_COLOR = (96, 96, 96)


def coco_categories(classes: tuple[SyntheticClass, ...]) -> list[dict[str, Any]]:
    """``classes`` as the "categories" of a COCO JSON."""
    return [
        {
            "id": item.id,
            "name": item.name,
            "supercategory": "shape" if item.isthing else "texture",
            "isthing": int(item.isthing),
            "color": list(item.color),
        }
        for item in classes
    ]


def class_metadata() -> dict[str, Any]:
    """The class tables of Detectron2's metadata, in the separated form (stuff 0 is "things")."""
    return {
        "thing_classes": [item.name for item in THINGS],
        "thing_colors": [list(item.color) for item in THINGS],
        "thing_dataset_id_to_contiguous_id": {item.id: i for i, item in enumerate(THINGS)},
        "stuff_classes": ["things"] + [item.name for item in STUFF],
        "stuff_colors": [list(_THINGS_COLOR)] + [list(item.color) for item in STUFF],
        "stuff_dataset_id_to_contiguous_id": {
            **{item.id: 1 + i for i, item in enumerate(STUFF)},
            0: 0,
        },
    }
