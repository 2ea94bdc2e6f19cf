"""Looks for pictures in the folders of a dataset that its JSON does not list."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from rpanoptic.data.inspection.findings import Findings


def find_unlisted(folders: Iterable[tuple[Path, Iterable[str], str]], findings: Findings) -> None:
    """Add a finding for each picture that lies beside listed ones and is not listed.

    Folders without a listed file are not looked into: they may hold other splits.

    Args:
        folders: the folder of the pictures and that of the PNGs, each with the file names that are
            listed, relative to it, and the kind of its findings.
        findings: to add to.
    """
    listed: set[Path] = set()
    kinds: dict[Path, tuple[Path, str]] = {}
    for root, names, kind in folders:
        for name in names:
            path = Path(os.path.normpath(root / name))
            listed.add(path)
            kinds.setdefault(path.parent, (root, kind))
    suffixes = set(Image.registered_extensions())
    for folder, (root, kind) in kinds.items():
        for path in _files(folder):
            hidden = path.name.startswith(".")
            if path.suffix.lower() in suffixes and path not in listed and not hidden:
                findings.add(kind, os.path.relpath(path, root), "is not listed")


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (OSError, ValueError):
        # That its files are missing is a finding already.
        return []
