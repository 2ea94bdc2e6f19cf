"""Looks for faults in a registered dataset before training starts."""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.detection_utils import read_image

from rpanoptic.data.coco_panoptic import check_segments
from rpanoptic.data.panoptic_format import VOID_LABEL, read_panoptic_png, read_picture
from rpanoptic.data.panoptic_json import load_panoptic_json
from rpanoptic.data.paths import DATASETS_VARIABLE
from rpanoptic.errors import DatasetError

Item = TypeVar("Item")

_logger = logging.getLogger(__name__)

_FOLDERS = ("image_root", "panoptic_root", "sem_seg_root")
_FILES = ("panoptic_json", "json_file")
_PREPARED = ("sem_seg_root", "json_file")
_STUFF_IDS = "stuff_dataset_id_to_contiguous_id"
_THING_IDS = "thing_dataset_id_to_contiguous_id"


def check_dataset(name: str, *, max_pngs: int | None = 256) -> None:
    """Raise an error that names what is wrong with a registered dataset, if anything is.

    Whatever the metadata speaks of is checked: that every file is there, that the annotations'
    categories are in the metadata, that pictures, panoptic PNGs, semantic PNGs and JSON agree.
    The JSON files are read whole and the folders are listed once; files are opened for an evenly
    spread sample, and the log says of how many. A dataset whose metadata names no files passes. One
    whose metadata has a function ``check`` is checked by it alone.

    Args:
        name: a name in ``DatasetCatalog``.
        max_pngs: how many pictures to open, with their PNGs; None opens all.

    Raises:
        DatasetError: the dataset has a fault.
        UserError: what else a ``check`` raises.
    """
    metadata = registered_metadata(name)
    if (check := metadata.get("check")) is not None:
        check(max_pngs)
        return
    paths = existing_paths(name, metadata, (*_FOLDERS, *_FILES))
    pictures: dict[int, _Picture] = {}
    if "json_file" in paths:
        pictures |= _check_instances(name, metadata, paths["json_file"])
    if "panoptic_json" in paths:
        _check_panoptic(name, metadata, paths, pictures)
    _check_files_exist(paths, pictures.values())
    sample = evenly_spread(list(pictures.values()), len(pictures) if max_pngs is None else max_pngs)
    for picture in sample:
        _check_picture(name, metadata, paths, picture)
    if len(sample) < len(pictures):
        _logger.info(
            f"Dataset {name!r}: all files are there; opened a sample of {len(sample)} of "
            f"{len(pictures)} pictures with their PNGs, without a fault. "
            f"check_dataset({name!r}, max_pngs=None) opens all."
        )
    elif pictures:
        _logger.info(f"Dataset {name!r}: opened all {len(pictures)} pictures, without a fault.")


def registered_metadata(name: str) -> Metadata:
    """The metadata of a registered dataset.

    Raises:
        DatasetError: there is no dataset of this name; the message lists close names.
    """
    if name not in DatasetCatalog:
        raise DatasetError(f"There is no registered dataset {name!r}.{_known_names(name)}")
    return MetadataCatalog.get(name)


def _known_names(name: str) -> str:
    """The registered names that are close, and all that begin with the same word."""
    known = sorted(DatasetCatalog.list())
    family = [one for one in known if one.split("_")[0] == name.split("_")[0]]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f" Close names: {', '.join(near)}." if near else ""
    return f"{hint} Known: {', '.join(_folded(family or known))}."


def _folded(names: Iterable[str]) -> list[str]:
    """Names that differ in their split alone as one: "coco_2017_{train,val}"."""
    splits: dict[str, list[str]] = {}
    for name in names:
        found = re.search(r"(?<=_)(train|val|test)(?=_|$)", name)
        pattern = name if found is None else f"{name[: found.start()]}*{name[found.end() :]}"
        splits.setdefault(pattern, []).append(found.group() if found else "")
    return [
        pattern.replace("*", of[0] if len(of) == 1 else "{" + ",".join(of) + "}")
        for pattern, of in splits.items()
    ]


@dataclass
class _Picture:
    """A picture by the JSON: its file below image_root, (width, height), and annotation."""

    file_name: str
    size: tuple[int, int]
    source: Path
    panoptic: Mapping[str, Any] | None = None

    @property
    def sem_seg_name(self) -> str:
        return Path(self.file_name).with_suffix(".png").as_posix()


def existing_paths(name: str, metadata: Metadata, keys: Iterable[str]) -> dict[str, Path]:
    """The metadata's paths of those keys that it has.

    Raises:
        DatasetError: one is not there; the message says where datasets are looked for, and what
            makes it.
    """
    paths = {}
    for key in keys:
        value = metadata.get(key)
        if value is None:
            continue
        path = Path(value)
        if path.is_dir() if key in _FOLDERS else path.is_file():
            paths[key] = path
            continue
        root = os.environ.get(DATASETS_VARIABLE)
        where = f"{root!r} now" if root else "unset now, which stands for './datasets'"
        make = ""
        if key in metadata.get("made_by", ()):
            make = f" To make it: {metadata.made_by[key]}."
        elif key in _PREPARED and metadata.get("panoptic_json"):
            make = (
                " To make it from the panoptic annotations: "
                "python datasets/prepare_coco_panoptic.py."
            )
        raise DatasetError(
            f"{path}: no such {'folder' if key in _FOLDERS else 'file'} ({key} of dataset "
            f"{name!r}). Datasets are looked for under the environment variable "
            f"{DATASETS_VARIABLE} ({where}; Detectron2 reads it when it is imported).{make} "
            "datasets/README.md shows the layout."
        )
    return paths


def _check_instances(name: str, metadata: Metadata, path: Path) -> dict[int, _Picture]:
    try:
        content = json.loads(path.read_text())
        pictures = {
            image["id"]: _Picture(image["file_name"], (image["width"], image["height"]), path)
            for image in content["images"]
        }
        categories = {item["id"] for item in content.get("categories", ())}
        used = {(item["category_id"], item["image_id"]) for item in content.get("annotations", ())}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: no COCO instance JSON ({type(error).__name__}: {error})."
        ) from None
    known = set(metadata.get(_THING_IDS, categories))
    # Detectron2 numbers the file's categories in order, so it must list exactly the things.
    if categories and categories != known:
        raise DatasetError(
            f"{path}: its categories are not the thing categories in the metadata of {name!r}; "
            f"superfluous: {sorted(categories - known, key=str)}, missing: "
            f"{sorted(known - categories, key=str)}."
        )
    for category_id, image_id in used:
        if category_id not in known:
            raise DatasetError(
                f"{path}: an annotation of image {image_id} has category {category_id}, which is "
                f"not among the thing categories in the metadata of {name!r}."
            )
        if image_id not in pictures:
            raise DatasetError(
                f"{path}: an annotation belongs to image {image_id}, which the file lacks."
            )
    return pictures


def _check_panoptic(
    name: str, metadata: Metadata, paths: Mapping[str, Path], pictures: dict[int, _Picture]
) -> None:
    """Check the panoptic JSON and add its annotations to ``pictures``."""
    path = paths["panoptic_json"]
    content = load_panoptic_json(path)
    for key in (_STUFF_IDS, "stuff_classes"):
        if metadata.get(key) is None:
            raise DatasetError(f"The metadata of dataset {name!r} lacks {key}.")
    images = {image["id"]: image for image in content["images"]}
    things = {item["id"] for item in content["categories"] if item["isthing"]}
    known = set(metadata.get(_STUFF_IDS)) | set(metadata.get(_THING_IDS, things))
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            if segment["category_id"] not in known:
                raise DatasetError(
                    f"{path}: segment {segment['id']} of {annotation['file_name']} has category "
                    f"{segment['category_id']}, which is not in the metadata of {name!r}."
                )
        image = images[annotation["image_id"]]
        if "json_file" in paths and image["id"] not in pictures:
            raise DatasetError(
                f"{paths['json_file']}: lacks image {image['id']} ({image['file_name']}), which "
                f"{path} has."
            )
        size = image["width"], image["height"]
        picture = pictures.setdefault(image["id"], _Picture(image["file_name"], size, path))
        if picture.size != size:
            raise DatasetError(
                f"{picture.file_name}: {_spell(picture.size)} pixels by {picture.source}, but "
                f"{_spell(size)} by {path}."
            )
        picture.panoptic = annotation


def _check_files_exist(paths: Mapping[str, Path], pictures: Iterable[_Picture]) -> None:
    listings: dict[Path, set[str]] = {}

    def require(key: str, relative: str, source: Path) -> None:
        path = paths[key] / relative
        if path.parent not in listings:
            there = path.parent.iterdir() if path.parent.is_dir() else ()
            listings[path.parent] = {entry.name for entry in there}
        if path.name not in listings[path.parent]:
            make = (
                " To make the semantic PNGs: python datasets/prepare_coco_panoptic.py."
                if key == "sem_seg_root"
                else ""
            )
            raise DatasetError(f"{path}: no such file, but {source} needs it.{make}")

    for picture in pictures:
        if "image_root" in paths:
            require("image_root", picture.file_name, picture.source)
        if "panoptic_root" in paths and picture.panoptic:
            require("panoptic_root", picture.panoptic["file_name"], paths["panoptic_json"])
        if "sem_seg_root" in paths:
            require("sem_seg_root", picture.sem_seg_name, picture.source)


def _check_picture(
    name: str, metadata: Metadata, paths: Mapping[str, Path], picture: _Picture
) -> None:
    """Open the files of one picture."""
    if "image_root" in paths:
        path = paths["image_root"] / picture.file_name
        _check_size(path, read_as_detectron2(path), picture)
    if "panoptic_root" in paths and picture.panoptic:
        path = paths["panoptic_root"] / picture.panoptic["file_name"]
        ids = read_panoptic_png(path)
        _check_size(path, ids, picture)
        segments = picture.panoptic["segments_info"]
        check_segments(path, ids, segments)
        _warn_of_areas(path, ids, segments)
    if "sem_seg_root" in paths:
        path = paths["sem_seg_root"] / picture.sem_seg_name
        labels = read_picture(path)
        _check_size(path, labels, picture)
        classes = metadata.get("stuff_classes")
        allowed = set(range(len(classes))) if classes else set(range(256))
        allowed.add(metadata.get("ignore_label", VOID_LABEL))
        wrong = {int(value) for value in np.unique(labels)} - allowed
        if labels.ndim != 2 or wrong:
            what = f"the labels {sorted(wrong)[:5]}" if wrong else f"the shape {labels.shape}"
            raise DatasetError(
                f"{path}: a semantic PNG of {name!r} has one channel of labels 0 to "
                f"{len(allowed) - 2}, or {metadata.get('ignore_label', VOID_LABEL)} for void; "
                f"this one has {what}."
            )


def read_as_detectron2(path: Path) -> np.ndarray:
    """The picture that training sees: (H, W, 3), RGB, turned as its EXIF orientation says.

    Raises:
        DatasetError: it cannot be read; the message names it.
    """
    try:
        return read_image(str(path), format="RGB")
    except Exception as error:
        raise DatasetError(f"{path}: cannot be read as a picture ({error}).") from None


def _check_size(path: Path, pixels: np.ndarray, picture: _Picture) -> None:
    found = pixels.shape[1], pixels.shape[0]
    if found != picture.size:
        raise DatasetError(
            f"{path}: is {_spell(found)} pixels, but {_spell(picture.size)} by {picture.source}."
        )


def _warn_of_areas(path: Path, ids: np.ndarray, segments: Iterable[Mapping[str, Any]]) -> None:
    """panopticapi trusts the JSON's areas: wrong ones give a wrong PQ, even above 100 %."""
    drawn = dict(zip(*np.unique(ids, return_counts=True), strict=True))
    for segment in segments:
        if segment.get("area") != drawn[segment["id"]]:
            _logger.warning(
                f"{path}: segment {segment['id']} has {drawn[segment['id']]} pixels, but area "
                f"{segment.get('area')} in the JSON. PQ will be wrong."
            )


def evenly_spread(pictures: Sequence[Item], count: int) -> list[Item]:
    """At most ``count`` of the pictures, evenly spread, first and last among them."""
    if len(pictures) <= count:
        return list(pictures)
    return [pictures[i] for i in np.linspace(0, len(pictures) - 1, count).round().astype(int)]


def _spell(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
