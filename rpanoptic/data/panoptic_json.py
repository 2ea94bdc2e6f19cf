"""Reads a COCO panoptic JSON and checks it entry by entry."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from rpanoptic.errors import DatasetError


class _Kind(NamedTuple):
    """What a field must hold: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _is_inner_path(value: Any) -> bool:
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
_FLAG = _Kind("0 or 1", lambda value: value in (0, 1))
_STRING = _Kind("a string", lambda value: isinstance(value, str))
_LIST = _Kind("a list", lambda value: isinstance(value, list))
_FILE = _Kind("a path below the folder of the PNGs, without '..'", _is_inner_path)

_CATEGORY = {"id": _NUMBER, "isthing": _FLAG}
_IMAGE = {"id": _IMAGE_ID, "file_name": _STRING, "width": _LENGTH, "height": _LENGTH}
_ANNOTATION = {"image_id": _IMAGE_ID, "file_name": _FILE, "segments_info": _LIST}
_SEGMENT = {"id": _NUMBER, "category_id": _NUMBER}


def load_panoptic_json(path: Path) -> dict[str, Any]:
    """Read a COCO panoptic JSON and check that its parts are whole and fit together.

    The file names of its PNGs stay below their folder, so they are safe to write to.

    Raises:
        DatasetError: there is no such file, it is no panoptic JSON, an entry lacks a field or
            holds something else there, or an annotation names an image or category that the
            file lacks. The message names the file and the entry.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: no COCO panoptic JSON ({error}).") from None
    for key in ("categories", "images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DatasetError(f"{path}: no COCO panoptic JSON (it has no list {key!r}).")
    categories = _checked_ids(path, content, "categories", _CATEGORY)
    images = _checked_ids(path, content, "images", _IMAGE)
    seen = set()
    for index, annotation in enumerate(content["annotations"]):
        if fault := _fault(annotation, _ANNOTATION):
            raise DatasetError(f"{path}: annotations[{index}] {fault}.")
        file_name, image_id = annotation["file_name"], annotation["image_id"]
        if image_id not in images:
            raise DatasetError(f"{path}: {file_name} belongs to image {image_id}, which is absent.")
        if image_id in seen:
            raise DatasetError(f"{path}: image {image_id} has two annotations.")
        seen.add(image_id)
        _check_segment_entries(path, index, annotation, categories)
    return content


def _checked_ids(
    path: Path, content: Mapping[str, Any], key: str, kinds: Mapping[str, _Kind]
) -> set[Any]:
    """The ids of a list's entries, each there once."""
    ids = set()
    for index, entry in enumerate(content[key]):
        fault = _fault(entry, kinds)
        if fault is None and entry["id"] in ids:
            fault = f"has the id {entry['id']!r} of an entry before it"
        if fault:
            raise DatasetError(f"{path}: {key}[{index}] {fault}.")
        ids.add(entry["id"])
    return ids


def _check_segment_entries(
    path: Path, index: int, annotation: Mapping[str, Any], categories: set[Any]
) -> None:
    file_name = annotation["file_name"]
    seen = set()
    for number, segment in enumerate(annotation["segments_info"]):
        fault = _fault(segment, _SEGMENT)
        if fault is None and not _FLAG.holds(segment.get("iscrowd", 0)):
            fault = f"must have {_FLAG.words} as 'iscrowd', got {_short(segment['iscrowd'])}"
        if fault is None and segment["id"] in seen:
            fault = f"has the id {segment['id']} of a segment before it"
        if fault:
            raise DatasetError(
                f"{path}: annotations[{index}] ({file_name}): segments_info[{number}] {fault}."
            )
        seen.add(segment["id"])
        if segment["category_id"] not in categories:
            raise DatasetError(
                f"{path}: segment {segment['id']} of {file_name} has category "
                f"{segment['category_id']}, which is not among the file's categories."
            )


def _fault(entry: Any, kinds: Mapping[str, _Kind]) -> str | None:
    """What is wrong with an entry; None if all is well."""
    if not isinstance(entry, dict):
        return f"must be an object, got {_short(entry)}"
    for key, kind in kinds.items():
        if key not in entry:
            return f"lacks {key!r}"
        if not kind.holds(entry[key]):
            return f"must have {kind.words} as {key!r}, got {_short(entry[key])}"
    return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
