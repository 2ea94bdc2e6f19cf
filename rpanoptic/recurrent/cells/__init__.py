"""Recurrent cells, one file each. Importing this package fills :data:`CELLS`."""

from rpanoptic.recurrent.cells.base import CELLS, RecurrentCell, build_cell
from rpanoptic.recurrent.cells.gala import GALA
from rpanoptic.recurrent.cells.hgru import HGRU

__all__ = ["CELLS", "GALA", "HGRU", "RecurrentCell", "build_cell"]
