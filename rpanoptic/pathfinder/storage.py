"""Pathfinder sets on disk: a folder of shards with their checksums, and a file that describes it.

    pathfinder_14_train/
      shard-00000.zip          samples 0 to 999, see rpanoptic.pathfinder.shards
      shard-00000.zip.sha256   as sha256sum writes it
      ...
      metadata.json            version of the generator, settings, seed, split, number, shards

Whatever is there was written whole. A folder is described before its first shard is drawn, so that
a run that was killed can be continued, by the same command, with the shards that are there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from iopath.common.file_io import file_lock

from rpanoptic.data.parallel import map_in_processes
from rpanoptic.data.paths import write_atomically
from rpanoptic.errors import DatasetError, UserError
from rpanoptic.pathfinder.generator import GENERATOR_VERSION, generate
from rpanoptic.pathfinder.sets import PathfinderSet
from rpanoptic.pathfinder.shards import encode_shard

METADATA = "metadata.json"
SCRIPT = "datasets/prepare_pathfinder.py"
DEFAULT_SHARD_SIZE = 1000

_OURS = re.compile(r"\.?(metadata\.json|shard-\d+\.zip(\.sha256)?)(\..+\.tmp)?")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardFile:
    """A shard as the metadata of its set describes it: name, size in bytes, and SHA-256."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Description:
    """What ``metadata.json`` says.

    Attributes:
        content: what the folder holds, or shall hold.
        generator_version: the one that drew it.
        shard_size: samples of a shard; the last one may have fewer.
        shards: empty until the set is complete.

    Raises:
        ValueError: ``shard_size`` is below 1, or ``shards`` are not those of the content.
    """

    content: PathfinderSet
    generator_version: int = GENERATOR_VERSION
    shard_size: int = DEFAULT_SHARD_SIZE
    shards: tuple[ShardFile, ...] = ()

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise ValueError(f"shard_size must be at least 1, got {self.shard_size}")
        names = [shard.file for shard in self.shards]
        if names and names != [shard_name(number) for number in range(len(self.indices()))]:
            raise ValueError(
                f"{self.content.number} pictures, {self.shard_size} a shard, are not what "
                f"{len(names)} shards hold"
            )

    @property
    def complete(self) -> bool:
        """Whether all shards have been written."""
        return bool(self.shards)

    def indices(self) -> list[range]:
        """The samples of each shard."""
        number, size = self.content.number, self.shard_size
        return [range(first, min(first + size, number)) for first in range(0, number, size)]

    def as_dict(self) -> dict[str, Any]:
        """The content of the file."""
        return {
            "generator_version": self.generator_version,
            **self.content.as_dict(),
            "shard_size": self.shard_size,
            "complete": self.complete,
            "shards": [vars(shard) for shard in self.shards],
        }


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"shard-{number:05d}.zip"


def repair_command(folder: Path) -> str:
    """The command that completes and mends the set in a folder."""
    return f"python {SCRIPT} --folder {folder}"


def read_description(folder: Path) -> Description | None:
    """The description of the set in ``folder``, or None where nothing is.

    Raises:
        DatasetError: something else is there, or the description is damaged.
    """
    path = folder / METADATA
    try:
        values = json.loads(path.read_text())
        return Description(
            PathfinderSet.from_dict(values),
            int(values["generator_version"]),
            int(values["shard_size"]),
            tuple(ShardFile(**shard) for shard in values["shards"]),
        )
    except FileNotFoundError:
        if folder.is_dir() and any(not _OURS.fullmatch(entry.name) for entry in folder.iterdir()):
            raise DatasetError(
                f"{folder} holds no Pathfinder set: {METADATA} is missing. Move the folder away, "
                "or choose another one."
            ) from None
        return None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: no description of a Pathfinder set ({error}).") from None


def differences(found: Description, wanted: Description) -> list[str]:
    """What the two sets do not have in common, each as "size 300, not 150"."""
    first, second = _flat(found.as_dict()), _flat(wanted.as_dict())
    return [
        f"{key} {first.get(key)}, not {second.get(key)}"
        for key in dict.fromkeys([*first, *second])
        if first.get(key) != second.get(key)
    ]


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    # Through JSON, which knows no tuples.
    settings = json.loads(json.dumps(values.pop("settings")))
    return {k: v for k, v in values.items() if k not in ("complete", "shards")} | settings


@dataclass(frozen=True)
class WriteReport:
    """What :func:`write_set` did: how many shards there are, and how many of them it drew."""

    shards: int
    drawn: int


def write_set(
    folder: Path,
    content: PathfinderSet,
    *,
    shard_size: int = DEFAULT_SHARD_SIZE,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> WriteReport:
    """Draw a set into a folder; shards that are there and whole are kept.

    Shards that are damaged are named in the log and drawn again. Several processes may call this
    at the same time: one draws, the others wait.

    Args:
        folder: where the set goes; it is made if need be.
        content: what to draw.
        shard_size: samples of a shard, at least 1.
        workers: processes that draw, a shard each; the files do not depend on it.
        overwrite: replace a set that differs from the wanted one.
        progress: whether to show progress bars, on standard error.

    Raises:
        DatasetError: the folder holds something else, or a set that differs, or cannot be written.
        ConfigError: the settings are impossible.
        ValueError: ``shard_size`` or ``workers`` is below 1.
    """
    folder = folder.absolute()
    wanted = Description(content, shard_size=shard_size)
    try:
        _check_room(folder, wanted, overwrite)
        if _same(folder, wanted) is None:
            # Impossible settings end here: nothing is written, and what is there stays.
            for index in range(min(len(content.settings.lengths), content.number)):
                generate(content.settings, content.split_seed, index)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(str(folder)):
            _check_room(folder, wanted, overwrite)  # Another process may have been here meanwhile.
            folder.mkdir(exist_ok=True)
            try:
                report = _write(folder, wanted, workers, progress)
            finally:
                folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
    except OSError as error:
        raise DatasetError(f"{folder}: the set cannot be written there ({error}).") from error
    return report


def find_faults(folder: Path, *, workers: int = 1, progress: bool = True) -> list[str]:
    """Compare every shard of a set with its checksum.

    Args:
        folder: of the set.
        workers: processes that read.
        progress: whether to show a progress bar, on standard error.

    Returns:
        a sentence for each fault, none for a set that is whole.

    Raises:
        DatasetError: there is no set in the folder.
    """
    found = read_description(folder)
    if found is None:
        raise DatasetError(f"{folder}: there is no Pathfinder set.")
    states = _states(folder, found, workers, progress)
    faults = [state for state in states if isinstance(state, str)]
    if not found.complete and not faults:
        faults.append(f"{folder / METADATA}: the set was never completed.")
    return faults


def _check_room(folder: Path, wanted: Description, overwrite: bool) -> None:
    """Raise unless the folder is free, holds what is wanted, or may be overwritten."""
    try:
        found = read_description(folder)
    except UserError:
        # Only what is described by a file of ours is ever overwritten.
        if overwrite and (folder / METADATA).is_file():
            return
        raise
    if found is None or overwrite:
        return
    if differing := differences(found, wanted):
        raise DatasetError(
            f"{folder} holds another set: {'; '.join(differing)}. Choose another name or root, or "
            "add --overwrite to replace it."
        )


def _write(folder: Path, wanted: Description, workers: int, progress: bool) -> WriteReport:
    found = _same(folder, wanted)
    for entry in folder.iterdir():
        # Of another set nothing is kept; of this one, not what a killed run has left half-written.
        if _OURS.fullmatch(entry.name) and (found is None or entry.suffix == ".tmp"):
            entry.unlink(missing_ok=True)
    if found is None:
        _describe(folder, wanted)
        found = wanted
    states = _states(folder, found, workers, progress)
    todo = [number for number, state in enumerate(states) if isinstance(state, str)]
    for number in todo:
        if (folder / shard_name(number)).exists():
            _logger.warning("%s It is drawn again.", states[number])
    if 0 < len(todo) < len(states):
        _logger.info("%s: %d of %d shards are there.", folder, len(states) - len(todo), len(states))
    if todo and found.complete:
        _describe(folder, wanted)
    indices = wanted.indices()
    drawn = map_in_processes(
        partial(_draw, folder, wanted.content),
        [(number, indices[number]) for number in todo],
        workers=workers,
        description=folder.name,
        unit="shards",
        chunk=1,  # A shard takes seconds.
        progress=progress and bool(todo),
    )
    if todo or not found.complete:
        kept = [state for state in states if isinstance(state, ShardFile)]
        shards = sorted([*kept, *drawn], key=lambda shard: (len(shard.file), shard.file))
        _describe(folder, replace(wanted, shards=tuple(shards)))
    return WriteReport(len(states), len(todo))


def _same(folder: Path, wanted: Description) -> Description | None:
    """The description in the folder, if it is the wanted one."""
    try:
        found = read_description(folder)
    except UserError:
        return None
    return None if found is None or differences(found, wanted) else found


def _describe(folder: Path, description: Description) -> None:
    text = json.dumps(description.as_dict(), indent=1)
    write_atomically(folder / METADATA, f"{text}\n".encode())


def _draw(folder: Path, content: PathfinderSet, task: tuple[int, range]) -> ShardFile:
    number, indices = task
    path = folder / shard_name(number)
    data = encode_shard(content.settings, content.split_seed, indices)
    shard = ShardFile(path.name, len(data), hashlib.sha256(data).hexdigest())
    write_atomically(path, data)
    write_atomically(_checksum_file(path), _checksum_line(shard))
    return shard


def _states(
    folder: Path, description: Description, workers: int, progress: bool
) -> list[ShardFile | str]:
    """Each shard that is whole, or what is wrong with it."""
    return map_in_processes(
        partial(_state, folder, description.shards),
        range(len(description.indices())),
        workers=workers,
        description=f"{folder.name}: checksums",
        unit="shards",
        progress=progress and (folder / shard_name(0)).exists(),
    )


def _state(folder: Path, described: Sequence[ShardFile], number: int) -> ShardFile | str:
    path = folder / shard_name(number)
    try:
        data = path.read_bytes()
        shard = ShardFile(path.name, len(data), hashlib.sha256(data).hexdigest())
        if described and described[number] != shard:
            return f"{path}: its SHA-256 is not that of {METADATA}."
        if _checksum_file(path).read_bytes() != _checksum_line(shard):
            return f"{path}: its SHA-256 is not that of {_checksum_file(path).name}."
    except FileNotFoundError as error:
        return f"{error.filename}: is missing."
    except OSError as error:
        return f"{error.filename}: cannot be read ({error.strerror})."
    return shard


def _checksum_file(shard: Path) -> Path:
    return shard.with_name(f"{shard.name}.sha256")


def _checksum_line(shard: ShardFile) -> bytes:
    return f"{shard.sha256}  {shard.file}\n".encode()
