"""Smaller training sets drawn from COCO's: 1, 10, 25 and 50 % of its pictures, each in the next.

A split is a pair of JSON files beside the full ones. Pictures and PNGs are those of the full set.
Its pictures are those with the smallest hashes of seed and image id: so it depends on no order of
files, and on no random generator.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json, load_sem_seg
from detectron2.data.datasets.coco_panoptic import merge_to_panoptic

from rpanoptic.data.panoptic_json import load_panoptic_json
from rpanoptic.data.paths import write_atomically
from rpanoptic.errors import DatasetError

PERCENTAGES = (1, 10, 25, 50)
DEFAULT_SEED = 0
FULL_SET = "coco_2017_train_panoptic_separated"
COMMAND = "python datasets/prepare_coco_splits.py"


@dataclass(frozen=True)
class SplitReport:
    """What :func:`write_coco_splits` did for one percentage.

    Attributes:
        percent: of the pictures.
        pictures: their number.
        files: the panoptic and the instance JSON.
        written: the files of these that this run wrote; the others were there already.
    """

    percent: int
    pictures: int
    files: tuple[Path, Path]
    written: tuple[Path, ...]


def reduced_ids(ids: Iterable[int | str], percent: int, seed: int = DEFAULT_SEED) -> set[int | str]:
    """The image ids of a split. For one seed, a smaller percentage gives a subset of a larger one.

    Args:
        ids: all image ids, in any order, each once.
        percent: 1 to 99.
        seed: another one gives another choice.

    Returns:
        that percentage of ``ids``, rounded to a whole number of them.

    Raises:
        DatasetError: ``percent`` is out of its range, or of so few pictures leaves none.
    """
    if not 1 <= percent <= 99:
        raise DatasetError(f"a split has 1 to 99 % of the pictures, got {percent}.")
    ranked = sorted(ids, key=lambda image_id: _rank(image_id, seed))
    # Halves are rounded up.
    count = (2 * percent * len(ranked) + 100) // 200
    if count == 0:
        raise DatasetError(f"{percent} % of {len(ranked)} pictures are none.")
    return set(ranked[:count])


def _rank(image_id: int | str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{image_id}".encode()).digest()


def split_file(path: Path, percent: int) -> Path:
    """Where the split's version of an annotation file stands: beside it, as ``_reduce_10.json``."""
    return path.with_name(f"{path.stem}_reduce_{percent}{path.suffix}")


def write_coco_splits(
    panoptic_json: Path,
    instances_json: Path,
    percentages: Sequence[int] = PERCENTAGES,
    *,
    seed: int = DEFAULT_SEED,
    overwrite: bool = False,
) -> list[SplitReport]:
    """Write the annotation files of smaller sets beside those of the full set.

    The files are the same, byte by byte, for the same annotations, in whatever order these stand.
    A run that was killed may be started again: what is there as it should be is kept. Each JSON
    notes percentage and seed under "info".

    Args:
        panoptic_json: annotations of the full set in the COCO panoptic format.
        instances_json: its things-only instance annotations.
        percentages: 1 to 99 each.
        seed: of the choice.
        overwrite: replace files that differ.

    Raises:
        DatasetError: a file is missing or damaged, the two disagree, a split would be empty, a
            file is there that differs, or one cannot be written. Only the last can leave a part
            of the files written, each of them whole.
    """
    panoptic = load_panoptic_json(panoptic_json)
    ids = {annotation["image_id"] for annotation in panoptic["annotations"]}
    instances = _load_instances(instances_json, ids, panoptic_json)
    chosen = {percent: reduced_ids(ids, percent, seed) for percent in percentages}
    sources = ((panoptic_json, panoptic), (instances_json, instances))
    # Before anything is written, everything that is there is looked at.
    kept = set()
    for percent, pictures in chosen.items():
        for path, content in sources:
            target = split_file(path, percent)
            if not target.exists():
                continue
            if target.read_bytes() == _encoded(content, pictures, percent, seed):
                kept.add(target)
            elif not overwrite:
                raise DatasetError(
                    f"{target}: is there and differs: it was made with another seed or from other "
                    "annotations, or something else changed it. --overwrite replaces it."
                )
    reports = []
    for percent, pictures in chosen.items():
        written = []
        for path, content in sources:
            target = split_file(path, percent)
            if target not in kept:
                _write(target, _encoded(content, pictures, percent, seed))
                written.append(target)
        files = (split_file(panoptic_json, percent), split_file(instances_json, percent))
        reports.append(SplitReport(percent, len(pictures), files, tuple(written)))
    return reports


def _load_instances(path: Path, ids: set[Any], panoptic_json: Path) -> dict[str, Any]:
    """An instance JSON that has all pictures of the panoptic one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        images = {image["id"] for image in content["images"]}
        for annotation in content["annotations"]:
            annotation["image_id"], annotation["id"]  # must be there
    except FileNotFoundError:
        raise DatasetError(
            f"{path}: no such file. To make it from the panoptic annotations: "
            "python datasets/prepare_coco_panoptic.py."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: no COCO instance JSON ({type(error).__name__}: {error})."
        ) from None
    if missing := ids - images:
        raise DatasetError(
            f"{path}: lacks {len(missing)} pictures that {panoptic_json} has, image "
            f"{min(missing, key=str)} among them."
        )
    return content


def _encoded(content: Mapping[str, Any], pictures: set[Any], percent: int, seed: int) -> bytes:
    """The JSON of a split, whatever the order of the full one."""
    known = content.get("info")
    info = known if isinstance(known, dict) else {}
    info = {**info, "reduced_to_percent": percent, "seed": seed}
    images = [image for image in content["images"] if image["id"] in pictures]
    annotations = [a for a in content["annotations"] if a["image_id"] in pictures]
    reduced = {
        **content,
        "info": info,
        "images": sorted(images, key=lambda image: str(image["id"])),
        # Panoptic annotations have no id: there is one for each picture.
        "annotations": sorted(annotations, key=lambda a: (str(a["image_id"]), str(a.get("id")))),
    }
    return json.dumps(reduced).encode()


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        raise DatasetError(f"cannot write {path}: {error.strerror}.") from error


def split_name(percent: int, full_set: str = FULL_SET) -> str:
    """Name of a split in ``DatasetCatalog``."""
    return f"{full_set}_reduce_{percent}"


def register_coco_split(percent: int, full_set: str = FULL_SET) -> str:
    """Register a split of a set in the separated panoptic form, if its name is not taken.

    Its files are looked for beside those of the full set, and need not be there yet.

    Args:
        percent: of the pictures.
        full_set: a registered name.

    Returns:
        the split's name.
    """
    name = split_name(percent, full_set)
    if name in DatasetCatalog:
        return name
    full = MetadataCatalog.get(full_set).as_dict()
    files = {
        key: str(split_file(Path(full[key]), percent)) for key in ("panoptic_json", "json_file")
    }
    DatasetCatalog.register(name, lambda: load_split(name))
    MetadataCatalog.get(name).set(
        **{**full, **files, "name": name}, made_by=dict.fromkeys(files, COMMAND)
    )
    return name


def load_split(name: str) -> list[dict[str, Any]]:
    """The records of a registered split, as Detectron2 makes those of the full set."""
    metadata = MetadataCatalog.get(name)
    return merge_to_panoptic(
        load_coco_json(metadata.json_file, metadata.image_root, name),
        # The PNGs of all pictures are there; those of the split are taken by their names.
        load_sem_seg(metadata.sem_seg_root, metadata.image_root),
    )


def register_coco_splits() -> None:
    """Register all ``PERCENTAGES`` of COCO's training set. Calling again changes nothing."""
    for percent in PERCENTAGES:
        register_coco_split(percent)
