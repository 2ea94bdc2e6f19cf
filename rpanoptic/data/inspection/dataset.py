"""Inspects a whole panoptic dataset."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rpanoptic.data.coco_panoptic import check_segments
from rpanoptic.data.inspection.findings import Counts, Findings, Inspection
from rpanoptic.data.panoptic_format import read_panoptic_png
from rpanoptic.data.panoptic_json import load_panoptic_json
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.data.parallel import map_in_processes
from rpanoptic.errors import DatasetError


def inspect_panoptic(source: PanopticSource, *, workers: int, progress: bool = True) -> Inspection:
    """Look through all files of a panoptic dataset.

    Args:
        source: where they are.
        workers: number of processes, at least 1.
        progress: whether to show a progress bar, on standard error.

    Raises:
        DatasetError: a folder or the JSON is not there, or the JSON is no panoptic JSON at all.
        ValueError: ``workers`` is below 1.
    """
    source.check_exists()
    content = load_panoptic_json(source.panoptic_json)
    findings = Findings()
    function = partial(_inspect_png, source=source)
    for found in map_in_processes(
        function, content["annotations"], workers=workers, progress=progress
    ):
        findings.merge(found)
    counts = Counts(pictures=len(content["images"]), annotated=len(content["annotations"]))
    return Inspection(source, findings.sorted(), dict(findings.numbers), counts)


def _inspect_png(annotation: Mapping[str, Any], source: PanopticSource) -> Findings:
    findings = Findings()
    path = source.panoptic_root / annotation["file_name"]
    try:
        check_segments(path, read_panoptic_png(path), annotation["segments_info"])
    except DatasetError as error:
        findings.add("png_unreadable", annotation["file_name"], str(error))
    return findings
