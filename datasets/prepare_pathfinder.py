#!/usr/bin/env python3
"""Draw a set of Pathfinder pictures into a folder of shards.

    python datasets/prepare_pathfinder.py --length 14 --num 200000 --split train
    python datasets/prepare_pathfinder.py --length 10-25 --split test --form classification
    python datasets/prepare_pathfinder.py --length 8 --size 200 --border 9 --split val --name short
    python datasets/prepare_pathfinder.py --folder FOLDER
    python datasets/prepare_pathfinder.py --folder FOLDER --check

The last two complete and mend a set that is there, or look for faults alone. A run that was stopped
or killed may simply be started again: shards that are whole are kept. Files do not depend on the
number of processes.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from rpanoptic.arguments import at_least, numbers_of_steps
from rpanoptic.data.parallel import available_cores
from rpanoptic.data.paths import DATASETS_VARIABLE, datasets_root
from rpanoptic.errors import DatasetError, UserError
from rpanoptic.pathfinder.builtin import PATHFINDER_FOLDER, STORED_SETS, checked_name, set_name
from rpanoptic.pathfinder.sets import NUMBERS, SPLITS, PathfinderSet
from rpanoptic.pathfinder.settings import FORMS, PathfinderSettings
from rpanoptic.pathfinder.storage import (
    DEFAULT_SHARD_SIZE,
    Description,
    find_faults,
    read_description,
    write_set,
)


def main(argv: list[str] | None = None) -> int:
    """Parse ``argv``, draw or check the set, and return the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.folder is None and (args.length is None or args.split is None):
        parser.error("give --length and --split, or --folder")
    if args.folder is not None and (args.length or args.overwrite):
        parser.error("--folder takes all settings from the set that is there")
    try:
        folder, wanted = _wanted(args)
        if args.check:
            return _check(folder, args.workers)
        report = write_set(
            folder,
            wanted.content,
            shard_size=wanted.shard_size,
            workers=args.workers,
            overwrite=args.overwrite,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{folder}: {wanted.content.number} pictures in {report.shards} shards, "
        f"{report.drawn or 'none'} of them new."
    )
    return 0


def _wanted(args: argparse.Namespace) -> tuple[Path, Description]:
    """The folder that the arguments name, and what it shall hold."""
    if args.folder is not None:
        found = read_description(args.folder)
        if found is None:
            raise DatasetError(f"--folder {args.folder}: there is no Pathfinder set.")
        return args.folder, found
    settings = PathfinderSettings(
        form=args.form, lengths=tuple(args.length), **{f: getattr(args, f) for f in _OTHERS}
    )
    known = STORED_SETS.get(set_name(settings, args.split))
    number = args.num or (known.number if known else NUMBERS[args.split])
    content = PathfinderSet(settings=settings, split=args.split, number=number, seed=args.seed)
    name = checked_name(content, args.name)
    return args.root / name, Description(content, shard_size=args.shard_size)


def _check(folder: Path, workers: int) -> int:
    faults = find_faults(folder, workers=workers)
    print("\n".join(faults) if faults else f"{folder}: all shards are as they were written.")
    return 1 if faults else 0


# Settings whose flags follow from their names and defaults.
_OTHERS = {
    one.name: one.default
    for one in fields(PathfinderSettings)
    if one.name not in ("form", "lengths")
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--length",
        type=numbers_of_steps,
        metavar="L",
        help="paddles of a contour: 14, or 10-25 for a set of mixed lengths",
    )
    parser.add_argument("--split", choices=SPLITS)
    parser.add_argument("--form", choices=FORMS, default=FORMS[0], help="default: %(default)s")
    parser.add_argument(
        "--num", type=at_least(1), metavar="N", help=f"pictures (default: {_spelt(NUMBERS)})"
    )
    parser.add_argument(
        "--seed",
        type=at_least(0),
        default=0,
        help="of all splits, each of which has pictures of its own (default: %(default)s)",
    )
    place = parser.add_argument_group("where")
    place.add_argument(
        "--root",
        type=Path,
        default=datasets_root() / PATHFINDER_FOLDER,
        metavar="DIR",
        help=f"of all sets (default: ${DATASETS_VARIABLE}/{PATHFINDER_FOLDER}, which is where the "
        "names in configs look)",
    )
    place.add_argument(
        "--name",
        help="of the folder and, in configs, of the set; needed for settings that have no name",
    )
    place.add_argument("--folder", type=Path, metavar="DIR", help="a set that is there")
    how = parser.add_argument_group("how")
    how.add_argument("--check", action="store_true", help="compare shards with their checksums")
    how.add_argument(
        "--overwrite", action="store_true", help="replace a set that has other settings"
    )
    how.add_argument(
        "--workers",
        type=at_least(1),
        default=available_cores(),
        metavar="N",
        help="processes; the files do not depend on it",
    )
    how.add_argument(
        "--shard-size",
        type=at_least(1),
        default=DEFAULT_SHARD_SIZE,
        metavar="N",
        help="pictures of a file (default: %(default)s)",
    )
    settings = parser.add_argument_group(
        "settings of the pictures", "as rpanoptic.pathfinder.PathfinderSettings explains them"
    )
    for name, default in _OTHERS.items():
        several = isinstance(default, tuple)
        settings.add_argument(
            f"--{name.replace('_', '-')}",
            type=float if several else type(default),
            nargs="+" if several else None,
            default=default,
            metavar="X",
            help=f"default: {_spelt(default)}",
        )
    return parser


def _spelt(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    sys.exit(main())
