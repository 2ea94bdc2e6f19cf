"""Recurrent cells, one file each. Importing this package fills :data:`CELLS`."""

from rpanoptic.recurrent.cells.base import CELLS, RecurrentCell, build_cell
from rpanoptic.recurrent.cells.gala import GALA
from rpanoptic.recurrent.cells.hgru import HGRU
from rpanoptic.recurrent.cells.low_dim_hgru import LowDimHGRU
from rpanoptic.recurrent.cells.pathfinder_hgru import PathfinderHGRU
from rpanoptic.recurrent.cells.top_down import TopDown

__all__ = [
    "CELLS",
    "GALA",
    "HGRU",
    "LowDimHGRU",
    "PathfinderHGRU",
    "RecurrentCell",
    "TopDown",
    "build_cell",
]
