#!/usr/bin/env python
"""Evaluate trained models after many numbers of recurrent steps, and draw results against steps.

    python tools/sweep_steps.py --config-file configs/synthetic_panoptic_crbp20.yaml \\
        --weights output/model_final.pth --steps 1-10,15,20,30,40 --output output/steps
    python tools/sweep_steps.py --output output/steps \\
        --checkpoint "BPTT 3=configs/synthetic_panoptic_bptt3.yaml:output/bptt3/model_final.pth" \\
        --checkpoint "C-RBP 20=configs/synthetic_panoptic_crbp20.yaml:output/crbp20/model_final.pth"
    python tools/sweep_steps.py --config-file configs/pathfinder/PF14/crbp20.yaml \\
        --weights output/model_best.pth --steps 1-60 --output output/pathfinder \\
        --dataset pathfinder_14_test pathfinder_20_test pathfinder_25_test pathfinder_mixed_test
    python tools/sweep_steps.py --from-csv output/steps/steps.csv --output output/figures

It writes steps.csv, a row for each checkpoint, dataset and number of steps with all results, and
for each --metric a figure, with a panel for each dataset, and a table of the best result and those
after as many steps as in training, twice and four times as many. Checkpoints of one label are
seeds of one method: the figure shows their mean and range. A model without recurrence becomes a
horizontal line. Rows that steps.csv holds already for the same weights and settings are not
evaluated again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import rpanoptic  # first: it silences a warning of what follows

# isort: split
from detectron2.utils.logger import setup_logger

import rpanoptic.data
import rpanoptic.modeling  # noqa: F401  (both register names that configs use)
from rpanoptic.arguments import at_least, numbers_of_steps
from rpanoptic.benchmarks.report import Row
from rpanoptic.engine import check_output_dir, setup_config
from rpanoptic.engine.extrapolation import extrapolation_table, save_extrapolation
from rpanoptic.engine.step_sweep import (
    MAIN_METRICS,
    Checkpoint,
    best_metric,
    read_sweep,
    save_sweep_figures,
    split_checkpoint,
    sweep,
    sweep_table,
)
from rpanoptic.errors import ConfigError, UserError

_WAYS = "give one of --config-file, --checkpoint and --from-csv"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0, or 2 when the user's input stopped the work; the message is on standard error.
    """
    args = _parser().parse_args(argv)
    setup_logger(name="rpanoptic")
    try:
        folder = check_output_dir(args.output, key="--output")
        rows, metrics = _read(args) if args.from_csv else _evaluated(args, folder)
        files = [
            *save_sweep_figures(folder, rows, metrics),
            *save_extrapolation(folder, rows, metrics),
        ]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for metric in metrics:
        print(f"{metric}\n{sweep_table(rows, metric)}")
        print(extrapolation_table(rows, metric, markdown=False))
    print(f"written: {', '.join(map(str, files))}")
    return 0


def _read(args: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Rows of tables, and the metrics to draw."""
    if args.config_file or args.checkpoint:
        raise ConfigError(_WAYS)
    rows = [row for file in args.from_csv for row in read_sweep(Path(file))]
    if args.dataset:
        for name in args.dataset:
            known = dict.fromkeys(row["dataset"] for row in rows)
            if name not in known:
                raise ConfigError(f"--dataset {name}: the tables are of {', '.join(known)}")
        rows = [row for row in rows if row["dataset"] in args.dataset]
    there = {name for row in rows for name, value in row.items() if value is not None}
    found = [name for name in MAIN_METRICS if name in there]
    return rows, args.metric or found or [MAIN_METRICS[0]]


def _evaluated(args: argparse.Namespace, folder: Path) -> tuple[list[Row], list[str]]:
    """Rows of checkpoints, and the metrics to draw."""
    if bool(args.config_file) == bool(args.checkpoint):
        raise ConfigError(_WAYS)
    named = [split_checkpoint(text) for text in args.checkpoint]
    if args.config_file:
        named = [(args.label or Path(args.config_file).stem, args.config_file, args.weights or "")]
    elif args.label or args.weights:
        raise ConfigError("--label and --weights belong to --config-file, not to --checkpoint")
    todo = []
    for label, config, weights in named:
        for dataset in dict.fromkeys(args.dataset) or [None]:
            chosen = [] if dataset is None else ["DATASETS.TEST", repr((dataset,))]
            cfg = setup_config(config, [*args.opts, *chosen], output_dir=folder, splits=("TEST",))
            todo.append(Checkpoint(label, cfg, weights or cfg.MODEL.WEIGHTS))
    metrics = args.metric or list(dict.fromkeys(best_metric(one.cfg) for one in todo))
    file = folder / "steps.csv"
    return sweep(todo, args.steps, file, timed_pictures=args.timed_pictures), metrics


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", metavar="FILE", help="of a single checkpoint")
    parser.add_argument("--weights", metavar="FILE", help="its weights (default: MODEL.WEIGHTS)")
    parser.add_argument("--label", metavar="TEXT", help="its name (default: the config's)")
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="LABEL=CONFIG:WEIGHTS",
        help="one of several checkpoints; repeat it",
    )
    parser.add_argument(
        "--from-csv", nargs="+", metavar="FILE", help="draw these tables; evaluate nothing"
    )
    parser.add_argument(
        "--dataset",
        nargs="+",
        default=[],
        metavar="NAME",
        help="datasets to evaluate (default: the first of DATASETS.TEST), or of --from-csv to draw",
    )
    parser.add_argument(
        "--steps",
        type=numbers_of_steps,
        default=numbers_of_steps("1-10,15,20,30,40"),
        metavar="LIST",
        help="numbers and ranges (default 1-10,15,20,30,40)",
    )
    parser.add_argument(
        "--metric",
        nargs="+",
        default=[],
        metavar="NAME",
        help="results to draw, as the evaluators name them (default: RPANOPTIC.BEST_METRIC; of "
        "--from-csv panoptic_seg/PQ, contour/F1 and classification/accuracy, as far as there)",
    )
    parser.add_argument(
        "--timed-pictures",
        type=at_least(0),
        default=5,
        metavar="N",
        help="pictures on which the time of a whole run is measured (default 5; 0: not at all)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config overrides for every checkpoint, at the end",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
