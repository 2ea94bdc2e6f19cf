"""The recurrent engine: cells, their dynamics, the gradients of their equilibria. Pure PyTorch."""

from rpanoptic.recurrent.adjoint import AdjointConfig, AdjointRecord, StopReason, neumann_series
from rpanoptic.recurrent.cells import CELLS, RecurrentCell, build_cell
from rpanoptic.recurrent.dynamics import Diagnostics, RecurrentBlock, RecurrentOutput
from rpanoptic.recurrent.gradients import GRADIENTS, GradientMethod
from rpanoptic.recurrent.penalty import LipschitzPenalty

__all__ = [
    "CELLS",
    "GRADIENTS",
    "AdjointConfig",
    "AdjointRecord",
    "Diagnostics",
    "GradientMethod",
    "LipschitzPenalty",
    "RecurrentBlock",
    "RecurrentCell",
    "RecurrentOutput",
    "StopReason",
    "build_cell",
    "neumann_series",
]
