"""The names of Pathfinder sets in Detectron2's catalogs."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from rpanoptic.data.paths import DATASETS_VARIABLE, datasets_root
from rpanoptic.errors import ConfigError, DatasetError, UserError
from rpanoptic.pathfinder.mapper import PathfinderMapper
from rpanoptic.pathfinder.sets import NUMBERS, SPLITS, PathfinderSet
from rpanoptic.pathfinder.settings import (
    FORMS,
    PathfinderSettings,
    paper_settings,
)
from rpanoptic.pathfinder.sources import (
    GeneratedSource,
    PathfinderSource,
    StoredSource,
    set_source,
    source_of,
)
from rpanoptic.pathfinder.storage import (
    SCRIPT,
    Description,
    differences,
    read_description,
    repair_command,
)

PATHFINDER_FOLDER = "pathfinder"
# At the end of the names of sets that are drawn when they are read.
ON_THE_FLY = "on_the_fly"

_MIXED_LENGTHS = tuple(range(10, 26))
_LENGTHS = ((9,), (14,), (20,), (25,), _MIXED_LENGTHS)
_MIXED_TEST = 16_000  # 1000 of each length, as in the paper
_TINY_NUMBERS = {"train": 100_000, "val": 500, "test": 1000}

_logger = logging.getLogger(__name__)


def _paper_sets() -> dict[str, PathfinderSet]:
    sets = {}
    for form, lengths, split in product(FORMS, _LENGTHS, SPLITS):
        settings = paper_settings(*lengths, form=form)
        mixed_test = len(lengths) > 1 and split == "test"
        number = _MIXED_TEST if mixed_test else NUMBERS[split]
        name = set_name(settings, split)
        sets[name] = PathfinderSet(settings=settings, split=split, number=number)
    return sets


def set_name(settings: PathfinderSettings, split: str) -> str:
    """The name of one of the paper's sets, by its lengths and form alone."""
    lengths = settings.lengths
    length = "mixed" if lengths == _MIXED_LENGTHS else "_".join(map(str, lengths))
    form = "" if settings.form == "segmentation" else f"_{settings.form}"
    return f"pathfinder_{length}{form}_{split}"


def _tiny_sets() -> dict[str, PathfinderSet]:
    return {
        f"pathfinder_{kind}_{split}": PathfinderSet(
            settings=settings, split=split, number=_TINY_NUMBERS[split]
        )
        for kind, settings in TINY_SETTINGS.items()
        for split in SPLITS
    }


# Of the experiment that a CPU can do: two contours of four paddles in 24 x 24. The long contours
# are for models trained on the others.
_TINY = PathfinderSettings(
    lengths=(4,),
    size=24,
    border=0,
    paddle_length=3.0,
    thickness=1.2,
    margin=0.75,
    continuity=1.5,
    distractors=3,
    distractor_length=1,
    marker_radius=1.8,
    seed_distance=5.0,
    antialias=4,
)
TINY_SETTINGS = {"tiny": _TINY, "tiny_long": replace(_TINY, lengths=(7,), size=32)}
# The sets that are stored, and the same pictures drawn when they are read; by name without
# "_on_the_fly". The tiny ones are not stored.
STORED_SETS = _paper_sets()
GENERATED_SETS = STORED_SETS | _tiny_sets()


def set_folder(name: str) -> Path:
    """Where a stored set of this name is looked for."""
    return datasets_root() / PATHFINDER_FOLDER / name


def register_pathfinder(name: str, folder: Path) -> None:
    """Register a set that is stored in a folder.

    A set below ``$DETECTRON2_DATASETS/pathfinder`` is registered by the name of its folder when
    :mod:`rpanoptic.pathfinder` is imported, if it is there then.

    Args:
        name: for configs; not yet taken.
        folder: of the set; it must be complete when the set is used.

    Raises:
        DatasetError: there is no set in the folder.
    """
    description = read_description(folder)
    if description is None:
        raise DatasetError(f"{folder}: there is no Pathfinder set to be registered as {name}.")
    _register(name, description.content.settings.form, partial(_stored, folder.absolute()))


def register_pathfinder_on_the_fly(
    name: str, settings: PathfinderSettings, seed: int, number: int
) -> None:
    """Register a set that is drawn when it is read.

    Args:
        name: for configs; not yet taken.
        settings: of the generator.
        seed: of the generator, at least 0. Sets of one seed and the same settings share pictures.
        number: of pictures, at least 1.

    Raises:
        DatasetError: ``seed`` or ``number`` is out of range.
    """
    source = GeneratedSource(settings, seed, number)
    _register(name, settings.form, lambda: source)


def register_builtin_sets() -> None:
    """Register all names of this module. Nothing is drawn or read."""
    for name, content in GENERATED_SETS.items():
        register_pathfinder_on_the_fly(
            f"{name}_{ON_THE_FLY}", content.settings, content.split_seed, content.number
        )
    for name, content in STORED_SETS.items():
        _register(name, content.settings.form, partial(_open_builtin, name))


def register_prepared_sets() -> None:
    """Register the further sets below ``$DETECTRON2_DATASETS/pathfinder``, by their folders' names.

    Only their descriptions are read. A folder without a set is passed over, with a warning.
    """
    root = datasets_root() / PATHFINDER_FOLDER
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if folder.is_dir() and folder.name not in DatasetCatalog:
            try:
                register_pathfinder(folder.name, folder)
            except UserError as error:
                _logger.warning("Not registered: %s", error)


def checked_name(content: PathfinderSet, name: str | None = None) -> str:
    """The name under which a set can be stored, so that each name stands for its pictures alone.

    Args:
        content: the set.
        name: the one that was asked for; None takes that of :data:`STORED_SETS`.

    Raises:
        ConfigError: the name is that of another set, or none is given and none is known.
    """
    if name is None:
        name = set_name(content.settings, content.split)
        if name not in STORED_SETS or _broken_promises(name, Description(content)):
            raise ConfigError(
                "--name: no registered set has these settings, so the set needs a name for configs."
            )
    elif name in STORED_SETS:
        if differing := _broken_promises(name, Description(content)):
            raise ConfigError(f"--name {name} stands for another set: {'; '.join(differing)}.")
    elif not re.fullmatch(r"\w[\w.-]*", name) or name.endswith(f"_{ON_THE_FLY}"):
        raise ConfigError(
            f"--name {name!r}: expected letters, digits, _, - and ., and not _{ON_THE_FLY} at the "
            "end."
        )
    return name


def _broken_promises(name: str, found: Description) -> list[str]:
    """How a set differs from the one that a name stands for; only its number is free."""
    wanted = replace(STORED_SETS[name], number=found.content.number)
    return differences(found, Description(wanted, shard_size=found.shard_size))


def prepare_command(content: PathfinderSet) -> str:
    """The command that draws one of :data:`STORED_SETS`."""
    lengths = content.settings.lengths
    length = f"{lengths[0]}-{lengths[-1]}" if len(lengths) > 1 else f"{lengths[0]}"
    form = f" --form {content.settings.form}" if content.settings.form != FORMS[0] else ""
    number = f"--num {content.number} --split {content.split}"
    return f"python {SCRIPT} --length {length}{form} {number}"


def _open_builtin(name: str) -> StoredSource:
    return _builtin(name, set_folder(name).absolute())


@cache
def _stored(folder: Path) -> StoredSource:
    return StoredSource(folder)


@cache
def _builtin(name: str, folder: Path) -> StoredSource:
    """A set of :data:`STORED_SETS`: its name stands for its pictures."""
    found, content = read_description(folder), STORED_SETS[name]
    if found is None or not found.complete:
        command = repair_command(folder) if found is not None else prepare_command(content)
        raise DatasetError(
            f"{folder}: {'no complete' if found is not None else 'no'} set is there, for dataset "
            f"{name!r}; datasets are looked for under the environment variable "
            f"{DATASETS_VARIABLE}. To draw it: {command}. Or take {name}_{ON_THE_FLY}: the same "
            "pictures, drawn when they are read, without a file."
        )
    if differing := _broken_promises(name, found):
        raise DatasetError(
            f"{folder} holds another set than {name}: {'; '.join(differing)}. Rename the folder, "
            "and the set has the new name."
        )
    return StoredSource(folder)


def _register(name: str, form: str, opener: Callable[[], PathfinderSource]) -> None:
    DatasetCatalog.register(name, partial(_records, name))
    MetadataCatalog.get(name).set(
        evaluator_type=f"pathfinder_{form}",
        mapper=PathfinderMapper,
        check=partial(_check, name),
    )
    set_source(name, opener)


def _records(name: str) -> list[dict[str, Any]]:
    """The records of a registered set, for :class:`PathfinderMapper`."""
    source = _reopened(name)
    size = source.settings.size
    return [
        {
            "file_name": source.name_of(index),
            "image_id": index,
            "dataset": name,
            "index": index,
            "height": size,
            "width": size,
        }
        for index in range(len(source))
    ]


def _check(name: str, most: int | None) -> None:
    _reopened(name).check(most)


def _reopened(name: str) -> PathfinderSource:
    # A set may have been drawn anew.
    _stored.cache_clear()
    _builtin.cache_clear()
    return source_of(name)
