#!/usr/bin/env python3
"""Draw the synthetic panoptic set: textured stuff, occluding shapes, COCO panoptic format."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rpanoptic.data.builtin import SYNTHETIC_FOLDER
from rpanoptic.data.parallel import available_cores
from rpanoptic.data.paths import DATASETS_VARIABLE, datasets_root
from rpanoptic.data.synthetic_panoptic import SyntheticParameters, build_synthetic_panoptic
from rpanoptic.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Parse ``argv``, build the set, and return the exit status."""
    defaults = SyntheticParameters()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output",
        type=Path,
        default=datasets_root() / SYNTHETIC_FOLDER,
        help=f"folder of the set (default: ${DATASETS_VARIABLE}/{SYNTHETIC_FOLDER}, which is "
        "where the registered names look)",
    )
    parser.add_argument("--train", type=int, default=defaults.train, help="pictures to train on")
    parser.add_argument("--val", type=int, default=defaults.val, help="held-out pictures")
    parser.add_argument("--size", type=int, default=defaults.size, help="side in pixels")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument(
        "--workers",
        type=int,
        default=available_cores(),
        help="processes; the files do not depend on it",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a synthetic set that differs"
    )
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f"--workers must be at least 1, got {args.workers}")
    try:
        parameters = SyntheticParameters(args.train, args.val, args.size, args.seed)
        written = build_synthetic_panoptic(
            args.output, parameters, workers=args.workers, overwrite=args.overwrite
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: " + ("written." if written else "already there, nothing to do."))
    return 0


if __name__ == "__main__":
    sys.exit(main())
