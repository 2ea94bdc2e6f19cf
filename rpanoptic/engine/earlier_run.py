"""Keeping the records of two runs in one folder apart."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

# What a run adds to, or takes for its own, if it finds it.
_RECORDS = ("metrics.json", "last_checkpoint", "model_best.pth")


def set_earlier_run_aside(folder: Path) -> list[Path]:
    """Rename the metrics, the note of the last checkpoint and the best model of an earlier run.

    ``metrics.json`` becomes ``metrics.1.json``, ``last_checkpoint`` becomes ``last_checkpoint.1``
    and ``model_best.pth`` becomes ``model_best.1.pth``, as far as they exist; or all take the first
    number that none of them has yet. Other checkpoints stay where they are, until the new run
    writes one of the same name.

    Args:
        folder: ``OUTPUT_DIR`` of a run that starts anew.

    Returns:
        the new names.
    """
    there = [folder / name for name in _RECORDS if (folder / name).is_file()]
    if not there:
        return []
    aside = numbered_aside(there, beside=[folder / name for name in _RECORDS])
    logger.warning(
        "%s holds an earlier run, and without --resume this one starts anew: %s. Other checkpoints "
        "of the same name will be overwritten.",
        folder,
        ", ".join(f"{a.name} is now {b.name}" for a, b in zip(there, aside, strict=True)),
    )
    return aside


def numbered_aside(files: Sequence[Path], beside: Sequence[Path] = ()) -> list[Path]:
    """Rename files, ``x.csv`` to ``x.1.csv``, with the first number that none of them has yet.

    Args:
        files: all exist.
        beside: names that share the numbers, whether their files exist or not.

    Returns:
        the new names.
    """
    number = next(
        n
        for n in itertools.count(1)
        if not any(_numbered(path, n).exists() for path in (*files, *beside))
    )
    return [path.rename(_numbered(path, number)) for path in files]


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}.{number}{path.suffix}")
