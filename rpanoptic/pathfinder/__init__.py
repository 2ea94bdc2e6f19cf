"""Pathfinder: contour tracing (Linsley et al., NeurIPS 2020), its pictures, models and datasets.

Importing this registers the models and the datasets; nothing is drawn.
"""

from __future__ import annotations

from rpanoptic.pathfinder import imagenet, models
from rpanoptic.pathfinder.builtin import (
    register_builtin_sets,
    register_pathfinder,
    register_pathfinder_on_the_fly,
    register_prepared_sets,
)
from rpanoptic.pathfinder.generator import GENERATOR_VERSION, PathfinderSample, generate
from rpanoptic.pathfinder.settings import PathfinderError, PathfinderSettings
from rpanoptic.pathfinder.sources import source_of

register_builtin_sets()
register_prepared_sets()

__all__ = [
    "GENERATOR_VERSION",
    "PathfinderError",
    "PathfinderSample",
    "PathfinderSettings",
    "generate",
    "imagenet",
    "models",
    "register_pathfinder",
    "register_pathfinder_on_the_fly",
    "source_of",
]
