"""Pictures with one label: ImageNet, own folders and scikit-learn's digits.

Importing this registers the sets by their names; nothing is read.
"""

from __future__ import annotations

from rpanoptic.pathfinder.imagenet.data.builtin import (
    register_builtin_sets,
    register_image_folder,
    register_image_shards,
)
from rpanoptic.pathfinder.imagenet.data.mapper import ClassificationMapper
from rpanoptic.pathfinder.imagenet.data.packing import index_folder, pack_folder

register_builtin_sets()

__all__ = [
    "ClassificationMapper",
    "index_folder",
    "pack_folder",
    "register_image_folder",
    "register_image_shards",
]
