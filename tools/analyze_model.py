#!/usr/bin/env python
"""Count what a model costs: parameters, FLOPs, activations, memory by number of steps.

    python tools/analyze_model.py --config-file configs/synthetic_panoptic_crbp20.yaml
    python tools/analyze_model.py --config-file configs/coco_panoptic_crbp.yaml \\
        --tasks flops memory --steps 1 5 10 20 --size 480 640 --output output/cost

No weights and no data are needed: pictures are noise, and the number of regions is fixed, so that
figures can be compared. FLOPs and activations are those of an inference on one picture, memory is
that of a training iteration.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import rpanoptic  # first: it silences a warning of what follows

# isort: split
from detectron2.modeling import build_model

import rpanoptic.data
import rpanoptic.modeling  # noqa: F401  (both register names that configs use)
from rpanoptic.arguments import at_least
from rpanoptic.benchmarks import model_cost
from rpanoptic.benchmarks.model_inputs import picture_size
from rpanoptic.benchmarks.report import Row, write_csv
from rpanoptic.engine import check_output_dir, setup_config
from rpanoptic.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0, or 2 when the user's input stopped the work; the message is on standard error.
    """
    args = _parser().parse_args(argv)
    try:
        folder = check_output_dir(args.output, key="--output") if args.output else None
        rows = _rows(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if folder is not None:
        write_csv(folder / "model.csv", rows)
    print(model_cost.tabulated(rows))
    return 0


def _rows(args: argparse.Namespace) -> list[Row]:
    cfg = setup_config(args.config_file, args.opts, splits=())
    size = model_cost.check_size(args.size or picture_size(cfg))
    model = build_model(cfg)
    rows: list[Row] = []
    if "parameters" in args.tasks:
        rows += model_cost.parameters(model)
    traced = [task for task in ("flops", "activations") if task in args.tasks]
    if traced:
        rows += model_cost.operations(
            cfg, model, size=size, steps=args.steps, tasks=traced, detections=args.detections
        )
    if "memory" in args.tasks:
        rows += model_cost.memory(
            cfg,
            model,
            size=size,
            steps=args.steps,
            batch=args.batch,
            log=lambda text: print(text, file=sys.stderr),
        )
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument(
        "--tasks", nargs="+", choices=model_cost.TASKS, default=model_cost.TASKS, metavar="TASK"
    )
    parser.add_argument(
        "--steps",
        nargs="+",
        type=at_least(1),
        default=[1, 5, 10, 20],
        metavar="N",
        help="of all recurrent blocks (default 1 5 10 20)",
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=at_least(1),
        metavar=("H", "W"),
        help="of a picture, in pixels (default: the largest of INPUT.*_SIZE_TEST)",
    )
    parser.add_argument(
        "--detections",
        type=at_least(1),
        metavar="N",
        help="regions of the mask head at inference (default TEST.DETECTIONS_PER_IMAGE)",
    )
    parser.add_argument(
        "--batch",
        type=at_least(1),
        default=1,
        metavar="N",
        help="pictures of a training iteration (default 1)",
    )
    parser.add_argument("--output", metavar="DIR", help="folder for model.csv (default: none)")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config overrides"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
