#!/usr/bin/env python3
"""Draw 1, 10, 25 and 50 % of COCO's training pictures, each set a part of the next.

Writes annotations/{panoptic,instances}_train2017_reduce_{1,10,25,50}.json, which the datasets
coco_2017_train_panoptic_separated_reduce_{1,10,25,50} read. Pictures and PNGs are shared with the
full set, which prepare_coco_panoptic.py must have prepared.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rpanoptic.data.coco_splits import DEFAULT_SEED, write_coco_splits
from rpanoptic.data.paths import DATASETS_VARIABLE, datasets_root
from rpanoptic.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Parse ``argv``, write the splits, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=datasets_root() / "coco",
        help=f"COCO's folder (default: ${DATASETS_VARIABLE}/coco)",
    )
    parser.add_argument(
        "--seed", type=int, default=DEFAULT_SEED, help="of the choice (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that differ")
    args = parser.parse_args(argv)
    annotations = args.root / "annotations"
    try:
        reports = write_coco_splits(
            annotations / "panoptic_train2017.json",
            annotations / "instances_train2017.json",
            seed=args.seed,
            overwrite=args.overwrite,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for report in reports:
        for file in report.files:
            done = "written" if file in report.written else "was there"
            print(f"{file}: {report.pictures} pictures ({report.percent} %), {done}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
