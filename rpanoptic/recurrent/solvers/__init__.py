"""Solvers for ``u = g + J^T u``, one file each. Importing this package fills :data:`SOLVERS`."""

from rpanoptic.recurrent.solvers.anderson import Anderson, AndersonMixer
from rpanoptic.recurrent.solvers.base import (
    SOLVERS,
    AdjointSolver,
    JacobianProducts,
    Limits,
    Progress,
    StopReason,
)
from rpanoptic.recurrent.solvers.bicgstab import BiCGStab
from rpanoptic.recurrent.solvers.conjugate_gradient import ConjugateGradient
from rpanoptic.recurrent.solvers.gmres import GMRES
from rpanoptic.recurrent.solvers.neumann import Neumann

__all__ = [
    "GMRES",
    "SOLVERS",
    "AdjointSolver",
    "Anderson",
    "AndersonMixer",
    "BiCGStab",
    "ConjugateGradient",
    "JacobianProducts",
    "Limits",
    "Neumann",
    "Progress",
    "StopReason",
]
