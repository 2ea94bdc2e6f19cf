#!/usr/bin/env python
"""Draw panoptic predictions, and a recurrent mask head's steps, on your own pictures.

    python tools/demo.py --config-file configs/synthetic_panoptic_crbp.yaml \\
        --weights output/model_final.pth --input photos/ more/*.jpg --output drawn

For a picture NAME.jpg it writes NAME_panoptic.png and, if the mask head is recurrent,
NAME_steps.png: the masks after 1, 2, 5, 10 and 20 steps. Class names and colours are those that
the checkpoint holds; no dataset is needed.
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
from rpanoptic.engine.demo import Demo
from rpanoptic.engine.inputs import PictureError, find_pictures, output_names, read_picture
from rpanoptic.errors import ConfigError, UserError
from rpanoptic.visualization.steps import STEPS


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0; 1 when a picture could not be drawn and the others were drawn; 2 when nothing was
        drawn. Messages are on standard error.
    """
    args = _parser().parse_args(argv)
    try:
        return _draw_all(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _draw_all(args: argparse.Namespace) -> int:
    if not 0 <= args.confidence_threshold <= 1:
        raise ConfigError("--confidence-threshold must lie between 0 and 1.")
    pictures = find_pictures(args.input)
    folder = check_output_dir(args.output, key="--output")
    classes = checkpoint_classes(args.weights)
    cfg = setup_config(args.config_file, args.opts, classes=classes, splits=("TEST",))
    demo = Demo(cfg, args.weights, threshold=args.confidence_threshold)
    names = output_names(pictures)
    failed = 0
    for path in tqdm(pictures, unit="picture"):
        try:
            _draw(demo, path, folder, names[path], args.steps)
        except PictureError as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
            failed += 1
    print(f"{len(pictures) - failed} of {len(pictures)} pictures drawn into {folder}")
    if failed == len(pictures):
        return 2
    return 1 if failed else 0


def _draw(demo: Demo, path: Path, folder: Path, name: str, steps: Sequence[int]) -> None:
    image = read_picture(path)
    try:
        demo.save(image, folder, name, steps)
    except PictureError as error:
        raise PictureError(f"picture {path}: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint of the model")
    parser.add_argument(
        "--input", required=True, nargs="+", metavar="PATH", help="files, patterns or folders"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the drawings")
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.5, help="least score of a thing"
    )
    parser.add_argument(
        "--steps", type=at_least(1), nargs="+", default=STEPS, metavar="N", help="steps to show"
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config overrides"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
