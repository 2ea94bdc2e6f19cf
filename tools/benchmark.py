#!/usr/bin/env python
"""Measure memory and time of the gradient methods, the solvers, and trained models.

    python tools/benchmark.py memory --output output/benchmarks
    python tools/benchmark.py speed --methods bptt rbp crbp --steps 10 20 --output output/benchmarks
    python tools/benchmark.py pathfinder --output output/benchmarks
    python tools/benchmark.py generator --output output/benchmarks
    python tools/benchmark.py throughput --output output/benchmarks
    python tools/benchmark.py adjoint --output output/benchmarks
    python tools/benchmark.py panoptic --runs output/evidence --output output/benchmarks
    python tools/benchmark.py contours --runs output/contours --output output/benchmarks
    python tools/benchmark.py digits --runs output/digits --output output/benchmarks

Each prints its table and writes it as NAME.csv and NAME.md; memory and speed draw NAME.png too.
panoptic, contours and digits train models by several methods over several seeds and compare them:
NAME.csv has their results, NAME_cost.csv what an iteration costs, NAME_steps.csv their results
against test steps, drawn as NAME_steps.png. They go on where they were interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import rpanoptic  # first: it silences a warning of what follows

# isort: split
import torch
from detectron2.utils.logger import setup_logger
from tqdm import tqdm

import rpanoptic.data
import rpanoptic.modeling  # noqa: F401  (both register names that configs use)
from rpanoptic.arguments import at_least, numbers_of_steps
from rpanoptic.benchmarks import (
    adjoint,
    comparison,
    pathfinder,
    pathfinder_generator,
    report,
    sweep,
    throughput,
)
from rpanoptic.benchmarks.comparison import Comparison
from rpanoptic.benchmarks.contours import CONTOURS
from rpanoptic.benchmarks.digits import DIGITS
from rpanoptic.benchmarks.methods import NAMES
from rpanoptic.benchmarks.panoptic import PANOPTIC
from rpanoptic.benchmarks.problem import Problem
from rpanoptic.benchmarks.training_run import Run
from rpanoptic.benchmarks.worker import Task
from rpanoptic.data.paths import write_atomically
from rpanoptic.engine import check_output_dir, step_sweep
from rpanoptic.errors import ConfigError, UserError
from rpanoptic.visualization import save_figure

# Column of the CSV, its format, the axis, whether it can grow with the steps.
_SHOWN = {
    "memory": [
        ("peak_mib", ".1f", "peak memory above the idle process (MiB)"),
        ("tensors_mib", ".1f", "peak of PyTorch's CPU allocator in a training step (MiB)"),
    ],
    "speed": [("seconds", ".3f", "time of a training step (s)")],
}

_PARTS = ("train", "measure", "sweep", "table")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0; 1 when a measurement failed and others did not; 2 when nothing was measured. Messages
        are on standard error.
    """
    args = _parser().parse_args(argv)
    try:
        folder = check_output_dir(args.output, key="--output")
        return args.run(args, folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _sweep(args: argparse.Namespace, folder: Path) -> int:
    task = Task(
        args.what,
        args.methods[0],
        args.steps[0],
        terms=args.terms,
        repeats=args.repeats,
        threads=args.threads,
        problem=_problem(args),
    )
    todo = sweep.tasks(task, args.methods, sorted(set(args.steps)))
    rows = []
    progress = tqdm(todo, unit="task")
    for one in progress:
        progress.set_postfix_str(f"{one.method}, {one.steps} steps")
        rows.append(sweep.run(one, args.processes))
        # After every one: what was measured outlives an interruption.
        report.write_csv(folder / f"{args.what}.csv", rows)
    for row in rows:
        if "error" in row:
            print(f"error: {row['method']}, {row['steps']} steps: {row['error']}", file=sys.stderr)
    failed = sum("error" in row for row in rows)
    if failed == len(rows):
        return 2
    _show(args.what, rows, folder)
    return 1 if failed else 0


def _show(what: str, rows: Sequence[report.Row], folder: Path) -> None:
    shown = [one for one in _SHOWN[what] if any(row.get(one[0]) for row in rows)]
    texts = []
    for key, form, label in shown:
        print(f"{label}\n{_table(rows, key, form, what, markdown=False)}")
        texts.append(f"{label}\n\n{_table(rows, key, form, what, markdown=True)}\n")
    write_atomically(folder / f"{what}.md", "\n".join(texts).encode())
    key, _, label = shown[0]
    save_figure(folder / f"{what}.png", report.draw_over_steps(rows, key, label, ""))


def _table(rows: Sequence[report.Row], key: str, form: str, what: str, *, markdown: bool) -> str:
    return report.over_steps(rows, key, form, markdown=markdown, growth=what == "memory")


def _pathfinder(args: argparse.Namespace, folder: Path) -> int:
    rows = pathfinder.compare(
        _problem(args),
        steps=args.steps,
        terms=args.terms,
        repeats=args.repeats,
        threads=args.threads,
        log=_log,
    )
    return _finish("pathfinder", rows, pathfinder.tabulated, folder)


def _generator(args: argparse.Namespace, folder: Path) -> int:
    rows = pathfinder_generator.measure(samples=args.samples, repeats=args.repeats, log=_log)
    return _finish("generator", rows, pathfinder_generator.tabulated, folder)


def _throughput(args: argparse.Namespace, folder: Path) -> int:
    rows = throughput.measure(
        batch=args.batch,
        iterations=args.iterations,
        rounds=args.rounds,
        opts=args.opts,
        log=_log,
    )
    return _finish("throughput", rows, throughput.tabulated, folder)


def _adjoint(args: argparse.Namespace, folder: Path) -> int:
    rows = adjoint.compare(args.radius, args.tol, max_steps=args.max_steps)
    return _finish("adjoint", rows, adjoint.tabulated, folder)


def _comparison(args: argparse.Namespace, folder: Path) -> int:
    compared: Comparison = args.compared
    unknown = [name for name in args.sweep_methods or () if name not in args.methods]
    if unknown:
        raise ConfigError(f"--sweep-methods {', '.join(unknown)}: not among --methods")
    runs = compared.plan(
        args.runs, methods=args.methods, seeds=args.seeds, configs=args.configs, opts=args.opts
    )
    if "train" in args.only:
        comparison.train(runs, threads=args.threads, parallel=args.parallel, log=_log)
    if {*args.only} == {"train"}:
        return 0
    runs = comparison.finished_runs(runs, _log)
    costs, steps = (folder / f"{compared.name}_{what}.csv" for what in ("cost", "steps"))
    if "measure" in args.only:
        rows = comparison.measure(
            runs,
            iterations=args.iterations,
            rounds=args.rounds,
            threads=args.threads,
            log=_log,
        )
        report.write_csv(costs, rows)
    if "sweep" in args.only:
        _sweep_steps(args, runs, steps)
    if "table" in args.only:
        rows = compared.results(runs, step_sweep.read_sweep(steps) if steps.is_file() else [])
        table = partial(compared.tabulated, costs=comparison.read_rows(costs))
        _finish(compared.name, rows, table, folder)
    return 0


def _sweep_steps(args: argparse.Namespace, runs: list[Run], file: Path) -> None:
    compared: Comparison = args.compared
    torch.set_num_threads(args.threads)
    setup_logger(name="rpanoptic")
    steps = args.steps
    if not steps:
        most = max(comparison.trained_steps(runs).values(), default=1)
        steps = [*range(1, 4 * most + 1)]
    swept = args.sweep_methods or compared.swept or args.methods
    methods = [name for name in swept if name in args.methods]
    found = compared.checkpoints(runs, methods, file.parent)
    rows = step_sweep.sweep(found, steps, file, timed_pictures=compared.timed_pictures)
    metric = next(iter(compared.metrics.values()))
    print(step_sweep.sweep_table(rows, metric))
    (drawn,) = step_sweep.save_sweep_figures(file.parent, rows, [metric])
    drawn.replace(file.with_suffix(".png"))


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _finish(name: str, rows: list[report.Row], tabulated: Callable[..., str], folder: Path) -> int:
    report.write_csv(folder / f"{name}.csv", rows)
    print(tabulated(rows, markdown=False))
    write_atomically(folder / f"{name}.md", f"{tabulated(rows, markdown=True)}\n".encode())
    return 0


def _problem(args: argparse.Namespace) -> Problem:
    return Problem(args.cell, args.channels, args.kernel_size, args.size, args.batch, args.device)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    for what, text in (
        ("memory", "peak memory of a training step, by method and number of steps"),
        ("speed", "time of a training step, by method and number of steps"),
    ):
        command = commands.add_parser(what, help=text, description=text)
        command.set_defaults(run=_sweep, what=what)
        _add_problem(command, Problem(), repeats=1 if what == "memory" else 3)
        command.add_argument("--methods", nargs="+", default=NAMES, metavar="NAME")
        command.add_argument(
            "--steps", nargs="+", type=at_least(1), default=(5, 10, 20, 40, 80), metavar="N"
        )
        command.add_argument(
            "--terms",
            type=at_least(0),
            metavar="N",
            help="products of the adjoint solve (default: steps - 1, as many as bptt takes)",
        )
        command.add_argument(
            "--processes",
            type=at_least(1),
            default=1,
            metavar="N",
            help="fresh processes for each number, of which the best counts (default 1)",
        )
    _add_pathfinder(commands.add_parser("pathfinder", help="the Pathfinder hGRU in detail"))
    _add_generator(commands.add_parser("generator", help="Pathfinder samples drawn in a second"))
    _add_throughput(commands.add_parser("throughput", help="pictures a second of classifiers"))
    _add_adjoint(commands.add_parser("adjoint", help="products that each adjoint solver needs"))
    for compared, text in (
        (PANOPTIC, "trained panoptic models, by method"),
        (CONTOURS, "trained models that trace contours, by method"),
        (DIGITS, "trained classifiers of digits, with and without recurrence"),
    ):
        _add_comparison(commands.add_parser(compared.name, help=text, description=text), compared)
    return parser


def _add_counts(command: argparse.ArgumentParser, *counts: tuple[str, int, str]) -> None:
    """Add flags that take a number from 1 on: their names, defaults and what they stand for."""
    for flag, value, text in counts:
        command.add_argument(
            flag, type=at_least(1), default=value, metavar="N", help=f"{text} (default {value})"
        )


def _add_problem(command: argparse.ArgumentParser, default: Problem, *, repeats: int) -> None:
    command.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    command.add_argument("--cell", default=default.cell, metavar="NAME")
    for flag, value in (
        ("--channels", default.channels),
        ("--kernel-size", default.kernel_size),
        ("--size", default.size),
        ("--batch", default.batch),
        ("--threads", 2),
        ("--repeats", repeats),
    ):
        command.add_argument(
            flag, type=at_least(1), default=value, metavar="N", help=f"default {value}"
        )
    command.add_argument("--device", default=default.device, help="cpu (default), cuda")


def _add_pathfinder(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_pathfinder)
    _add_problem(command, pathfinder.PROBLEM, repeats=2)
    command.add_argument("--steps", type=at_least(2), default=20, metavar="N", help="default 20")
    command.add_argument(
        "--terms",
        type=at_least(0),
        default=15,
        metavar="N",
        help="products of the adjoint solve (default 15)",
    )


def _add_generator(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_generator)
    command.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    _add_counts(
        command,
        ("--samples", 200, "of each set, drawn in a turn"),
        ("--repeats", 3, "turns, of which the fastest counts"),
    )


def _add_throughput(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_throughput)
    command.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    _add_counts(
        command,
        ("--batch", 64, "pictures of an iteration"),
        ("--iterations", 5, "of training and of inference in a turn"),
        ("--rounds", 3, "turns, of which the fastest counts"),
    )
    command.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config overrides"
    )


def _add_adjoint(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_adjoint)
    command.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    command.add_argument(
        "--radius", nargs="+", type=float, default=(0.7, 0.9, 0.98, 0.998), metavar="R"
    )
    command.add_argument("--tol", nargs="+", type=float, default=(1e-3, 1e-6), metavar="TOL")
    command.add_argument(
        "--max-steps",
        type=at_least(1),
        default=20000,
        metavar="N",
        help="products after which a solver is given up (default 20000)",
    )


def _add_comparison(command: argparse.ArgumentParser, compared: Comparison) -> None:
    command.set_defaults(run=_comparison, compared=compared)
    command.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    command.add_argument(
        "--runs",
        type=Path,
        default=Path(compared.runs),
        metavar="DIR",
        help=f"folder of the trainings, in METHOD_SEED each (default {compared.runs})",
    )
    command.add_argument(
        "--only", nargs="+", choices=_PARTS, default=_PARTS, metavar="PART", help="default: all"
    )
    command.add_argument("--methods", nargs="+", default=compared.methods, metavar="NAME")
    command.add_argument(
        "--seeds", nargs="+", type=at_least(0), default=comparison.SEEDS, metavar="N"
    )
    command.add_argument(
        "--configs",
        default=compared.configs,
        metavar="PATTERN",
        help=f"config file of a method (default {compared.configs})",
    )
    default = compared.steps or "all up to four times the most in training"
    command.add_argument(
        "--steps",
        type=numbers_of_steps,
        default=numbers_of_steps(compared.steps) if compared.steps else None,
        metavar="LIST",
        help=f"test steps, numbers and ranges (default {default})",
    )
    command.add_argument(
        "--sweep-methods",
        nargs="+",
        metavar="NAME",
        help=f"methods that are swept (default {' '.join(compared.swept) or 'all'})",
    )
    _add_counts(
        command,
        ("--threads", 2, "of PyTorch, in each process"),
        ("--parallel", 1, "trainings at a time"),
        ("--iterations", 8, "batches on which costs are measured"),
        ("--rounds", 3, "processes for the time of each method, of which the fastest counts"),
    )
    command.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config overrides"
    )


if __name__ == "__main__":
    sys.exit(main())
