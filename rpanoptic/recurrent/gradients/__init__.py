"""Gradient methods by name. Importing this package fills :data:`GRADIENTS`."""

from rpanoptic.recurrent.gradients.base import (
    GRADIENTS,
    CellStep,
    GradientConfig,
    GradientMethod,
    Rollout,
)
from rpanoptic.recurrent.gradients.equilibrium import CGRBP, CRBP, RBP, Phantom
from rpanoptic.recurrent.gradients.failure import EquilibriumError
from rpanoptic.recurrent.gradients.through_time import BPTT, CBPTT, TBPTT, CheckpointedBPTT

__all__ = [
    "BPTT",
    "CBPTT",
    "CGRBP",
    "CRBP",
    "GRADIENTS",
    "RBP",
    "TBPTT",
    "CellStep",
    "CheckpointedBPTT",
    "EquilibriumError",
    "GradientConfig",
    "GradientMethod",
    "Phantom",
    "Rollout",
]
