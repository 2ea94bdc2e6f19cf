"""A file that lists the classes of label images, as JSON, YAML or CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.paths import write_atomically
from rpanoptic.errors import DatasetError

_NEEDED = ("id", "name", "isthing")
_FIELDS = (*_NEEDED, "color")
_FLAGS = {"0": False, "1": True, "false": False, "true": True}


def read_classes(path: Path) -> ClassTable:
    """The classes that a file lists.

    JSON and YAML: a list of objects, or an object that holds one as "categories" (as a COCO
    panoptic JSON does). CSV: a first line with the names of the columns. Each class has "id" (a
    whole number), "name", "isthing" (0, 1, false or true) and, if wanted, "color" ("#rrggbb" or,
    but in CSV, a list of R, G, B from 0 to 255). Other fields are ignored.

    Raises:
        DatasetError: the file cannot be read, is of another kind, or an entry lacks a field, holds
            something else there, or has the id of another; the message names file and entry.
    """
    readers = {".json": _read_json, ".yaml": _read_yaml, ".yml": _read_yaml, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DatasetError(f"{path}: a file of classes ends in {', '.join(readers)}.")
    try:
        content = reader(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError, yaml.YAMLError, csv.Error) as error:
        raise DatasetError(f"{path}: no list of classes ({error}).") from None
    if isinstance(content, dict):
        content = content.get("categories")
    if not isinstance(content, list) or not content:
        raise DatasetError(f"{path}: no list of classes, nor an object with one as 'categories'.")
    categories: dict[int, dict[str, Any]] = {}
    for number, entry in enumerate(content, start=1):
        try:
            category = _category(entry)
            if category["id"] in categories:
                raise ValueError(f"has the id {category['id']} of an entry before it")
        except ValueError as error:
            raise DatasetError(f"{path}: class {number} of the list {error}.") from None
        categories[category["id"]] = category
    return ClassTable.from_categories(categories.values())


def write_classes(path: Path, classes: ClassTable) -> None:
    """Write a CSV that :func:`read_classes` reads as ``classes``.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    text = io.StringIO(newline="")
    # The reader takes blanks before a value for layout, unless they are quoted.
    blanks = any(one.name != one.name.lstrip() for one in classes.classes)
    writer = csv.writer(
        text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC if blanks else csv.QUOTE_MINIMAL
    )
    writer.writerow(_FIELDS)
    for one in classes.classes:
        writer.writerow((one.id, one.name, int(one.isthing), "#" + bytes(one.color).hex()))
    write_atomically(path, text.getvalue().encode())


def _read_json(text: str) -> Any:
    return json.loads(text)


def _read_yaml(text: str) -> Any:
    return yaml.safe_load(text)


def _read_csv(text: str) -> Any:
    rows = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    missing = [key for key in _NEEDED if key not in (rows.fieldnames or ())]
    if missing:
        raise ValueError(
            f"its first line must name the columns {', '.join(_NEEDED)}, parted by commas; it "
            f"lacks {', '.join(missing)}"
        )
    return [{key: value for key, value in row.items() if value not in (None, "")} for row in rows]


def _category(entry: Any) -> dict[str, Any]:
    """A checked entry of a panoptic JSON's "categories"; ValueError says what is wrong."""
    if not isinstance(entry, dict):
        raise ValueError(f"must be an object, got {entry!r}")
    for key in _NEEDED:
        if key not in entry:
            raise ValueError(f"lacks {key!r}")
    number, name, isthing = entry["id"], entry["name"], str(entry["isthing"]).lower()
    if isinstance(number, str) and re.fullmatch(r"-?[0-9]{1,19}", number):
        number = int(number)
    if type(number) is not int:  # type(), not isinstance: True is an int, too
        raise ValueError(f"must have a whole number as 'id', got {number!r}")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"must have a name as 'name', got {name!r}")
    if isthing not in _FLAGS:
        raise ValueError(f"must have 0 or 1 as 'isthing', got {entry['isthing']!r}")
    category = {"id": number, "name": name, "isthing": _FLAGS[isthing]}
    if entry.get("color") is not None:
        category["color"] = _color(entry["color"])
    return category


def _color(value: Any) -> list[int]:
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return list(bytes.fromhex(value[1:]))
    whole = isinstance(value, Sequence) and all(type(part) is int for part in value)
    if whole and len(value) == 3 and all(0 <= part <= 255 for part in value):
        return list(value)
    raise ValueError(f"must have '#rrggbb' or R, G, B from 0 to 255 as 'color', got {value!r}")
