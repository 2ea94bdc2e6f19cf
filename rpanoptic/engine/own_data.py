"""Panoptic datasets of the user's own: from a config or a command line to registered names."""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from rpanoptic.data import register_panoptic
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.panoptic_dataset import PanopticMetadata
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.errors import ConfigError, DatasetError

logger = logging.getLogger(__name__)

_NEEDED = {
    "NAME": "what DATASETS.TRAIN and DATASETS.TEST call the dataset",
    "IMAGES": "folder of the pictures",
    "JSON": "COCO panoptic JSON",
    "PNGS": "folder of the panoptic PNGs",
}
_KNOWN = (*_NEEDED, "CACHE")

# Characters of a file's name that a dataset's name keeps.
_OTHER_THAN_NAMES = re.compile(r"[^\w-]+", re.ASCII)

#: What datasets are for.
SPLITS = ("TRAIN", "TEST")
#: The keys of numbers of classes that follow from panoptic data where nothing says otherwise.
THING_COUNTS = ("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.RETINANET.NUM_CLASSES")
STUFF_COUNT = "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
MASK_FORMAT = "INPUT.MASK_FORMAT"


@dataclass(frozen=True)
class OwnDataset:
    """An entry of ``DATASETS.PANOPTIC``.

    Attributes:
        name: for Detectron2's catalogue.
        source: the files.
        cache: folder that what is derived goes to; None: beside the JSON.
    """

    name: str
    source: PanopticSource
    cache: Path | None = None

    def entry(self) -> dict[str, str]:
        """The entry."""
        source = self.source
        paths = (source.image_root, source.panoptic_json, source.panoptic_root)
        entry = dict(zip(_NEEDED, (self.name, *map(str, paths)), strict=True))
        return entry if self.cache is None else {**entry, "CACHE": str(self.cache)}


def own_datasets(cfg: CfgNode) -> list[OwnDataset]:
    """The entries of ``DATASETS.PANOPTIC``; no file is looked for.

    Raises:
        ConfigError: an entry has an unknown key, lacks one, or holds something else than text, or
            two have one name. The message names the place, as ``DATASETS.PANOPTIC[0].JSON``.
    """
    found: dict[str, OwnDataset] = {}
    for number, entry in enumerate(cfg.DATASETS.PANOPTIC):
        one = _checked(f"DATASETS.PANOPTIC[{number}]", entry)
        if found.setdefault(one.name, one) != one:
            raise ConfigError(
                f"DATASETS.PANOPTIC[{number}].NAME is {one.name!r}, as that of other files before "
                "it: give each dataset a name of its own."
            )
    return list(found.values())


def _checked(place: str, entry: Any) -> OwnDataset:
    if not isinstance(entry, dict):
        raise ConfigError(f"{place} is {entry!r}; expected keys and values: {', '.join(_KNOWN)}.")
    for key, value in entry.items():
        if key not in _KNOWN:
            close = difflib.get_close_matches(str(key).upper(), _KNOWN, n=1)
            hint = f" Did you mean {close[0]}?" if close else f" Known: {', '.join(_KNOWN)}."
            raise ConfigError(f"{place}.{key} is unknown.{hint}")
        if not isinstance(value, str) or not value.strip():
            raise ConfigError(f"{place}.{key} must be text, got {value!r}.")
    for key, meaning in _NEEDED.items():
        if key not in entry:
            raise ConfigError(f"{place}.{key} is missing: {meaning}.")
    cache = entry.get("CACHE")
    return OwnDataset(
        entry["NAME"],
        PanopticSource.of(entry["IMAGES"], entry["JSON"], entry["PNGS"]),
        None if cache is None else Path(os.path.expandvars(cache)).expanduser(),
    )


def add_own_data(
    cfg: CfgNode,
    *,
    train: Sequence[PanopticSource] | None = None,
    test: Sequence[PanopticSource] | None = None,
    cache: str | Path | None = None,
) -> None:
    """Write datasets that have no names yet into a config, in place.

    Each becomes an entry of ``DATASETS.PANOPTIC``, with absolute paths and a name that is made from
    them, so that the config says all that a later run needs. No file is looked for.

    Args:
        cfg: a config, not frozen.
        train: the new ``DATASETS.TRAIN``; None leaves it as it is.
        test: the new ``DATASETS.TEST``; None leaves it as it is, or empties it where ``train`` is
            given: the config's own test sets would have other classes.
        cache: folder for what is derived, in which each dataset has a folder of its own; None:
            beside the JSONs.

    Raises:
        ConfigError: see :func:`own_datasets`.
    """
    known = {one.name: one for one in own_datasets(cfg)}
    if train is not None:
        cfg.DATASETS.TRAIN = _added(known, train, cache)
    if test is not None or train is not None:
        cfg.DATASETS.TEST = _added(known, test or (), cache)
    cfg.DATASETS.PANOPTIC = [one.entry() for one in known.values()]


def _added(
    known: dict[str, OwnDataset], sources: Iterable[PanopticSource], cache: str | Path | None
) -> tuple[str, ...]:
    """Put sources among the known datasets; return their names."""
    names = {}
    for source in sources:
        source = source.absolute()
        name = _name(source)
        place = None if cache is None else Path(cache).expanduser().absolute() / name
        names[name] = known[name] = OwnDataset(name, source, place)
    return tuple(names)


def _name(source: PanopticSource) -> str:
    """A name that two datasets do not share, the same in each run: "train_1b2c3d"."""
    paths = (source.image_root, source.panoptic_json, source.panoptic_root)
    digest = hashlib.sha256("\0".join(map(str, paths)).encode()).hexdigest()
    stem = _OTHER_THAN_NAMES.sub("_", source.panoptic_json.stem).strip("_") or "panoptic"
    return f"{stem}_{digest[:6]}"


def register_own_data(cfg: CfgNode, splits: Sequence[str] = SPLITS) -> None:
    """Register the entries of ``DATASETS.PANOPTIC``, in each process that works with a config.

    Registering again is harmless.

    Args:
        cfg: a config.
        splits: those of :data:`SPLITS` whose datasets are needed. Others that cannot be opened are
            left out, with a warning.

    Raises:
        ConfigError: see :func:`own_datasets`.
        DatasetError: see :func:`rpanoptic.data.register_panoptic`.
    """
    needed = {name for split in splits for name in cfg.DATASETS[split]}
    for one in own_datasets(cfg):
        source = one.source
        try:
            register_panoptic(
                one.name,
                source.image_root,
                source.panoptic_json,
                source.panoptic_root,
                cache=one.cache,
            )
        except DatasetError as error:
            if one.name in needed:
                raise
            logger.warning("Dataset %s is left out: %s", one.name, error)


def dataset_classes(name: str) -> ClassTable | None:
    """The classes of a registered panoptic set in the separated form; None for any other name.

    None as well where contiguous ids do not ascend with the ids of the files: the table could not
    say what a label stands for.
    """
    if name not in DatasetCatalog:
        return None
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") != "coco_panoptic_seg":
        return None
    try:
        table = ClassTable.from_metadata(metadata)
    except (IndexError, KeyError, TypeError, ValueError):  # Metadata can hold anything.
        return None
    if table is None:
        return None
    separated = table.metadata()
    kinds = ("thing_classes", "stuff_classes")
    return table if all(list(metadata.get(k)) == separated[k] for k in kinds) else None


def first_classes(names: Iterable[str]) -> ClassTable | None:
    """The classes of the first of several datasets that :func:`dataset_classes` knows."""
    return next((table for name in names if (table := dataset_classes(name)) is not None), None)


def leave_open(cfg: CfgNode) -> dict[str, Any]:
    """Take the values that may follow from the data out of a config, before anything is merged.

    A file or an override that says nothing leaves a number of classes at 0.

    Returns:
        the values that were there, for :func:`follow_data`.
    """
    before = {key: _get(cfg, key) for key in (*THING_COUNTS, STUFF_COUNT, MASK_FORMAT)}
    for key, value in before.items():
        _set(cfg, key, type(value)())
    return before


def follow_data(cfg: CfgNode, before: dict[str, Any], classes: ClassTable | None) -> None:
    """Fill in what nothing has said.

    Args:
        cfg: a config, merged; changed in place.
        before: from :func:`leave_open`; taken where there is no panoptic data.
        classes: of the data.
    """
    values = dict(before)
    if classes is not None:
        values |= dict.fromkeys(THING_COUNTS, len(classes.things))
        values[STUFF_COUNT] = len(classes.stuff) + 1  # all things are one more
    if any(run_length_masks(name) for name in cfg.DATASETS.TRAIN):
        values[MASK_FORMAT] = "bitmask"
    for key, value in values.items():
        if not _get(cfg, key):
            _set(cfg, key, value)


def run_length_masks(name: str) -> bool:
    """Whether the masks of a dataset are those that we derive, which are no polygons."""
    return name in DatasetCatalog and isinstance(MetadataCatalog.get(name), PanopticMetadata)


def _get(cfg: CfgNode, key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    return node


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    parent, _, name = key.rpartition(".")
    _get(cfg, parent)[name] = value
