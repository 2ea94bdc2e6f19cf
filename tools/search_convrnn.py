#!/usr/bin/env python
"""Search for ConvRNN architectures: many trainings, a study of them that several machines share.

    python tools/search_convrnn.py --config-file CONFIG --storage study.db --trials 60 \\
        --output output/search --report
    python tools/search_convrnn.py --config-file CONFIG --space cells --storage study.db --trials 20
    python tools/search_convrnn.py --config-file CONFIG --storage study.db --trials 60 \\
        --max-parameters 1000000 --pruner median SOLVER.MAX_ITER 2000
    python tools/search_convrnn.py --storage study.db --output output/search --report

The config gives the data, the training and the layers of the networks; the space says what is
varied. Each trial is a training of its own, in OUTPUT/trial_<number>, which tools/train_net.py
repeats from the trial.yaml there. The same command on other machines, with the same --storage,
works on the same study; after an interruption it goes on with it. --trials counts all trials of the
study. --report writes OUTPUT/report.md with figures and the configs of the best networks; without
--config-file that is all that is done.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence

from rpanoptic.arguments import at_least
from rpanoptic.engine import check_output_dir, setup_config
from rpanoptic.engine.check import check_run
from rpanoptic.errors import ConfigError, UserError
from rpanoptic.pathfinder.imagenet.search import check_optuna


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0; 2 when the user's input stopped the work, the message is on standard error; 130 when the
        user interrupted it.
    """
    args = _parser().parse_args(argv)
    try:
        check_optuna()
        _work(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with the study", file=sys.stderr, flush=True)
        return 130
    return 0


def _work(args: argparse.Namespace) -> None:
    # What needs Optuna, and what trains: the package is to say first that Optuna is missing.
    from rpanoptic.engine.search_trial import train_trial_apart
    from rpanoptic.pathfinder.imagenet.search.report import write_report
    from rpanoptic.pathfinder.imagenet.search.run import run_search
    from rpanoptic.pathfinder.imagenet.search.space import find_space
    from rpanoptic.pathfinder.imagenet.search.storage import open_storage
    from rpanoptic.pathfinder.imagenet.search.study import Search, load_study, open_study

    if not 0 < args.top <= 1:
        raise ConfigError(f"--top must be above 0 and at most 1, got {args.top:g}")
    if not args.config_file:
        if not args.report:
            raise ConfigError("give --config-file to search, or --report for what was found")
        folder = check_output_dir(args.output, key="--output")
        study = load_study(open_storage(args.storage, must_exist=True), args.study)
        search = Search.of(study)
    else:
        base = setup_config(args.config_file, args.opts, output_dir=args.output)
        search = Search(find_space(args.space), base, args.max_parameters)
        search.check()
        check_run(base)
        folder = check_output_dir(args.output, key="--output")
        study = open_study(
            open_storage(args.storage, heartbeat=args.heartbeat),
            args.study,
            search,
            seed=args.seed,
            startup_trials=args.startup_trials,
            pruner=args.pruner,
        )
        run_search(
            study,
            search,
            train_trial_apart,
            trials=args.trials,
            folder=folder,
            timeout=args.timeout,
            patience=2 * args.heartbeat,
            say=functools.partial(print, flush=True),
        )
    if args.report:
        files = write_report(study, search, folder, best=args.best, top=args.top)
        print(f"written: {', '.join(map(str, files))}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", metavar="FILE", help="what every trial starts from")
    parser.add_argument(
        "--space",
        default="reciprocal_gated",
        metavar="NAME",
        help='"reciprocal_gated" (default), the published one, or "cells", a small one',
    )
    parser.add_argument(
        "--storage",
        required=True,
        metavar="PLACE",
        help="file of the study, or URL of a database that SQLAlchemy takes",
    )
    parser.add_argument(
        "--study", default="convrnn", metavar="NAME", help="its name (default convrnn)"
    )
    parser.add_argument(
        "--trials",
        type=at_least(0),
        default=60,
        metavar="N",
        help="trials of the study, those that are there and in all processes (default 60)",
    )
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="begin no trial after this time"
    )
    parser.add_argument(
        "--max-parameters",
        type=at_least(0),
        default=0,
        metavar="N",
        help="train no network of more parameters (default 0: any)",
    )
    parser.add_argument(
        "--pruner",
        default="hyperband",
        metavar="NAME",
        help='what stops bad trials at their evaluations: "hyperband" (default), "median", "none"',
    )
    parser.add_argument(
        "--startup-trials",
        type=at_least(1),
        default=20,
        metavar="N",
        help="trials that are drawn at random (default 20)",
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the proposals (default 0)")
    parser.add_argument(
        "--heartbeat",
        type=at_least(1),
        default=60,
        metavar="SECONDS",
        help="between signs of life of a trial; after two without one it is begun again "
        "(default 60)",
    )
    parser.add_argument("--report", action="store_true", help="write a report at the end")
    parser.add_argument(
        "--best", type=at_least(1), default=5, metavar="N", help="networks in it (default 5)"
    )
    parser.add_argument(
        "--top",
        type=float,
        default=0.1,
        metavar="PART",
        help="of the completed trials, which the median network is of (default 0.1)",
    )
    parser.add_argument(
        "--output", default="output/search", metavar="DIR", help="folder (default output/search)"
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config overrides for every trial, at the end",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
