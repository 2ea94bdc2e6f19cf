"""The recurrent engine: cells, their dynamics, the gradients of their equilibria. Pure PyTorch."""

from rpanoptic.recurrent.adjoint import AdjointConfig, AdjointRecord, solve_adjoint
from rpanoptic.recurrent.blocks import check_steps, recurrent_blocks, steps_at_test, unwrapped
from rpanoptic.recurrent.cells import CELLS, RecurrentCell, build_cell
from rpanoptic.recurrent.dynamics import Diagnostics, RecurrentBlock, RecurrentOutput
from rpanoptic.recurrent.gradients import (
    GRADIENTS,
    EquilibriumError,
    GradientConfig,
    GradientMethod,
)
from rpanoptic.recurrent.penalty import LipschitzPenalty
from rpanoptic.recurrent.relaxation import ForwardConfig
from rpanoptic.recurrent.solvers import SOLVERS, StopReason

__all__ = [
    "CELLS",
    "GRADIENTS",
    "SOLVERS",
    "AdjointConfig",
    "AdjointRecord",
    "Diagnostics",
    "EquilibriumError",
    "ForwardConfig",
    "GradientConfig",
    "GradientMethod",
    "LipschitzPenalty",
    "RecurrentBlock",
    "RecurrentCell",
    "RecurrentOutput",
    "StopReason",
    "build_cell",
    "check_steps",
    "recurrent_blocks",
    "solve_adjoint",
    "steps_at_test",
    "unwrapped",
]
