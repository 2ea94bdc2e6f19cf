"""A few pictures of a panoptic dataset with their ground truth, in a grid."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.data.catalog import Metadata

from rpanoptic.data.check import evenly_spread, read_as_detectron2
from rpanoptic.data.inspection import Inspection
from rpanoptic.data.inspection.content import Picture, read_content
from rpanoptic.data.inspection.findings import Findings, printable
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.panoptic_format import read_panoptic_png
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.errors import DatasetError
from rpanoptic.visualization.grid import picture_grid
from rpanoptic.visualization.panoptic import draw_panoptic

_CELL_WIDTH = 440
# Pictures are drawn at most twice as large as they are shown.
_MAX_SIDE = 2 * _CELL_WIDTH
# What fits above a cell.
_MAX_HEADING = 42
_NOTHING = 225
# Height of a cell by its width, at most; a long and narrow picture gets margins.
_MOST_PROPORTION = 1.5


def draw_preview(
    inspection: Inspection, *, pictures: int = 12, columns: int = 3
) -> np.ndarray | None:
    """Draw pictures of a dataset: first those with errors or warnings, then evenly spread ones.

    What cannot be read is left out: a grey field stands for a picture, and a picture whose panoptic
    PNG is missing or of another size is drawn without it.

    Args:
        inspection: of the dataset, whose files are read again.
        pictures: how many to draw, at most.
        columns: of the grid.

    Returns:
        ``(H, W, 3)`` uint8, RGB, with the kinds of findings and the file name above each picture;
        None if the dataset annotates no picture.

    Raises:
        DatasetError: its JSON is no panoptic JSON any more, or has too many stuff classes.
    """
    content = read_content(inspection.source.panoptic_json, Findings())
    kinds = _kinds(inspection)
    faulty = [one for one in content.pictures if _names(one) & kinds.keys()][:pictures]
    chosen = set(map(id, faulty))
    rest = [one for one in content.pictures if id(one) not in chosen]
    shown = faulty + (evenly_spread(rest, pictures - len(faulty)) if len(faulty) < pictures else [])
    if not shown:
        return None
    categories = [{**one, "name": printable(one["name"])} for one in content.categories]
    metadata = Metadata().set(**ClassTable.from_categories(categories).metadata())
    bands = []
    for start in range(0, len(shown), columns):
        row = shown[start : start + columns]
        cells = [_drawn(one, inspection.source, metadata) for one in row]
        blanks = min(columns, len(shown)) - len(row)
        cells += [np.full((1, 1, 3), 255, dtype=np.uint8)] * blanks
        headings = [_heading(one, kinds) for one in row] + [""] * blanks
        bands.append(picture_grid([cells], headings=headings, cell_width=_CELL_WIDTH))
    return np.concatenate(bands)


def _kinds(inspection: Inspection) -> dict[str, list[str]]:
    """The kinds of errors and warnings by the file that has them."""
    found: dict[str, list[str]] = {}
    for finding in (*inspection.errors, *inspection.warnings):
        # A file's name, or a place in its annotation: "segment 5 of a.png", "... (a.png): ...".
        where = finding.where
        for name in {where, where.partition(" of ")[2], *re.findall(r"\((.*)\)", where)}:
            kinds = found.setdefault(name, [])
            if finding.kind not in kinds:
                kinds.append(finding.kind)
    return found


def _names(picture: Picture) -> set[str]:
    return {printable(name) for name in (picture.file_name, picture.png) if name is not None}


def _heading(picture: Picture, kinds: dict[str, list[str]]) -> str:
    found = [kind for name in sorted(_names(picture)) for kind in kinds.get(name, ())]
    name = printable(picture.name)
    text = f"{', '.join(found)}: {name}" if found else name
    return text if len(text) <= _MAX_HEADING else f"{text[: _MAX_HEADING - 3]}..."


def _drawn(picture: Picture, source: PanopticSource, metadata: Metadata) -> np.ndarray:
    image = _read(source.image_root, picture.file_name, read_as_detectron2)
    ids = _read(source.panoptic_root, picture.png, read_panoptic_png)
    if image is None:
        shape = (3, 4) if ids is None else ids.shape
        image = np.full((*shape, 3), _NOTHING, dtype=np.uint8)
    if ids is None or ids.shape != image.shape[:2]:
        ids = np.zeros(image.shape[:2], dtype=np.uint32)
    image, ids = _shrunk(image, ids)
    drawn = draw_panoptic(image, ids.astype(np.int64), _segments(picture, metadata), metadata)
    height, width = drawn.shape[:2]
    margin = max(0, round((height / _MOST_PROPORTION - width) / 2))
    return np.pad(drawn, ((0, 0), (margin, margin), (0, 0)), constant_values=255)


def _read(root: Path, name: str | None, read: Callable[[Path], np.ndarray]) -> np.ndarray | None:
    """What is in a file; None where it cannot be read, or is none."""
    with contextlib.suppress(DatasetError, OSError):
        if name is not None and (root / name).is_file():
            return read(root / name)
    return None


def _shrunk(image: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = ids.shape
    factor = _MAX_SIDE / max(height, width)
    if factor >= 1:
        return image, ids
    size = max(1, round(width * factor)), max(1, round(height * factor))
    rows = np.arange(size[1]) * height // size[1]
    columns = np.arange(size[0]) * width // size[0]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), ids[np.ix_(rows, columns)]


def _segments(picture: Picture, metadata: Metadata) -> Sequence[dict[str, object]]:
    """As :func:`draw_panoptic` takes them."""
    found = []
    for segment in picture.segments:
        things = metadata.thing_dataset_id_to_contiguous_id
        stuff = metadata.stuff_dataset_id_to_contiguous_id
        if segment.category_id is None or segment.id <= 0:
            continue
        isthing = segment.category_id in things
        category = (things if isthing else stuff)[segment.category_id]
        found.append({"id": segment.id, "category_id": category, "isthing": isthing})
    return found
