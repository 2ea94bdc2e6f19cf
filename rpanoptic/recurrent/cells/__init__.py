"""Recurrent cells, one file each. Importing this package fills :data:`CELLS`."""

from rpanoptic.recurrent.cells.base import CELLS, RecurrentCell, build_cell
from rpanoptic.recurrent.cells.conv_gru import ConvGRU
from rpanoptic.recurrent.cells.conv_lstm import ConvLSTM
from rpanoptic.recurrent.cells.conv_rnn import ConvRNN
from rpanoptic.recurrent.cells.gala import GALA
from rpanoptic.recurrent.cells.general_reciprocal_gated import (
    MEDIAN_RECIPROCAL_GATED,
    SHALLOW_RECIPROCAL_GATED,
    GeneralReciprocalGated,
)
from rpanoptic.recurrent.cells.hgru import HGRU
from rpanoptic.recurrent.cells.intersection import IntersectionRNN
from rpanoptic.recurrent.cells.loc_rnn import LocRNN
from rpanoptic.recurrent.cells.low_dim_hgru import LowDimHGRU
from rpanoptic.recurrent.cells.pathfinder_hgru import PathfinderHGRU
from rpanoptic.recurrent.cells.reciprocal_gated import ReciprocalGated
from rpanoptic.recurrent.cells.time_decay import TimeDecay
from rpanoptic.recurrent.cells.top_down import TopDown
from rpanoptic.recurrent.cells.ugrnn import UGRNN

__all__ = [
    "CELLS",
    "GALA",
    "HGRU",
    "MEDIAN_RECIPROCAL_GATED",
    "SHALLOW_RECIPROCAL_GATED",
    "UGRNN",
    "ConvGRU",
    "ConvLSTM",
    "ConvRNN",
    "GeneralReciprocalGated",
    "IntersectionRNN",
    "LocRNN",
    "LowDimHGRU",
    "PathfinderHGRU",
    "ReciprocalGated",
    "RecurrentCell",
    "TimeDecay",
    "TopDown",
    "build_cell",
]
