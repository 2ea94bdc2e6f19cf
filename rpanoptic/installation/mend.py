"""A mend: a named change to one file of Detectron2 0.6 that today's Python stack needs.

A mend replaces an exact text by another, a known number of times. It is refused when the text is
not there, and does nothing when it was already made. All mends of a source tree are checked before
the first file is written, so that a refusal leaves the tree as it was.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rpanoptic.installation.errors import MendError

# Apache-2.0, section 4b: a changed file says that it was changed.
NOTICE = (
    "# This file was changed after Detectron2 v0.6: rpanoptic mended it for current versions of"
    " its dependencies.\n# The list of changes is in MENDS.txt beside the package's metadata.\n"
)


class Need(enum.Enum):
    """Why a mend is made."""

    MUST = "must"  # Detectron2 fails to import or crashes without it
    SHOULD = "should"  # a wrong result, a lost state or a missing ability
    QUIET = "quiet"  # a warning, no fault in the results


class State(enum.Enum):
    """What a file says about a mend."""

    APPLIED = "applied"
    NEEDED = "needed"
    OTHER = "not applicable: other text"


@dataclass(frozen=True)
class Edit:
    """Replace ``old`` by ``new``, exactly ``count`` times in the file."""

    old: str
    new: str
    count: int = 1

    def __post_init__(self) -> None:
        if not self.old or self.old in self.new or self.new in self.old:
            raise ValueError(f"An edit could not tell its two states apart: {self.old!r}")


@dataclass(frozen=True)
class Rule:
    """A named mend of one file.

    Attributes:
        name: unique, lower case with hyphens.
        need: what happens without it.
        file: path below the ``detectron2`` folder, with forward slashes.
        why: one sentence.
        edits: the replacements; all or none are made.
        upstream: the commits of facebookresearch/detectron2 that made a like change, if any.
    """

    name: str
    need: Need
    file: str
    why: str
    edits: tuple[Edit, ...]
    upstream: str = ""

    def state(self, text: str | None) -> State:
        """The state of this mend in a file's text (None: the file is absent)."""
        if text is None:
            return State.OTHER
        if all(text.count(e.new) == e.count and e.old not in text for e in self.edits):
            return State.APPLIED
        if all(text.count(e.old) == e.count and e.new not in text for e in self.edits):
            return State.NEEDED
        return State.OTHER

    def apply(self, text: str | None) -> str:
        """The mended text; the same text if the mend was already made.

        Raises:
            MendError: the file is absent, or holds neither the expected nor the mended text.
        """
        state = self.state(text)
        if text is None or state is State.OTHER:
            raise MendError(self._complaint(text))
        if state is State.APPLIED:
            return text
        for edit in self.edits:
            text = text.replace(edit.old, edit.new)
        return text if NOTICE in text else NOTICE + text

    def _complaint(self, text: str | None) -> str:
        where = f"Mend '{self.name}' cannot be made in detectron2/{self.file}: "
        if text is None:
            return where + "the file is absent."
        for edit in self.edits:
            found = text.count(edit.old)
            if found != edit.count:
                return (
                    where + f"expected {edit.count} time(s) the text {edit.old!r}, found {found}."
                )
        return where + "it already holds a part of the mended text, so it is not v0.6's file."


@dataclass(frozen=True)
class NewFile:
    """A named mend that adds a file which v0.6 lacks. Attributes as in :class:`Rule`."""

    name: str
    need: Need
    file: str
    why: str
    text: str
    upstream: str = ""

    def state(self, text: str | None) -> State:
        """The state of this mend, from the file's text (None: the file is absent)."""
        if text is None:
            return State.NEEDED
        return State.APPLIED if text == self.text else State.OTHER

    def apply(self, text: str | None) -> str:
        """The text of the new file.

        Raises:
            MendError: another file stands there.
        """
        if self.state(text) is State.OTHER:
            raise MendError(
                f"Mend '{self.name}' cannot be made: detectron2/{self.file} exists already,"
                " with another text."
            )
        return self.text


Mend = Rule | NewFile


def blob_id(data: bytes) -> str:
    """The id that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def read_text(package: Path, file: str) -> str | None:
    """The text of a file below the package's folder, or None if it is absent or no text."""
    try:
        # Not read_text: it would hide the difference between line ends.
        return (package / file).read_bytes().decode("utf-8")
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None


def states(package: Path, mends: Iterable[Mend]) -> list[tuple[Mend, State]]:
    """The state of each mend in a ``detectron2`` folder. Reads only."""
    return [(mend, mend.state(read_text(package, mend.file))) for mend in mends]


def mend_tree(package: Path, mends: Iterable[Mend], pristine: Mapping[str, str]) -> list[str]:
    """Make all the mends in a ``detectron2`` folder, or none.

    Args:
        package: the folder that holds ``detectron2/__init__.py``.
        mends: applied in this order; several may change one file.
        pristine: the git blob id that each file to edit has in v0.6.

    Returns:
        The files that were written, relative to ``package``; empty if all was done before.

    Raises:
        MendError: a file is neither v0.6's nor one that was mended before, or a mend is refused.
    """
    before: dict[str, str | None] = {}
    after: dict[str, str] = {}
    for mend in mends:
        if mend.file not in before:
            text = before[mend.file] = read_text(package, mend.file)
            if isinstance(mend, Rule):
                _check_origin(mend, text, pristine)
        after[mend.file] = mend.apply(after.get(mend.file, before[mend.file]))
    changed = [file for file, text in after.items() if text != before[file]]
    for file in changed:
        path = package / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(after[file].encode("utf-8"))
    return changed


def _check_origin(mend: Rule, text: str | None, pristine: Mapping[str, str]) -> None:
    if text is None or NOTICE in text:
        return  # absent: the mend itself complains; mended before: its texts are checked one by one
    expected, found = pristine[mend.file], blob_id(text.encode("utf-8"))
    if found != expected:
        raise MendError(
            f"Mend '{mend.name}' is refused: detectron2/{mend.file} is not the file of v0.6"
            f" (git blob {found[:10]}, expected {expected[:10]})."
        )
