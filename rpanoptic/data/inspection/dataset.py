"""Inspects a whole panoptic dataset."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator, Sequence
from functools import partial

from rpanoptic.data.inspection.content import Content, Picture, read_content
from rpanoptic.data.inspection.files import FileResult, inspect_files
from rpanoptic.data.inspection.findings import Counts, Findings, Inspection
from rpanoptic.data.inspection.unlisted import find_unlisted
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.data.parallel import map_in_processes

_MOST_VOID = 0.5


def inspect_panoptic(source: PanopticSource, *, workers: int, progress: bool = True) -> Inspection:
    """Look through all files of a panoptic dataset, and list everything that is wrong.

    The JSON is read whole; every picture that it annotates is decoded, and every panoptic PNG is
    compared with its segments. Nothing is written.

    Args:
        source: where the files are.
        workers: number of processes, at least 1.
        progress: whether to show a progress bar, on standard error.

    Returns:
        findings and counts, the same for any number of workers.

    Raises:
        DatasetError: a folder or the JSON is not there, or the JSON is no panoptic JSON at all.
        UserError: a worker process was killed.
        ValueError: ``workers`` is below 1.
    """
    source.check_exists()
    findings = Findings()
    content = read_content(source.panoptic_json, findings)
    with _shared_memory() if workers > 1 else contextlib.nullcontext():
        results = map_in_processes(
            partial(inspect_files, source=source),
            content.pictures,
            workers=workers,
            description=source.panoptic_json.name,
            progress=progress,
        )
    for result in results:
        findings.merge(result.findings)
    _find_identical(content.pictures, results, findings)
    find_unlisted(
        [
            (
                source.image_root,
                [
                    *(one.file_name for one in content.pictures if one.file_name is not None),
                    *content.other_pictures,
                ],
                "unlisted_picture",
            ),
            (
                source.panoptic_root,
                [one.png for one in content.pictures if one.png is not None],
                "unlisted_png",
            ),
        ],
        findings,
    )
    _count_pixels(content, results)
    _check_counts(content.counts, findings)
    return Inspection(source, findings.sorted(), dict(findings.numbers), content.counts)


@contextlib.contextmanager
def _shared_memory() -> Iterator[None]:
    """Within it, forked workers share what this process holds.

    Their garbage collectors would else touch, and so copy, all of it.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _find_identical(
    pictures: Sequence[Picture], results: Sequence[FileResult], findings: Findings
) -> None:
    first: dict[bytes, str] = {}
    for picture, result in zip(pictures, results, strict=True):
        if not result.digest or picture.file_name is None:
            continue
        other = first.setdefault(result.digest, picture.file_name)
        if os.path.normpath(other) != os.path.normpath(picture.file_name):
            findings.add("identical_pictures", picture.file_name, f"is the same file as {other}")


def _count_pixels(content: Content, results: Sequence[FileResult]) -> None:
    by_id = {one.id: one for one in content.counts.classes}
    for result in results:
        content.counts.pixels += result.pixels
        content.counts.void += result.void
        for category_id, pixels in result.classes.items():
            by_id[category_id].pixels += pixels


def _check_counts(counts: Counts, findings: Findings) -> None:
    for one in counts.classes:
        if one.segments == 0:
            findings.add(
                "class_without_segments", f"category {one.id}", f"{one.name!r} never occurs"
            )
        elif one.isthing and one.crowds == one.segments:
            what = f"{one.name!r} occurs in crowds alone, which training leaves out"
            findings.add("only_crowds", f"category {one.id}", what)
    if counts.void_share > _MOST_VOID:
        findings.add("void_set", "all PNGs", f"{counts.void_share:.1%} of all pixels are void")
