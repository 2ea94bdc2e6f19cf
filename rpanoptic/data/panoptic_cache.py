"""What is derived from a panoptic dataset, kept in a folder and made again where it is outdated.

The folder holds the semantic PNGs, the instance annotations, and two files that tell what they were
made from: ``pictures.json`` has the sizes and times of each picture's files, and is written before
anything is derived, so that a later run knows what an interrupted one made. ``manifest.json`` is
written last; it has the size and time of the panoptic JSON, the classes, and what was found wrong.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from iopath.common.file_io import file_lock
from portalocker import AlreadyLocked, LockException

from rpanoptic.data.coco_panoptic import prepare_coco_panoptic
from rpanoptic.data.inspection import Inspection, inspect_panoptic
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.panoptic_json import load_panoptic_json
from rpanoptic.data.panoptic_source import PanopticSource
from rpanoptic.data.parallel import available_cores
from rpanoptic.data.paths import write_atomically
from rpanoptic.errors import DatasetError

_logger = logging.getLogger(__name__)

#: Of what is derived, and of what an inspection finds; what another version made is outdated.
VERSION = 2
_NAMED_FINDINGS = 3
_WHERE_TO_NAME = (
    "--data-cache of a training's command, CACHE of the dataset's entry in DATASETS.PANOPTIC, or "
    "register_panoptic(..., cache=...)"
)

# Size in bytes and time of the last change in nanoseconds; None where none can be found.
_Stamp = list[int] | None


class _Manifest(NamedTuple):
    """What is written when all is derived.

    Attributes:
        source: the source's paths from the folder.
        json: stamp of the panoptic JSON.
        pictures: stamp of what is known of each picture.
        instances: stamp of the instance annotations.
        classes: of the panoptic JSON.
        inspection: its result.
    """

    source: dict[str, str]
    json: _Stamp
    pictures: _Stamp
    instances: _Stamp
    classes: ClassTable
    inspection: Inspection


@dataclass(frozen=True)
class PanopticCache:
    """The folder of the files that are derived from a source.

    Attributes:
        source: the files of the dataset.
        folder: of the derived files.
    """

    source: PanopticSource
    folder: Path

    @classmethod
    def of(cls, source: PanopticSource, cache: str | Path | None = None) -> PanopticCache:
        """The cache of a source: a folder named for its JSON in ``cache``, or beside the JSON."""
        if cache is None:
            parent = source.panoptic_json.parent
        else:
            parent = Path(os.path.expandvars(cache)).expanduser()
        return cls(source, parent.absolute() / f"{source.panoptic_json.stem}.rpanoptic")

    @property
    def sem_seg_root(self) -> Path:
        """Folder of the semantic PNGs, which are named as the panoptic PNGs."""
        return self.folder / "semantic"

    @property
    def instances_json(self) -> Path:
        """File of the instance annotations, things alone."""
        return self.folder / "instances.json"

    @property
    def _manifest(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def _pictures(self) -> Path:
        return self.folder / "pictures.json"

    def same_files(self, other: PanopticCache) -> bool:
        """Whether both have the same files in the same folder, by whatever path."""
        return self.folder.resolve() == other.folder.resolve() and all(
            path.resolve() == vars(other.source)[key].resolve()
            for key, path in vars(self.source).items()
        )

    def classes(self) -> ClassTable:
        """The classes of the dataset. Nothing is derived.

        Raises:
            DatasetError: the JSON is none of a panoptic dataset.
        """
        manifest = self._read_manifest()
        if (
            manifest is not None
            and manifest.json == _stamp(self.source.panoptic_json)
            and not self._others(manifest)
        ):
            return manifest.classes
        return self._load()[0]

    def build(self) -> Inspection:
        """Derive what is missing or older than its source, once the dataset has no fault.

        Every call looks at the size and time of each file. Several processes may call at the same
        time: one works, the others wait. A killed run may be started again, and what it finished
        is kept.

        Returns:
            What was found when the files were derived; no errors.

        Raises:
            DatasetError: a file is missing or damaged or contradicts another; or the folder cannot
                be written, or belongs to another dataset.
        """
        self.source.check_exists()
        found = self._inspection_if_current()
        if found is not None:
            return found
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with file_lock(str(self.folder / "build")):
                # Another process may have done it while this one waited.
                return self._inspection_if_current() or self._derive()
        except AlreadyLocked:
            raise DatasetError(
                f"{self.folder}: another process has been deriving files for an hour. Start again "
                "when it has ended."
            ) from None
        except LockException as error:  # as file systems of clusters that have no locks
            raise self._not_written(f"no lock can be had: {error}") from error
        except OSError as error:
            raise self._not_written(error.strerror or str(error)) from error
        except DatasetError as error:
            if isinstance(error.__cause__, OSError):
                raise self._not_written(error.__cause__.strerror or str(error)) from error
            raise

    def _not_written(self, reason: str) -> DatasetError:
        return DatasetError(
            f"{self.folder}: what is derived from {self.source.panoptic_json} cannot be written "
            f"there ({reason}). Name a folder that can be written: {_WHERE_TO_NAME}."
        )

    def _read_manifest(self) -> _Manifest | None:
        """The manifest, if one of this version is there, and whole."""
        content = _read_json(self._manifest)
        if content.get("version") != VERSION:
            return None
        try:
            return _Manifest(
                {str(key): str(path) for key, path in content["source"].items()},
                content["json"],
                content["pictures"],
                content["instances"],
                ClassTable.from_dict(content["classes"]),
                replace(Inspection.from_dict(content["inspection"]), source=self.source),
            )
        except (AttributeError, KeyError, DatasetError):
            return None

    def _inspection_if_current(self) -> Inspection | None:
        """The result of the inspection if everything is there and nothing has changed since."""
        manifest = self._read_manifest()
        if (
            manifest is None
            or manifest.json != _stamp(self.source.panoptic_json)
            or manifest.instances != _stamp(self.instances_json)
            or manifest.pictures != _stamp(self._pictures)
            or self._others(manifest)
        ):
            return None
        sem_seg_root = self.sem_seg_root
        for png, (image, _, *stamps) in _read_json(self._pictures).items():
            made = _stamp(sem_seg_root, png)
            # Where a machine failed, a file may be there and empty.
            if stamps != self._stamps(png, image) or made is None or made[0] == 0:
                return None
        return manifest.inspection

    def _stamps(self, png: str, image: str) -> list[_Stamp]:
        return [_stamp(self.source.panoptic_root, png), _stamp(self.source.image_root, image)]

    def _derive(self) -> Inspection:
        source = self.source
        self._refuse_other_source()
        _logger.info(f"Looking through {source.panoptic_json}, and deriving {self.folder} from it")
        # What changes from here on is newer than what is written down, and seen by the next call.
        json_stamp = _stamp(source.panoptic_json)
        classes, content = self._load()
        pictures = self._describe(content)
        del content  # The inspection has its own.
        inspection = inspect_panoptic(source, workers=_workers())
        _raise_errors(inspection)
        before = _read_json(self._pictures)
        self._manifest.unlink(missing_ok=True)
        self.instances_json.unlink(missing_ok=True)
        for png, description in pictures.items():
            if before.get(png) != description:
                (self.sem_seg_root / png).unlink(missing_ok=True)
        _write_json(self._pictures, pictures)
        report = prepare_coco_panoptic(
            source.panoptic_json,
            source.panoptic_root,
            self.sem_seg_root,
            self.instances_json,
            workers=_workers(),
        )
        _write_json(
            self._manifest,
            {
                "version": VERSION,
                "source": self._relative_source(),
                "json": json_stamp,
                "pictures": _stamp(self._pictures),
                "instances": _stamp(self.instances_json),
                "classes": classes.to_dict(),
                "inspection": inspection.to_dict(),
            },
        )
        _logger.info(
            f"{self.folder}: {report.written} semantic PNGs written, "
            f"{report.pictures - report.written} kept, {report.instances} instances"
        )
        return inspection

    def _load(self) -> tuple[ClassTable, dict[str, Any]]:
        """The classes and the content of the panoptic JSON."""
        path = self.source.panoptic_json
        try:
            content = load_panoptic_json(path)
        except DatasetError as error:
            raise DatasetError(f"{error} {_how_to_list(self.source)}") from None
        try:
            return ClassTable.from_categories(content["categories"]), content
        except DatasetError as error:
            raise DatasetError(f"{path}: {error} {_how_to_list(self.source)}") from None

    def _describe(self, content: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Each panoptic PNG's picture and all that its derived files depend on."""
        images = {image["id"]: image for image in content["images"]}
        categories = sorted([one["id"], bool(one["isthing"])] for one in content["categories"])
        common = hashlib.sha256(json.dumps([VERSION, categories]).encode())
        pictures = {}
        for annotation in content["annotations"]:
            image, png = images[annotation["image_id"]], annotation["file_name"]
            digest = common.copy()
            digest.update(json.dumps([image, annotation], sort_keys=True).encode())
            name = image["file_name"]
            pictures[png] = [name, digest.hexdigest()[:16], *self._stamps(png, name)]
        return pictures

    def _relative_source(self) -> dict[str, str]:
        """The source's paths from the folder, so that both may be moved together."""
        folder = self.folder.resolve()
        return {key: _relative(path.resolve(), folder) for key, path in vars(self.source).items()}

    def _others(self, manifest: _Manifest) -> list[str]:
        """The paths of another dataset that the folder belongs to; none if it is gone.

        Sizes and times do not tell datasets apart where copies keep the times, or all have one.
        """
        if manifest.source == self._relative_source():
            return []
        folder = self.folder.resolve()
        others = [os.path.normpath(folder / path) for path in manifest.source.values()]
        return others if all(map(os.path.exists, others)) else []

    def _refuse_other_source(self) -> None:
        """Two datasets in one folder would overwrite each other, even during a training."""
        manifest = self._read_manifest()
        if manifest is not None and (others := self._others(manifest)):
            raise DatasetError(
                f"{self.folder}: holds what was derived from {', '.join(others)}. If you meant "
                "these (folder of the pictures, JSON, folder of the PNGs), give them in this "
                "order. Else name another folder for what is derived: "
                f"{_WHERE_TO_NAME}. If the other files are of no use any more, delete the folder."
            )


def check_command(source: PanopticSource) -> str:
    """The command line that lists all findings."""
    return shlex.join(["python", "tools/check_dataset.py", *map(str, vars(source).values())])


def _how_to_list(source: PanopticSource) -> str:
    return f"To list all that is wrong: {check_command(source)}"


def _raise_errors(inspection: Inspection) -> None:
    if not inspection.errors:
        return
    first = [f"{finding.where}: {finding.message}" for finding in inspection.errors]
    count = inspection.number("error")
    raise DatasetError(
        f"{inspection.source.panoptic_json}: {count} error{'s' * (count > 1)} in the dataset. "
        f"{'; '.join(first[:_NAMED_FINDINGS])}. {_how_to_list(inspection.source)}"
    )


def _workers() -> int:
    # A data loader's worker, as other daemons, may have no processes of its own.
    return 1 if multiprocessing.current_process().daemon else available_cores()


def _stamp(folder: Path, name: str = "") -> _Stamp:
    try:
        # A hundred thousand names: joining Paths would take longer than asking the disk.
        status = os.stat(os.path.join(folder, name) if name else folder)  # noqa: PTH116, PTH118
    except (OSError, ValueError):  # The latter for a name that no file can have.
        return None
    return [status.st_size, status.st_mtime_ns]


def _relative(path: Path, folder: Path) -> str:
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # Nothing leads from one drive of Windows to another.
        return str(path)


def _read_json(path: Path) -> dict[str, Any]:
    """The content; nothing where there is no such file, or a damaged one."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(content).encode())
