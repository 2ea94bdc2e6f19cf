#!/usr/bin/env python
"""Measure and draw how the recurrent blocks of a trained model behave on pictures.

    python tools/analyze_dynamics.py --config-file configs/synthetic_panoptic_crbp.yaml \\
        --weights output/model_final.pth --input photos/ more/*.jpg --output dynamics

Does the state settle, and does it stay beyond the steps of training? Is the step a contraction
where it ends? For each block the tool prints a table and writes four figures, and all numbers to
dynamics.json. Without --input it takes pictures of the first of DATASETS.TEST.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

import rpanoptic.data
import rpanoptic.modeling  # noqa: F401  (both register names that configs use)
from rpanoptic.arguments import at_least
from rpanoptic.engine import check_output_dir, setup_config
from rpanoptic.engine.checkpoint import checkpoint_classes
from rpanoptic.engine.dynamics import DynamicsProbe, dataset_pictures, save_dynamics
from rpanoptic.engine.inputs import PictureError, find_pictures, read_picture
from rpanoptic.errors import UserError
from rpanoptic.evaluation.dynamics import dynamics_table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0; 1 when a picture could not be used and the others were; 2 when nothing was measured.
        Messages are on standard error.
    """
    args = _parser().parse_args(argv)
    try:
        return _analyze(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _analyze(args: argparse.Namespace) -> int:
    pictures = find_pictures(args.input) if args.input else None
    folder = check_output_dir(args.output, key="--output")
    # With pictures at hand no dataset is opened, if the checkpoint holds the classes.
    classes = checkpoint_classes(args.weights) if pictures else None
    cfg = setup_config(args.config_file, args.opts, classes=classes, splits=("TEST",))
    if pictures is None:
        pictures = dataset_pictures(cfg, args.pictures)
    probe = DynamicsProbe(
        cfg, args.weights, steps=args.steps, samples=args.samples, pictures=len(pictures)
    )
    failed = 0
    for path in tqdm(pictures, unit="picture"):
        try:
            _look(probe, path)
        except PictureError as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
            failed += 1
    if failed == len(pictures):
        return 2
    results = probe.measure(iterations=args.iterations)
    files = save_dynamics(folder, results)
    print(dynamics_table(results))
    print(f"{len(files)} files written into {folder}")
    return 1 if failed else 0


def _look(probe: DynamicsProbe, path: Path) -> None:
    image = read_picture(path)
    try:
        probe.look(image)
    except PictureError as error:
        raise PictureError(f"picture {path}: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint of the model")
    parser.add_argument("--input", nargs="+", metavar="PATH", help="files, patterns or folders")
    parser.add_argument(
        "--pictures",
        type=at_least(1),
        default=4,
        metavar="N",
        help="without --input: the first N pictures of DATASETS.TEST[0] (default 4)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--steps",
        type=at_least(1),
        metavar="N",
        help="steps to follow each block for (default: twice its steps in training)",
    )
    parser.add_argument(
        "--samples",
        type=at_least(1),
        default=8,
        metavar="N",
        help="most samples of each block, shared out among the pictures (default 8)",
    )
    parser.add_argument(
        "--iterations",
        type=at_least(2),
        default=100,
        metavar="N",
        help="of the power iterations (default 100)",
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config overrides"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
