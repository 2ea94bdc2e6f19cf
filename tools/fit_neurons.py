#!/usr/bin/env python
"""Fit layers of trained models to the responses of neurons, over time.

    python tools/fit_neurons.py --config-file CONFIG.yaml --weights output/model_final.pth \\
        --stimuli stimuli/ --assembly IT.nc --layers conv9 conv10 --output output/fits \\
        MODEL.RECURRENT.CONVRNN.STEPS 22 MODEL.RECURRENT.CONVRNN.IMAGE_STEPS 10
    python tools/fit_neurons.py --from-csv convrnn/neural_fit.csv resnet/neural_fit.csv \\
        --output output/compared

An assembly is a NetCDF file of presentations x neuroids x bins of time; docs/imagenet.md says what
it holds. Of each layer a map from features to neurons (partial least squares) is trained on half of
the stimuli and judged on the others, ten times. The tool writes neural_fit.csv, a row for each
layer and bin of time, neural_fit.json, with rows for whole layers and the settings, and the figure
neural_fit.png; and the features, which a second run reads, into features/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import rpanoptic  # first: it silences a warning of what follows

# isort: split
from detectron2.utils.logger import setup_logger

import rpanoptic.data
import rpanoptic.modeling  # noqa: F401  (both register names that configs use)
from rpanoptic.arguments import at_least
from rpanoptic.engine import check_output_dir, setup_config
from rpanoptic.engine.inputs import find_pictures
from rpanoptic.engine.neural_fit import (
    FeatureSettings,
    fit_rows,
    model_features,
    stimulus_pictures,
)
from rpanoptic.engine.neural_fit_files import fit_table, read_fits, save_fit_figure, save_fits
from rpanoptic.errors import ConfigError, UserError, naming
from rpanoptic.pathfinder.imagenet.neural_fit import (
    FitSettings,
    MapSettings,
    check_assembly,
    read_assembly,
)
from rpanoptic.pathfinder.imagenet.neural_fit.regression import MAPS


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
        files = _compare(args) if args.from_csv else _fit(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {', '.join(map(str, files))}")
    return 0


def _compare(args: argparse.Namespace) -> list[Path]:
    if args.config_file:
        raise ConfigError("give --config-file or --from-csv, not both")
    rows = [row for file in args.from_csv for row in read_fits(Path(file))]
    files = save_fit_figure(check_output_dir(args.output, key="--output"), rows)
    if not files:
        raise UserError("--from-csv: no neuroid counts in any bin, so there is nothing to draw")
    return files


def _fit(args: argparse.Namespace) -> list[Path]:
    for flag in ("config_file", "stimuli", "assembly", "layers"):
        if not getattr(args, flag):
            raise ConfigError(f"--{flag.replace('_', '-')} is missing (or give --from-csv)")
    if keys := [name for name in args.layers if "." in name]:
        raise ConfigError(f"--layers: {keys[0]} is no layer; another flag goes before config keys")
    with naming("--components, --map, --pca, --splits, --least-reliability, --seed"):
        settings = FitSettings(
            map=MapSettings(components=args.components, kind=args.map, pca=args.pca),
            splits=args.splits,
            least_reliability=args.least_reliability,
            noise_correction=not args.no_noise_correction,
            seed=args.seed,
        )
    taken = FeatureSettings(projection=args.projection, batch=args.batch_size, seed=args.seed)
    assembly = read_assembly(args.assembly, variable=args.variable)
    if args.window:
        assembly = assembly.window(*args.window)
    check_assembly(assembly, settings)
    pictures = stimulus_pictures(assembly, find_pictures([args.stimuli]))
    folder = check_output_dir(args.output, key="--output")
    cfg = setup_config(args.config_file, args.opts, output_dir=folder)
    weights = args.weights or cfg.MODEL.WEIGHTS
    if not weights:
        raise ConfigError("MODEL.WEIGHTS is empty: name a checkpoint there, or by --weights")
    store = check_output_dir(args.features or folder / "features", key="--features")
    features = model_features(cfg, weights, args.layers, pictures, store, taken)
    label = args.label or Path(args.config_file).stem
    bins, overall = fit_rows(label, features, assembly, settings, drop_bins=args.drop_bins)
    print(fit_table(overall))
    notes = {"config_file": args.config_file, "opts": args.opts, "weights": weights}
    notes |= {"assembly": str(args.assembly), "fit": asdict(settings), "features": asdict(taken)}
    return save_fits(folder, bins, overall, notes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", metavar="FILE", help="of the model")
    parser.add_argument("--weights", metavar="FILE", help="checkpoint (default: MODEL.WEIGHTS)")
    parser.add_argument("--label", metavar="TEXT", help="name of the model (default: the config's)")
    parser.add_argument(
        "--stimuli", metavar="DIR", help="folder of the pictures, named by their id"
    )
    parser.add_argument("--assembly", metavar="FILE", help="responses, NetCDF-4")
    parser.add_argument("--variable", metavar="NAME", help="of the assembly, if there are several")
    parser.add_argument("--layers", nargs="+", default=[], metavar="NAME", help="of the backbone")
    parser.add_argument(
        "--from-csv", nargs="+", metavar="FILE", help="draw these tables together; fit nothing"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--features", metavar="DIR", help="folder of features (OUTPUT/features)")
    parser.add_argument(
        "--window", nargs=2, type=float, metavar=("FIRST", "LAST"), help="bins between these ms"
    )
    parser.add_argument(
        "--drop-bins",
        action="store_true",
        help="leave out bins for which a layer has no answer, instead of an error",
    )
    parser.add_argument(
        "--map",
        choices=MAPS,
        default="shared",
        help="one map shared by all bins (default), or one per bin",
    )
    parser.add_argument(
        "--components", type=at_least(1), default=25, metavar="N", help="of the PLS (default 25)"
    )
    parser.add_argument(
        "--pca",
        type=at_least(0),
        default=0,
        metavar="N",
        help="reduce features to components of the training stimuli (default 0: no)",
    )
    parser.add_argument(
        "--projection",
        type=at_least(0),
        default=2048,
        metavar="N",
        help="mix a layer's features into at most N at random (default 2048; 0: keep all)",
    )
    parser.add_argument(
        "--splits", type=at_least(1), default=10, metavar="N", help="of the stimuli (default 10)"
    )
    parser.add_argument(
        "--least-reliability",
        type=float,
        default=0.3,
        metavar="R",
        help="neuroids of less are left out (default 0.3)",
    )
    parser.add_argument(
        "--no-noise-correction", action="store_true", help="for stimuli that were shown once"
    )
    parser.add_argument("--batch-size", type=at_least(1), default=16, metavar="N")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides, at the end"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
