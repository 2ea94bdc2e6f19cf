"""Methods compared on one task over several seeds: training, costs, results, table.

A :class:`Comparison` says what is compared; the functions carry it out.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from detectron2.modeling import build_model

from rpanoptic.benchmarks.memory import ENVIRONMENT
from rpanoptic.benchmarks.report import Row, table
from rpanoptic.benchmarks.sweep import ask_worker
from rpanoptic.benchmarks.training_run import Run
from rpanoptic.benchmarks.training_worker import TrainingTask
from rpanoptic.engine.step_sweep import Checkpoint
from rpanoptic.errors import ConfigError, UserError
from rpanoptic.recurrent import recurrent_blocks

Log = Callable[[str], None]

SEEDS = (1, 2, 3)


def deviation(values: Sequence[float], form: str) -> str:
    """Mean and sample standard deviation, "51.0 ± 1.4"; one value stands alone."""
    mean = format(statistics.mean(values), form)
    return mean if len(values) == 1 else f"{mean} ± {format(statistics.stdev(values), form)}"


def spanned(values: Sequence[float], form: str) -> str:
    """Mean, least and largest, "51.0 (50.0 to 52.0)"; where all look equal, the mean alone."""
    mean, low, high = (format(f(values), form) for f in (statistics.mean, min, max))
    return mean if low == high else f"{mean} ({low} to {high})"


def last_evaluations(runs: Sequence[Run], swept: Sequence[Row]) -> list[Row]:
    """What each run gave at its end, a row each; a sweep over test steps is not needed."""
    return [{"method": run.method, "seed": run.seed} | (run.evaluation() or {}) for run in runs]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared.

    Attributes:
        name: of its files: ``NAME.csv``, ``NAME_steps.csv``, ...
        methods: each has a config file.
        configs: path of these, with ``{method}`` in it.
        runs: folder of the trainings.
        metrics: results by the names of the tables: as the evaluators name them. The first is
            shown for each seed, and drawn against the test steps.
        columns: of the table: their formats. Each is a name in the rows of ``results``.
        costs: further columns: names in the rows of :func:`measure`, and formats.
        weights_name: which of the files that a training leaves is judged.
        test_sets: on which the weights are judged after several numbers of steps; none for the
            first of ``DATASETS.TEST``.
        swept: methods of which that is done; none for all.
        steps: the numbers of steps, as a list of numbers and ranges; "" for all up to four times
            the most that a method was trained with.
        timed_pictures: on how many pictures an inference is timed at each number of steps.
        spread: how the values of several seeds are shown, given their format.
        results: finished runs and the rows of their sweep (none if there was none): a row a run,
            with "method", "seed", and the columns.
    """

    name: str
    methods: tuple[str, ...]
    configs: str
    runs: str
    metrics: Mapping[str, str]
    columns: Mapping[str, str]
    costs: Mapping[str, tuple[str, str]] = field(
        default_factory=lambda: {
            "parameters": ("parameters", ",d"),
            "peak MiB": ("peak_mib", ".0f"),
            "saved MiB": ("saved_mib", ".0f"),
            "s a step": ("seconds", ".2f"),
        }
    )
    weights_name: str = "model_final.pth"
    test_sets: tuple[str, ...] = ()
    swept: tuple[str, ...] = ()
    steps: str = ""
    timed_pictures: int = 0
    spread: Callable[[Sequence[float], str], str] = deviation
    results: Callable[[Sequence[Run], Sequence[Row]], list[Row]] = last_evaluations

    def plan(
        self,
        folder: Path,
        *,
        methods: Sequence[str] | None = None,
        seeds: Sequence[int] = SEEDS,
        configs: str | None = None,
        opts: Sequence[str] = (),
    ) -> list[Run]:
        """All runs, in ``folder/METHOD_SEED``, a seed of every method at a time.

        Args:
            folder: of all runs.
            methods: None for all.
            seeds: of the runs.
            configs: None for those of the comparison.
            opts: overrides of all configs.

        Raises:
            ConfigError: a config file is missing or at fault, or ``configs`` does not name the
                method.
        """
        methods = self.methods if methods is None else methods
        configs = self.configs if configs is None else configs
        if "{method}" not in configs:
            raise ConfigError(f"--configs {configs}: expected {{method}} in it")
        runs = [
            Run(
                method=method,
                seed=seed,
                config=configs.format(method=method),
                folder=folder / f"{method}_{seed}",
                opts=tuple(opts),
                metrics=self.metrics,
                weights_name=self.weights_name,
            )
            for seed in seeds
            for method in methods
        ]
        for run in runs[: len(methods)]:
            run.cfg()
        return runs

    def checkpoints(
        self, runs: Sequence[Run], methods: Sequence[str], output: Path
    ) -> list[Checkpoint]:
        """The runs of some methods, in the order of these, for a sweep on every test set.

        Args:
            runs: finished ones.
            methods: whose runs are taken.
            output: ``OUTPUT_DIR`` of the sweep.

        Raises:
            UserError: there is none of them.
        """
        found = []
        for run in sorted(runs, key=lambda run: [*methods, run.method].index(run.method)):
            if run.method not in methods:
                continue
            for names in [(name,) for name in self.test_sets] or [run.cfg().DATASETS.TEST]:
                cfg = run.cfg().clone()
                cfg.OUTPUT_DIR, cfg.DATASETS.TEST = str(output), names
                found.append(Checkpoint(run.method, cfg, str(run.weights)))
        if not found:
            raise UserError(f"no run of {', '.join(methods)} is finished: nothing to sweep")
        return found

    def tabulated(self, rows: Sequence[Row], costs: Sequence[Row], *, markdown: bool) -> str:
        """The columns over the seeds with the costs, then the first metric of each seed.

        Args:
            rows: from ``results``.
            costs: from :func:`measure`, or none.
            markdown: for a document rather than a terminal.
        """
        methods = list(dict.fromkeys(row["method"] for row in rows))
        cost = {row["method"]: row for row in costs}
        lines = []
        for method in methods:
            mine = [row for row in rows if row["method"] == method]
            line = [method, str(len(mine))]
            for name, form in self.columns.items():
                values = [row[name] for row in mine if row.get(name) is not None]
                line.append(self.spread(values, form) if values else "-")
            for key, form in self.costs.values():
                line.append(_formatted(cost.get(method, {}).get(key), form))
            lines.append(line)
        summary = table(["method", "seeds", *self.columns, *self.costs], lines, markdown=markdown)
        first = next(iter(self.metrics))
        seeds = sorted({row["seed"] for row in rows})
        quality = {(row["method"], row["seed"]): row.get(first) for row in rows}
        each = [
            [method, *(_formatted(quality.get((method, seed)), ".1f") for seed in seeds)]
            for method in methods
        ]
        headers = [first, *(f"seed {seed}" for seed in seeds)]
        return f"{summary}\n\n{table(headers, each, markdown=markdown)}"


def train(runs: Sequence[Run], *, threads: int, log: Log, parallel: int = 1) -> None:
    """Carry out the runs that are not finished, each in a fresh process.

    A run that was interrupted goes on from its last checkpoint.

    Args:
        runs: what is to be trained.
        threads: of each.
        log: told what begins and what is there already.
        parallel: how many at a time.

    Raises:
        UserError: a folder holds another run, or a training failed; no further one is begun then.
    """
    todo = [run for run in runs if not run.finished()]
    log(f"{len(runs) - len(todo)} of {len(runs)} runs are there already")

    def carry_out(number: int, run: Run) -> None:
        log(f"run {number} of {len(todo)}: {run.folder} (its log is {run.folder / 'log.txt'})")
        try:
            _train(run, threads)
        except UserError:
            pool.shutdown(wait=False, cancel_futures=True)
            raise

    # Threads do nothing but wait for the processes.
    with ThreadPoolExecutor(parallel) as pool:
        several = map if parallel == 1 else pool.map
        for _ in several(carry_out, range(1, len(todo) + 1), todo):
            pass


def _train(run: Run, threads: int) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    task = TrainingTask("train", run.config, run.options, threads=threads)
    result = ask_worker("rpanoptic.benchmarks.training_worker", task.dump(), threads)
    if "error" in result:
        raise UserError(f"training {run.folder} failed: {result['error']}")
    if not run.finished():
        raise UserError(
            f"training {run.folder} left no {run.weights_name}, or no evaluation at its end: "
            "see DATASETS.TEST, TEST.EVAL_PERIOD and RPANOPTIC.BEST_METRIC in its config"
        )


def measure(
    runs: Sequence[Run], *, iterations: int, rounds: int, threads: int, log: Log
) -> list[Row]:
    """Memory and time of a training iteration of each method, all on the same batches.

    Each number comes from a process of its own, with the weights of the method's first run. The
    methods take turns, round by round, and the least time of each counts.

    Args:
        runs: finished ones.
        iterations: batches in each process, whose median time is taken and whose peak.
        rounds: processes for the time of each method.
        threads: of PyTorch.
        log: told what begins.

    Returns:
        a row a method: "parameters", "peak_mib" (resident memory above the idle process),
        "tensors_mib" (peak of PyTorch's allocator), "saved_mib" (what autograd saves), "seconds"
        (an iteration with its step of the optimizer) and "slowest_seconds", of the slowest round.

    Raises:
        UserError: a measurement failed.
    """
    first = _by_method(runs)
    rows: dict[str, Row] = {}
    for method, run in first.items():
        log(f"memory of {method}")
        rows[method] = {"method": method} | _asked("memory", run, iterations, threads)
    for number in range(rounds):
        for method, run in first.items():
            log(f"time of {method}, round {number + 1} of {rounds}")
            seconds = _asked("speed", run, iterations, threads)["seconds"]
            row = rows[method]
            row["seconds"] = min(seconds, row.get("seconds", math.inf))
            row["slowest_seconds"] = max(seconds, row.get("slowest_seconds", 0.0))
    return list(rows.values())


def finished_runs(runs: Sequence[Run], log: Log) -> list[Run]:
    """Those of ``runs`` that are finished; the others are named to ``log``.

    Raises:
        UserError: none is, or a folder holds another run.
    """
    found = []
    for run in runs:
        if run.finished():
            found.append(run)
        else:
            log(f"left out, as it is not finished: {run.folder}")
    if not found:
        folders = ", ".join(str(run.folder) for run in runs)
        names = " or ".join(dict.fromkeys(run.weights_name for run in runs))
        raise UserError(f"no run is finished, with {names} and results, in: {folders}")
    return found


def trained_steps(runs: Sequence[Run]) -> dict[str, int]:
    """The steps that each method is trained with; those without recurrence are left out."""
    blocks = {
        method: recurrent_blocks(build_model(run.cfg())).values()
        for method, run in _by_method(runs).items()
    }
    return {
        method: max(block.steps for block in found) for method, found in blocks.items() if found
    }


def read_rows(file: Path) -> list[Row]:
    """Read a CSV of numbers by method; an empty list if there is none."""
    if not file.is_file():
        return []
    with file.open(newline="") as stream:
        return [
            {name: text if name == "method" else _number(text) for name, text in row.items()}
            for row in csv.DictReader(stream)
        ]


def _number(text: str) -> float | int | None:
    if not text:
        return None
    return int(text) if text.isdecimal() else float(text)


def _by_method(runs: Sequence[Run]) -> dict[str, Run]:
    """The first run of each method."""
    first: dict[str, Run] = {}
    for run in runs:
        first.setdefault(run.method, run)
    return first


def _asked(what: str, run: Run, iterations: int, threads: int) -> Row:
    task = TrainingTask(
        what, run.config, run.options, str(run.weights), iterations=iterations, threads=threads
    )
    environment = ENVIRONMENT if what == "memory" else {}
    result = ask_worker("rpanoptic.benchmarks.training_worker", task.dump(), threads, environment)
    if "error" in result:
        raise UserError(f"measuring {what} of {run.method} failed: {result['error']}")
    return result


def _formatted(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
