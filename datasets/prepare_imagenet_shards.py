#!/usr/bin/env python3
"""Pack folders of pictures into tar files, for disks that are slow with many small files.

    python datasets/prepare_imagenet_shards.py --split train
    python datasets/prepare_imagenet_shards.py --root FOLDER --output FOLDER
    python datasets/prepare_imagenet_shards.py --root FOLDER --output FOLDER --size 160
    python datasets/prepare_imagenet_shards.py --index-only FOLDER --classes FILE

The tar files are in WebDataset's format: a picture and a .cls file with its label for each key. A
run that was stopped or killed may simply be started again: shards that are whole are kept, others
are named and written again. Files do not depend on the number of processes. The last form indexes
tar files that others made, and changes nothing in them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rpanoptic.arguments import at_least
from rpanoptic.data.parallel import available_cores
from rpanoptic.data.paths import DATASETS_VARIABLE, datasets_root
from rpanoptic.errors import DatasetError, UserError
from rpanoptic.pathfinder.imagenet.data.imagenet import IMAGENET_FOLDER, SPLITS
from rpanoptic.pathfinder.imagenet.data.packing import (
    PICTURES_PER_SHARD,
    PackReport,
    index_folder,
    pack_folder,
)


def main(argv: list[str] | None = None) -> int:
    """Parse ``argv``, pack or index, and return the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.index_only is None and args.split is None and (not args.root or not args.output):
        parser.error("give --split, --root and --output, or --index-only")
    packing = (args.split, args.root, args.output, args.size or None)
    if args.index_only is not None and any(one is not None for one in packing):
        parser.error("--index-only packs nothing: leave out --split, --root, --output and --size")
    if args.classes is not None and args.index_only is None:
        parser.error("--classes is for --index-only: the names of folders are those of classes")
    try:
        folder, report = _done(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    new = f"{report.written or 'none'} of them new" if args.index_only is None else "indexed"
    print(f"{folder}: {report.pictures} pictures in {report.shards} shards, {new}.")
    return 0


def _done(args: argparse.Namespace) -> tuple[Path, PackReport]:
    if args.index_only is not None:
        classes = None if args.classes is None else _lines(args.classes)
        return args.index_only, index_folder(args.index_only, classes=classes, workers=args.workers)
    imagenet = datasets_root() / IMAGENET_FOLDER
    root = args.root or imagenet / args.split
    folder = args.output or imagenet / "shards" / args.split
    return folder, pack_folder(
        root,
        folder,
        pictures_per_shard=args.pictures_per_shard,
        shorter_side=args.size,
        workers=args.workers,
    )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"--classes {path}: cannot be read ({error}).") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    place = parser.add_argument_group("where")
    place.add_argument(
        "--split",
        choices=SPLITS,
        help=f"of ImageNet: ${DATASETS_VARIABLE}/{IMAGENET_FOLDER}/SPLIT goes to "
        f"{IMAGENET_FOLDER}/shards/SPLIT, where the names in configs look if the folder is gone",
    )
    place.add_argument("--root", type=Path, metavar="DIR", help="with a folder for each class")
    place.add_argument("--output", type=Path, metavar="DIR", help="where the shards go")
    place.add_argument(
        "--index-only", type=Path, metavar="DIR", help="with tar files in WebDataset's format"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--size",
        type=at_least(1),
        default=0,
        metavar="PX",
        help="reduce larger pictures to this shorter side, as JPEG (default: files as they are)",
    )
    how.add_argument(
        "--pictures-per-shard",
        type=at_least(1),
        default=PICTURES_PER_SHARD,
        metavar="N",
        help="default: %(default)s, about 110 MB of ImageNet",
    )
    how.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="names of the classes of --index-only, a word a line in the order of labels "
        "(default: the labels)",
    )
    how.add_argument(
        "--workers",
        type=at_least(1),
        default=available_cores(),
        metavar="N",
        help="processes; the files do not depend on it",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
