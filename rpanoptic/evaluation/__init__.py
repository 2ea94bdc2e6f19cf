"""Evaluators by the type of a dataset, and the table of results."""

from rpanoptic.evaluation.build import (
    EVALUATORS,
    build_evaluators,
    check_evaluator_type,
    check_evaluators,
    check_learnable,
)
from rpanoptic.evaluation.summary import summary_table

__all__ = [
    "EVALUATORS",
    "build_evaluators",
    "check_evaluator_type",
    "check_evaluators",
    "check_learnable",
    "summary_table",
]
