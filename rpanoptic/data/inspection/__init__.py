"""Looks through a whole panoptic dataset and lists every fault, not the first one alone."""

from rpanoptic.data.inspection.dataset import inspect_panoptic
from rpanoptic.data.inspection.findings import ClassCount, Counts, Finding, Inspection
from rpanoptic.data.inspection.kinds import KINDS, SEVERITIES, Kind, Severity

__all__ = [
    "KINDS",
    "SEVERITIES",
    "ClassCount",
    "Counts",
    "Finding",
    "Inspection",
    "Kind",
    "Severity",
    "inspect_panoptic",
]
