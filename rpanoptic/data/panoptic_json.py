"""Reads a COCO panoptic JSON and checks it entry by entry."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from rpanoptic.errors import DatasetError

#: The lists of a COCO JSON.
COCO_LISTS = ("categories", "images", "annotations")


class _Kind(NamedTuple):
    """What a field must hold: in words, and as a test; and the kind of fault if it does not."""

    words: str
    holds: Callable[[Any], bool]
    fault: str = "wrong_value"


def is_inner_path(value: Any) -> bool:
    """Whether a file name stays below its folder, on every system."""
    if not isinstance(value, str) or "\0" in value:
        return False
    path = PureWindowsPath(value)  # takes both kinds of slash for separators
    return bool(path.parts) and not path.anchor and ".." not in path.parts


# type(), not isinstance: True is an int, too.
_NUMBER = _Kind("a whole number", lambda value: type(value) is int)
_LENGTH = _Kind("a whole number above 0", lambda value: type(value) is int and value > 0)
# COCO's image ids are numbers, those of Cityscapes are words.
_IMAGE_ID = _Kind("a whole number or a string", lambda value: type(value) in (int, str))
_FLAG = _Kind("0 or 1", lambda value: value in (0, 1), "wrong_flag")
# numpy, in which COCO's evaluation sorts ids, would take larger ones for floating-point numbers.
_ID_RANGE = range(-(2**63), 2**63)
_STRING = _Kind("a string", lambda value: isinstance(value, str))
_LIST = _Kind("a list", lambda value: isinstance(value, list))
_FILE = _Kind("a path below the folder of the PNGs, without '..'", is_inner_path, "png_outside")

_CATEGORY = {"id": _NUMBER, "isthing": _FLAG}
_IMAGE = {"id": _IMAGE_ID, "file_name": _STRING, "width": _LENGTH, "height": _LENGTH}
_ANNOTATION = {"image_id": _IMAGE_ID, "file_name": _FILE, "segments_info": _LIST}
_INSTANCE_FORM = "; instances with masks are converted by datasets/convert_panoptic.py from-coco"
_SEGMENT = {"id": _NUMBER, "category_id": _NUMBER}


class Fault(NamedTuple):
    """Something wrong in a panoptic JSON.

    Attributes:
        kind: a name in :data:`rpanoptic.data.inspection.kinds.KINDS`.
        where: the entry.
        what: what is wrong with it; a sentence that begins with ``where``.
    """

    kind: str
    where: str
    what: str


def load_panoptic_json(path: Path) -> dict[str, Any]:
    """Read a COCO panoptic JSON and check that its parts are whole and fit together.

    The file names of its PNGs stay below their folder, so they are safe to write to.

    Raises:
        DatasetError: there is no such file, it is no panoptic JSON, an entry lacks a field or
            holds something else there, or an annotation names an image or category that the
            file lacks. The message names the file and the entry.
    """
    content = read_panoptic_json(path)
    for fault in faults(content):
        raise DatasetError(f"{path}: {fault.where} {fault.what}.")
    return content


def read_panoptic_json(path: Path) -> dict[str, Any]:
    """Read a COCO panoptic JSON whose entries may have faults.

    Returns:
        its content, with the lists "categories", "images" and "annotations" of any objects.

    Raises:
        DatasetError: there is no such file, or it has no such lists.
    """
    return read_lists(path, "COCO panoptic JSON", COCO_LISTS)


def read_lists(path: Path, kind: str, keys: Iterable[str]) -> dict[str, Any]:
    """Read a JSON object that holds lists by these keys, and whatever else.

    Args:
        path: the file.
        kind: what it is to be, for the message.
        keys: of the lists, whose entries are not looked at.

    Raises:
        DatasetError: there is no such file, or it is no such JSON.
    """
    try:
        # Bytes: Windows' editors write a mark before the text, which json then knows.
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: no {kind} ({error}).") from None
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DatasetError(f"{path}: no {kind} (it has no list {key!r}).")
    return content


def faults(content: Mapping[str, Any]) -> Iterator[Fault]:
    """What is wrong with the entries of a panoptic JSON, one fault after another.

    Args:
        content: as :func:`read_panoptic_json` returns it.
    """
    categories: set[int] = set()
    yield from _list_faults(content, "categories", _CATEGORY, "duplicate_category", categories)
    images: set[Any] = set()
    yield from _list_faults(content, "images", _IMAGE, "duplicate_image", images)
    words = next((one for one in images if isinstance(one, str)), None)
    if words is not None and any(isinstance(one, int) for one in images):
        # COCO's evaluation would turn the numbers into strings, and find no annotations for them.
        what = f"have ids that are numbers, and ids that are strings, as {words!r}"
        yield Fault("mixed_image_ids", "images", what)
    seen: set[Any] = set()
    pngs: dict[str, Any] = {}
    for index, annotation in enumerate(content["annotations"]):
        where = f"annotations[{index}]"
        yield from _entry_faults(where, annotation, _ANNOTATION)
        if not isinstance(annotation, dict):
            continue
        file_name, image_id = annotation.get("file_name"), annotation.get("image_id")
        if _IMAGE_ID.holds(image_id):
            if image_id not in images:
                what = f"belongs to image {image_id!r}, which is absent"
                yield Fault("unknown_image", str(file_name), what)
            if image_id in seen:
                yield Fault("duplicate_annotation", f"image {image_id!r}", "has two annotations")
            seen.add(image_id)
        # Two annotations of one image are a fault already.
        png = os.path.normpath(str(file_name))
        if _FILE.holds(file_name) and pngs.setdefault(png, image_id) != image_id:
            yield Fault("duplicate_png", where, f"has the PNG {file_name!r} of another image")
        if isinstance(annotation.get("segments_info"), list):
            yield from _segment_faults(f"{where} ({file_name})", annotation, categories)


def _list_faults(
    content: Mapping[str, Any],
    key: str,
    kinds: Mapping[str, _Kind],
    duplicate: str,
    ids: set[Any],
) -> Iterator[Fault]:
    """The faults of a list's entries, whose ids are added to ``ids``."""
    for index, entry in enumerate(content[key]):
        where = f"{key}[{index}]"
        yield from _entry_faults(where, entry, kinds)
        if not isinstance(entry, dict) or not kinds["id"].holds(entry.get("id")):
            continue
        if entry["id"] in ids:
            yield Fault(duplicate, where, f"has the id {entry['id']!r} of an entry before it")
        elif isinstance(entry["id"], int) and entry["id"] not in _ID_RANGE:
            yield Fault("wrong_value", where, f"has the id {entry['id']}, too long for 64 bits")
        ids.add(entry["id"])


def _segment_faults(
    place: str, annotation: Mapping[str, Any], categories: set[int]
) -> Iterator[Fault]:
    file_name = annotation.get("file_name")
    seen = set()
    for number, segment in enumerate(annotation["segments_info"]):
        where = f"{place}: segments_info[{number}]"
        yield from _entry_faults(where, segment, _SEGMENT)
        if not isinstance(segment, dict):
            continue
        if not _FLAG.holds(segment.get("iscrowd", 0)):
            yield _wrong_value(where, "iscrowd", _FLAG, segment["iscrowd"])
        segment_id, category = segment.get("id"), segment.get("category_id")
        if _NUMBER.holds(segment_id):
            if segment_id in seen:
                what = f"has the id {segment_id} of a segment before it"
                yield Fault("duplicate_segment", where, what)
            seen.add(segment_id)
        if _NUMBER.holds(category) and category not in categories:
            what = f"has category {category}, which is not among the file's categories"
            yield Fault("unknown_category", f"segment {segment_id} of {file_name}", what)


def _entry_faults(where: str, entry: Any, kinds: Mapping[str, _Kind]) -> Iterator[Fault]:
    if not isinstance(entry, dict):
        yield Fault("wrong_value", where, f"must be an object, got {_short(entry)}")
        return
    for key, kind in kinds.items():
        if key not in entry:
            hint = _INSTANCE_FORM if kinds is _ANNOTATION and "segmentation" in entry else ""
            yield Fault("missing_key", where, f"lacks {key!r}{hint}")
        elif not kind.holds(entry[key]):
            yield _wrong_value(where, key, kind, entry[key])


def _wrong_value(where: str, key: str, kind: _Kind, value: Any) -> Fault:
    return Fault(kind.fault, where, f"must have {kind.words} as {key!r}, got {_short(value)}")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
