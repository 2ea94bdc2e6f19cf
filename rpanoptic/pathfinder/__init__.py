"""Pathfinder: contour tracing (Linsley et al., NeurIPS 2020), its pictures, models and datasets."""

from __future__ import annotations

from rpanoptic.pathfinder import models
from rpanoptic.pathfinder.generator import GENERATOR_VERSION, PathfinderSample, generate
from rpanoptic.pathfinder.settings import PathfinderError, PathfinderSettings

__all__ = [
    "GENERATOR_VERSION",
    "PathfinderError",
    "PathfinderSample",
    "PathfinderSettings",
    "generate",
    "models",
]
