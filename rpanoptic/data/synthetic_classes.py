"""The classes of the synthetic panoptic set."""

from __future__ import annotations

from typing import Any

from rpanoptic.data.panoptic_classes import ClassTable, PanopticClass

# A stuff region is told by its texture alone; its colours are random. A thing is told by its shape
# and by its hue: each class has a range of its own.
THINGS = (
    PanopticClass(1, "disk", True, (226, 106, 92)),
    PanopticClass(2, "square", True, (78, 148, 214)),
    PanopticClass(3, "triangle", True, (240, 184, 72)),
    PanopticClass(4, "star", True, (150, 104, 200)),
)
STUFF = (
    PanopticClass(5, "stripes", False, (132, 184, 158)),
    PanopticClass(6, "checks", False, (198, 172, 140)),
    PanopticClass(7, "dots", False, (146, 176, 206)),
    PanopticClass(8, "clouds", False, (204, 204, 196)),
)
CLASSES = THINGS + STUFF


def coco_categories(classes: tuple[PanopticClass, ...]) -> list[dict[str, Any]]:
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
    return ClassTable(CLASSES).metadata()
