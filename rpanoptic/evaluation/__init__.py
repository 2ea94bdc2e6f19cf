"""Evaluators by the type of a dataset, and the table of results."""

from rpanoptic.evaluation.build import (
    EVALUATORS,
    build_evaluators,
    check_evaluator_type,
    check_evaluators,
)
from rpanoptic.evaluation.summary import summary_table

__all__ = [
    "EVALUATORS",
    "build_evaluators",
    "check_evaluator_type",
    "check_evaluators",
    "summary_table",
]
