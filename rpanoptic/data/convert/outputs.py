"""Where converters write: never over what they read, and nothing by halves."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np

from rpanoptic.data.panoptic_json import is_inner_path
from rpanoptic.data.paths import written_whole
from rpanoptic.errors import DatasetError


def check_outputs(
    *,
    folders: Iterable[Path] = (),
    files: Iterable[Path] = (),
    inputs: Iterable[Path] = (),
    overwrite: bool = False,
) -> None:
    """Check that outputs may be written where they are to go.

    Args:
        folders: that get files.
        files: that are written.
        inputs: files and folders that are read.
        overwrite: whether folders may hold files already (besides hidden ones), and files may be
            there.

    Raises:
        DatasetError: a file is read and written, or something that is read lies in a folder that
            is written to, or may do so since the folder holds files and lies in one that is read;
            or, without ``overwrite``, a file is there or a folder holds something.
    """
    read = {path.resolve() for path in inputs}
    for folder in folders:
        place = folder.resolve()
        for path in read:
            if path == place or place in path.parents:
                raise DatasetError(
                    f"{folder}: the output would go to where the input {path} lies. Name another "
                    "folder for it."
                )
        if folder.exists() and not folder.is_dir():
            raise DatasetError(f"{folder}: is a file; the output needs a folder.")
        # What is hidden, a killed run or the system has left.
        if not folder.is_dir() or all(path.name.startswith(".") for path in folder.iterdir()):
            continue
        if not overwrite:
            raise DatasetError(
                f"{folder}: holds files already. Name an empty or a new folder, or add --overwrite "
                "to replace files of the same names in it."
            )
        if around := sorted(read.intersection(place.parents)):
            raise DatasetError(
                f"{folder}: holds files and lies in the input {around[0]}, so that the output "
                "could replace an input. Name another folder for it."
            )
    for file in files:
        if file.resolve() in read:
            raise DatasetError(f"{file}: the output would replace an input. Name another file.")
        if file.is_dir():
            raise DatasetError(f"{file}: is a folder; the output needs a file.")
        if not overwrite and file.exists():
            raise DatasetError(f"{file}: is there already. Add --overwrite to replace it.")


class Unfinished(NamedTuple):
    """Places to write to before the outputs appear.

    Attributes:
        folder: for the files of the output folder; empty, subfolders may be made.
        file: for the file that describes them.
    """

    folder: Path
    file: Path


@contextlib.contextmanager
def written_together(folder: Path, file: Path) -> Iterator[Unfinished]:
    """Write a folder and the file that describes it so that they appear when both are complete.

    An old ``file`` is removed before the first new file comes into ``folder``, and the new one
    comes last. So none ever describes a mixture of old and new.

    Args:
        folder: is made if it is not there; its files of the same names are replaced.
        file: is replaced if it is there.

    Yields:
        where to write meanwhile. After an error there, all that was written is removed and the
        outputs are as they were.

    Raises:
        DatasetError: something cannot be written.
    """
    # Files can be moved within a disk alone: not past a link, nor to where a disk is mounted.
    place = folder.resolve()
    beside = place if place.is_mount() else place.parent
    with (
        written_file(file) as unfinished_file,
        _naming(folder),
        _made_folder(beside),
        tempfile.TemporaryDirectory(dir=beside, prefix=f".{place.name}.") as unfinished,
    ):
        yield Unfinished(Path(unfinished), unfinished_file)
        file.unlink(missing_ok=True)
        folder.mkdir(exist_ok=True)
        _move_files(Path(unfinished), folder)


@contextlib.contextmanager
def written_file(file: Path) -> Iterator[Path]:
    """Write a file, in a folder that is made if need be, so that it appears when it is complete.

    Yields:
        where to write meanwhile; removed after an error.

    Raises:
        DatasetError: something cannot be written.
    """
    with _naming(file), _made_folder(file.parent), written_whole(file) as unfinished:
        yield unfinished


@contextlib.contextmanager
def _made_folder(folder: Path) -> Iterator[None]:
    """Make a folder and those above it; after an error those that are new and empty go again."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in new:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


@contextlib.contextmanager
def _naming(place: Path) -> Iterator[None]:
    """Turn an error of the system into one that names the place."""
    try:
        yield
    except OSError as error:
        named = error.filename or place
        raise DatasetError(f"cannot write to {named}: {error.strerror or error}.") from error


def _move_files(source: Path, target: Path) -> None:
    for entry in list(source.iterdir()):
        if entry.is_dir():
            (target / entry.name).mkdir(exist_ok=True)
            _move_files(entry, target / entry.name)
        else:
            entry.replace(target / entry.name)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file to the disk, its numbers plain ones also where NumPy made them.

    Raises:
        OSError: it cannot be written.
        TypeError: ``content`` holds something else than JSON's types and NumPy's numbers.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, default=_plain))
        file.flush()
        os.fsync(file.fileno())


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot be written to a JSON file")


def png_names(file_names: Iterable[str]) -> list[str]:
    """For each picture the name of a PNG: its subfolders and its stem, with ".png".

    Args:
        file_names: "images[].file_name", relative to the folder of the pictures.

    Raises:
        DatasetError: a name leads out of its folder, or two pictures would share a PNG (also on
            systems that do not tell upper from lower case).
    """
    names: dict[str, str] = {}
    made: list[str] = []
    for file_name in file_names:
        if not is_inner_path(file_name):
            raise DatasetError(
                f"picture {file_name!r}: a picture's name is a path below the folder of the "
                "pictures, without '..'."
            )
        # Takes both kinds of slash for separators.
        name = PureWindowsPath(file_name).with_suffix(".png").as_posix()
        other = names.setdefault(name.casefold(), file_name)
        if len(names) == len(made):
            same = "is listed twice" if other == file_name else f"and {other!r} share {name!r}"
            raise DatasetError(f"picture {file_name!r} {same}: each needs a PNG of its own.")
        made.append(name)
    return made
