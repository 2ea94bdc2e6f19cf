#!/usr/bin/env python3
"""Derive what Detectron2's separated panoptic form needs from COCO panoptic annotations.

For each split: semantic PNGs in panoptic_stuff_{split}, and a things-only
annotations/instances_{split}.json when it is missing. A killed run may simply be started again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

from rpanoptic.data.coco_panoptic import prepare_coco_panoptic
from rpanoptic.data.parallel import available_cores
from rpanoptic.data.paths import DATASETS_VARIABLE, datasets_root
from rpanoptic.errors import UserError

DEFAULT_SPLITS = ["train2017", "val2017"]


class _Paths(NamedTuple):
    """The files of one split, in the order that :func:`prepare_coco_panoptic` takes them."""

    panoptic_json: Path
    panoptic_root: Path
    output_sem_seg: Path
    output_instances: Path


def _split_paths(root: Path, split: str) -> _Paths:
    return _Paths(
        root / "annotations" / f"panoptic_{split}.json",
        root / f"panoptic_{split}",
        root / f"panoptic_stuff_{split}",
        root / "annotations" / f"instances_{split}.json",
    )


def main(argv: list[str] | None = None) -> int:
    """Parse ``argv``, prepare the splits, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=datasets_root() / "coco",
        help=f"COCO's folder (default: ${DATASETS_VARIABLE}/coco)",
    )
    parser.add_argument("--splits", nargs="+", default=DEFAULT_SPLITS, metavar="SPLIT")
    parser.add_argument("--workers", type=int, default=available_cores(), help="processes")
    parser.add_argument(
        "--overwrite", action="store_true", help="make files again although they are there"
    )
    explicit = parser.add_argument_group(
        "explicit paths", "for data laid out in another way; all four, instead of --splits"
    )
    explicit.add_argument("--panoptic-json", type=Path, metavar="FILE")
    explicit.add_argument("--panoptic-root", type=Path, metavar="DIR")
    explicit.add_argument("--output-sem-seg", type=Path, metavar="DIR")
    explicit.add_argument("--output-instances", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f"--workers must be at least 1, got {args.workers}")
    given = [getattr(args, field) for field in _Paths._fields]
    if any(given) and not all(given):
        parser.error(
            "explicit paths go together: --panoptic-json, --panoptic-root, --output-sem-seg and "
            "--output-instances"
        )
    jobs = [_Paths(*given)] if all(given) else [_split_paths(args.root, s) for s in args.splits]
    try:
        for paths in jobs:
            report = prepare_coco_panoptic(*paths, workers=args.workers, overwrite=args.overwrite)
            instances = (
                "was there"
                if report.instances is None
                else f"written, {report.instances} annotations"
            )
            print(
                f"{paths.output_sem_seg}: {report.pictures} semantic PNGs ({report.written} new), "
                f"{report.stuff_classes} stuff classes\n{paths.output_instances}: {instances}"
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
