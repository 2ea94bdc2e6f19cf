"""The labels of Cityscapes: Cordts et al., "The Cityscapes Dataset", CVPR 2016.

The numbers, names, colours and flags are those of the dataset; it draws labels that its evaluation
ignores, which are void in panoptic annotations.
"""

from __future__ import annotations

from rpanoptic.data.panoptic_classes import ClassTable, PanopticClass

_STUFF = (
    (7, "road", 0x804080),
    (8, "sidewalk", 0xF423E8),
    (11, "building", 0x464646),
    (12, "wall", 0x66669C),
    (13, "fence", 0xBE9999),
    (17, "pole", 0x999999),
    (19, "traffic light", 0xFAAA1E),
    (20, "traffic sign", 0xDCDC00),
    (21, "vegetation", 0x6B8E23),
    (22, "terrain", 0x98FB98),
    (23, "sky", 0x4682B4),
)
_THINGS = (
    (24, "person", 0xDC143C),
    (25, "rider", 0xFF0000),
    (26, "car", 0x00008E),
    (27, "truck", 0x000046),
    (28, "bus", 0x003C64),
    (31, "train", 0x005064),
    (32, "motorcycle", 0x0000E6),
    (33, "bicycle", 0x770B20),
)

#: Labels that the evaluation ignores: unlabeled, ego vehicle, rectification border, out of roi,
#: static, dynamic, ground, parking, rail track, guard rail, bridge, tunnel, polegroup, caravan,
#: trailer. Caravans and trailers have instances. Licence plates (-1) are never drawn.
CITYSCAPES_IGNORED = frozenset((0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30))

#: The 19 classes of the evaluation by the ids of the label images, which are not the train ids.
CITYSCAPES_CLASSES = ClassTable(
    tuple(
        PanopticClass(number, name, isthing, (color >> 16, color >> 8 & 255, color & 255))
        for entries, isthing in ((_STUFF, False), (_THINGS, True))
        for number, name, color in entries
    )
)
