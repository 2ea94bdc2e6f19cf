"""Folders of pictures in torchvision's ``ImageFolder`` layout: a folder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from torchvision.datasets import folder as torchvision_folder

from rpanoptic.errors import DatasetError, listed

# Missing class folders that a message names.
_MOST_NAMED = 5


class FolderSource:
    """The pictures below a folder's class folders, as torchvision finds them.

    The listing is remembered in this process for as long as the class folders do not change.

    Args:
        root: with a folder for each class, which has pictures at any depth.
        classes: the class folders that count, in the order of their labels; None takes all, in the
            order of their names.
        counterpart: another root that must have the same class folders, if it is there.

    Raises:
        DatasetError: there is no class among ``classes``, or one twice.
    """

    def __init__(
        self, root: Path, *, classes: Sequence[str] | None = None, counterpart: Path | None = None
    ) -> None:
        self.root = root
        self._classes = None if classes is None else _distinct(classes)
        self._counterpart = counterpart

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the class folders, by label.

        Raises:
            DatasetError: the root or one of the class folders is missing, in the counterpart too.
        """
        found = class_folders(self.root)
        if self._counterpart is not None and self._counterpart.is_dir():
            other = class_folders(self._counterpart)
            _check_there(self._counterpart, found, other, f"{self.root} has it")
            _check_there(self.root, other, found, f"{self._counterpart} has it")
        if self._classes is None:
            return found
        _check_there(self.root, self._classes, found, "it is among the classes asked for")
        return self._classes

    def records(self, classes: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """A record for each picture, in the order of labels, folders and names.

        Args:
            classes: list these alone, whose labels are then their places here.

        Raises:
            DatasetError: see :attr:`classes`; or a class folder has no picture.
        """
        wanted = self.classes if classes is None else tuple(classes)
        return [{"file_name": path, "label": label} for path, label in self._listing(wanted)]

    def _listing(self, wanted: tuple[str, ...]) -> list[tuple[str, int]]:
        # A folder's time changes with what is in it.
        times = tuple((self.root / name).stat().st_mtime_ns for name in wanted)
        return _list(str(self.root.absolute()), wanted, times)


def class_folders(root: Path) -> tuple[str, ...]:
    """The names of the folders in ``root``, sorted.

    Raises:
        DatasetError: there is no such folder, or no folder in it.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder.")
    try:
        names, _ = torchvision_folder.find_classes(str(root))
    except FileNotFoundError:
        raise DatasetError(
            f"{root}: there is no class folder; pictures are expected in {root}/<class>."
        ) from None
    except OSError as error:
        raise DatasetError(f"{root}: cannot be read ({error.strerror or error}).") from None
    return tuple(names)


def _distinct(classes: Sequence[str]) -> tuple[str, ...]:
    # A text is a sequence of its letters.
    names = (classes,) if isinstance(classes, str) else tuple(classes)
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if not names or twice:
        fault = f"class {twice[0]!r} is there twice" if twice else "there is none"
        raise DatasetError(f"classes: {fault}; expected the names of class folders, each once.")
    return names


def _check_there(root: Path, wanted: Sequence[str], found: Sequence[str], reason: str) -> None:
    there = set(found)
    missing = [str(root / name) for name in wanted if name not in there]
    if missing:
        raise DatasetError(
            f"{listed(missing, most=_MOST_NAMED)}: no such class folder, but {reason}."
        )


# Of train and val, and of the search subset.
@lru_cache(maxsize=3)
def _list(root: str, wanted: tuple[str, ...], times: tuple[int, ...]) -> list[tuple[str, int]]:
    pictures = torchvision_folder.make_dataset(
        root,
        {name: label for label, name in enumerate(wanted)},
        extensions=torchvision_folder.IMG_EXTENSIONS,
        allow_empty=True,
    )
    empty = sorted(set(range(len(wanted))) - {label for _, label in pictures})
    if empty:
        names = [str(Path(root) / wanted[label]) for label in empty]
        raise DatasetError(
            f"{listed(names, most=_MOST_NAMED)}: there is no picture in this class folder; known "
            f"are {', '.join(torchvision_folder.IMG_EXTENSIONS)}."
        )
    return pictures
