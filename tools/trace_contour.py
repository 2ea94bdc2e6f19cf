#!/usr/bin/env python
"""Draw how a trained contour tracer finds a contour, step by step, beyond its trained steps too.

    python tools/trace_contour.py --config-file configs/pathfinder/PF14/crbp20.yaml \\
        --weights output/model_best.pth --samples 4 --output traced

For a picture NAME it writes NAME.png, the readout after 1, 2, 5, 10, 20, ... steps beside the true
contour, and NAME.gif, the readout after every step; and for all of them trajectories.png, the
course of the state. Pictures come from a set (--dataset, --first, --samples) or are your own
(--input): light lines on dark ground, a disc at the end of the contour to be traced.
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
from rpanoptic.engine.contour_trace import (
    ContourTracer,
    dataset_pictures,
    own_pictures,
    save_traces,
    save_trajectories,
)
from rpanoptic.engine.inputs import PictureError, find_pictures
from rpanoptic.errors import ConfigError, UserError
from rpanoptic.recurrent.stability import PrincipalComponents
from rpanoptic.visualization.contour_trace import ContourTrace
from rpanoptic.visualization.dynamics import MAX_PANELS

# What is drawn of all pictures together.
_GRID, _TRAJECTORIES = "contours", "trajectories"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0; 1 when a picture could not be used and the others were drawn; 2 when nothing was
        drawn. Messages are on standard error.
    """
    args = _parser().parse_args(argv)
    try:
        return _trace_all(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _trace_all(args: argparse.Namespace) -> int:
    if args.input and (args.dataset, args.first, args.samples) != (None, None, None):
        raise ConfigError("--input: --dataset, --first and --samples choose pictures of a set.")
    paths = find_pictures(args.input) if args.input else None
    folder = check_output_dir(args.output, key="--output")
    cfg = setup_config(args.config_file, args.opts)
    if paths is None:
        first, samples = args.first or 0, args.samples or 4
        pictures = dataset_pictures(cfg, args.dataset, first=first, samples=samples)
    else:
        pictures = own_pictures(cfg, paths, taken=[_GRID, _TRAJECTORIES])
    tracer = ContourTracer(cfg, args.weights, steps=args.steps)
    traces: list[ContourTrace] = []
    components: list[PrincipalComponents] = []
    files: list[Path] = []
    failed = 0
    for name, read in tqdm(pictures, unit="picture"):
        try:
            inputs = read()
        except PictureError as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        wanted = tracer.steps >= tracer.least_steps and len(components) < MAX_PANELS
        trace, trajectory = tracer.trace(inputs, trajectory=wanted)
        if args.columns:
            traces.append(trace)
        else:
            files += _save(folder, name, [trace], tracer, args)
        if trajectory is not None:
            components.append(trajectory)
    if failed == len(pictures):
        return 2
    if traces:
        files += _save(folder, _GRID, traces, tracer, args)
    if components:
        file = folder / f"{_TRAJECTORIES}.png"
        files.append(save_trajectories(file, components, tracer.trained_steps))
    else:
        print(f"no {_TRAJECTORIES}.png: it needs {tracer.least_steps} steps, not {tracer.steps}")
    print(f"{len(files)} files written into {folder}")
    return 1 if failed else 0


def _save(
    folder: Path,
    name: str,
    traces: Sequence[ContourTrace],
    tracer: ContourTracer,
    args: argparse.Namespace,
) -> list[Path]:
    return save_traces(
        folder,
        name,
        traces,
        tracer.trained_steps,
        columns=args.columns or 1,
        cell_width=args.width,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint of the model")
    parser.add_argument("--input", nargs="+", metavar="PATH", help="files, patterns or folders")
    parser.add_argument(
        "--dataset", metavar="NAME", help="without --input: a set (default: DATASETS.TEST[0])"
    )
    parser.add_argument(
        "--first", type=at_least(0), metavar="INDEX", help="its first picture drawn (default 0)"
    )
    parser.add_argument(
        "--samples", type=at_least(1), metavar="N", help="how many of its pictures (default 4)"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the drawings")
    parser.add_argument(
        "--steps",
        type=at_least(1),
        metavar="N",
        help="steps to follow the model for (default: twice its steps in training)",
    )
    parser.add_argument(
        "--columns",
        type=at_least(1),
        metavar="N",
        help="draw all pictures into one contours.png and contours.gif, N beside each other",
    )
    parser.add_argument(
        "--width",
        type=at_least(32),
        default=150,
        metavar="PX",
        help="of one picture in a GIF (default 150)",
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config overrides"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
