"""Methods compared on one dataset over several seeds: training, costs, table, steps."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from detectron2.config import CfgNode, get_cfg

from rpanoptic.benchmarks.memory import ENVIRONMENT
from rpanoptic.benchmarks.report import Row, table
from rpanoptic.benchmarks.sweep import ask_worker
from rpanoptic.benchmarks.training_worker import TrainingTask
from rpanoptic.config import add_rpanoptic_config
from rpanoptic.engine import setup_config
from rpanoptic.engine.step_sweep import Checkpoint
from rpanoptic.errors import ConfigError, UserError

METHODS = ("baseline", "bptt3", "rbp20", "crbp20")
SEEDS = (1, 2, 3)
CONFIGS = "configs/synthetic_panoptic_{method}.yaml"
WEIGHTS = "model_final.pth"
# Column of the tables: name in metrics.json. All in per cent.
METRICS = {
    "PQ": "panoptic_seg/PQ",
    "PQ_th": "panoptic_seg/PQ_th",
    "PQ_st": "panoptic_seg/PQ_st",
    "SQ": "panoptic_seg/SQ",
    "RQ": "panoptic_seg/RQ",
    "box AP": "bbox/AP",
    "mask AP": "segm/AP",
    "mIoU": "sem_seg/mIoU",
}
# Column of the tables: name in the rows of costs, and its format.
_COSTS = {
    "parameters": ("parameters", ",d"),
    "peak MiB": ("peak_mib", ".0f"),
    "saved MiB": ("saved_mib", ".0f"),
    "s a step": ("seconds", ".2f"),
}
# What may differ between the config of a finished run and the one that is asked for: it concerns
# the machine, or what is kept of the run, and not its results.
_FREE = frozenset(
    {
        "OUTPUT_DIR",
        "MODEL.DEVICE",
        "DATALOADER.NUM_WORKERS",
        "RPANOPTIC.PICTURES",
        "SOLVER.CHECKPOINT_PERIOD",
        "VIS_PERIOD",
    }
)


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        method: its name.
        seed: of the run.
        config: its config file.
        folder: its ``OUTPUT_DIR``.
        opts: overrides of the config, without ``SEED`` and ``OUTPUT_DIR``.
    """

    method: str
    seed: int
    config: str
    folder: Path
    opts: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """All overrides."""
        return (*self.opts, "SEED", str(self.seed), "OUTPUT_DIR", str(self.folder))

    @property
    def weights(self) -> Path:
        """The weights that a finished run leaves."""
        return self.folder / WEIGHTS

    def cfg(self) -> CfgNode:
        """Its config; to be read only, as it is made once.

        Raises:
            ConfigError: the file or an override is at fault.
        """
        return _config(self.config, self.options)

    def finished(self) -> bool:
        """Whether its weights are there, made with this config, and their own evaluation.

        Raises:
            ConfigError: the folder holds a run with another config; the keys are listed.
        """
        dump = self.folder / "config.yaml"
        if not dump.is_file():
            return False
        different = _differences(self.cfg(), dump)
        if different:
            raise ConfigError(
                f"{self.folder} holds a run with another config: {'; '.join(different[:4])}"
                f"{f' and {len(different) - 4} more' if len(different) > 4 else ''}. "
                "Choose another folder, or remove it."
            )
        return self.weights.is_file() and self.metrics() is not None

    def metrics(self) -> Row | None:
        """The evaluation at its end, by the names of the tables; None if there was none.

        Evaluations before the end of the training do not count: a run may have been interrupted
        between its last checkpoint and the last evaluation.

        Raises:
            UserError: ``metrics.json`` is damaged.
        """
        file = self.folder / "metrics.json"
        if not file.is_file():
            return None
        end = self.cfg().SOLVER.MAX_ITER - 1
        last: dict[str, Any] | None = None
        try:
            for line in file.read_text().splitlines():
                values = json.loads(line)
                # Detectron2 records what is evaluated after the last iteration, MAX_ITER - 1, at
                # MAX_ITER.
                if METRICS["PQ"] in values and values.get("iteration", 0) >= end:
                    last = values
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{file} cannot be read: {error}") from error
        if last is None:
            return None
        found = {name: last.get(key) for name, key in METRICS.items()}
        return {name: None if v is None or math.isnan(v) else v for name, v in found.items()}


@cache
def _config(file: str, options: tuple[str, ...]) -> CfgNode:
    return setup_config(file, options)


def plan(
    folder: Path,
    *,
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = SEEDS,
    configs: str = CONFIGS,
    opts: Sequence[str] = (),
) -> list[Run]:
    """All runs of the comparison, in ``folder/METHOD_SEED``, a seed of every method at a time.

    Raises:
        ConfigError: a config file is missing or at fault, or ``configs`` does not name the method.
    """
    if "{method}" not in configs:
        raise ConfigError(f"--configs {configs}: expected {{method}} in it")
    runs = [
        Run(method, seed, configs.format(method=method), folder / f"{method}_{seed}", tuple(opts))
        for seed in seeds
        for method in methods
    ]
    for run in runs[: len(methods)]:
        run.cfg()
    return runs


def train(runs: Sequence[Run], *, threads: int, log: Callable[[str], None]) -> None:
    """Carry out the runs that are not finished, one after the other, each in a fresh process.

    A run that was interrupted goes on from its last checkpoint.

    Args:
        runs: what is to be trained.
        threads: of each.
        log: told what begins and what is there already.

    Raises:
        UserError: a folder holds another run, or a training failed.
    """
    todo = [run for run in runs if not run.finished()]
    log(f"{len(runs) - len(todo)} of {len(runs)} runs are there already")
    for number, run in enumerate(todo, start=1):
        log(f"run {number} of {len(todo)}: {run.folder} (its log is {run.folder / 'log.txt'})")
        run.folder.mkdir(parents=True, exist_ok=True)
        task = TrainingTask("train", run.config, run.options, threads=threads)
        result = ask_worker("rpanoptic.benchmarks.training_worker", task.dump(), threads)
        if "error" in result:
            raise UserError(f"training {run.folder} failed: {result['error']}")


def results(runs: Sequence[Run], *, log: Callable[[str], None]) -> list[Row]:
    """The last evaluation of each finished run, a row each; others are named to ``log``.

    Raises:
        UserError: no run is finished, or a folder holds another run.
    """
    return [
        {"method": run.method, "seed": run.seed} | (run.metrics() or {})
        for run in _finished(runs, log)
    ]


def measure(
    runs: Sequence[Run],
    *,
    iterations: int,
    rounds: int,
    threads: int,
    log: Callable[[str], None],
) -> list[Row]:
    """Memory and time of a training iteration of each method, all on the same batches.

    Each number comes from a process of its own, with the weights of the method's first finished
    run. The methods take turns, round by round, and the least time of each counts.

    Args:
        runs: finished or not; each method needs one that is.
        iterations: batches in each process, whose median time is taken and whose peak.
        rounds: processes for the time of each method.
        threads: of PyTorch.
        log: told what begins, and which methods are left out.

    Returns:
        a row a method: "parameters", "peak_mib" (resident memory above the idle process),
        "tensors_mib" (peak of PyTorch's allocator), "saved_mib" (what autograd saves), "seconds"
        (an iteration with its step of the optimizer) and "slowest_seconds", of the slowest round.

    Raises:
        UserError: no run is finished, or a measurement failed.
    """
    first: dict[str, Run] = {}
    for run in _finished(runs, log):
        first.setdefault(run.method, run)
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


def checkpoints(
    runs: Sequence[Run], methods: Sequence[str], output: Path, *, log: Callable[[str], None]
) -> list[Checkpoint]:
    """The finished runs of some methods, for a sweep over test steps.

    Raises:
        UserError: none is finished, or a folder holds another run.
    """
    wanted = [run for run in runs if run.method in methods]
    found = []
    for run in sorted(_finished(wanted, log), key=lambda run: methods.index(run.method)):
        cfg = run.cfg().clone()
        cfg.OUTPUT_DIR = str(output)
        found.append(Checkpoint(run.method, cfg, str(run.weights)))
    return found


def tabulated(rows: Sequence[Row], costs: Sequence[Row], *, markdown: bool) -> str:
    """Mean and standard deviation over the seeds with the costs, then PQ of each seed.

    Args:
        rows: from :func:`results`.
        costs: from :func:`measure`, or none.
        markdown: for a document rather than a terminal.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    cost = {row["method"]: row for row in costs}
    lines = []
    for method in methods:
        mine = [row for row in rows if row["method"] == method]
        line = [method, str(len(mine))]
        line += [
            _spread([row[name] for row in mine if row.get(name) is not None]) for name in METRICS
        ]
        line += [_formatted(cost.get(method, {}).get(key), form) for key, form in _COSTS.values()]
        lines.append(line)
    summary = table(["method", "seeds", *METRICS, *_COSTS], lines, markdown=markdown)
    seeds = sorted({row["seed"] for row in rows})
    quality = {(row["method"], row["seed"]): row.get("PQ") for row in rows}
    each = [
        [method, *(_formatted(quality.get((method, seed)), ".1f") for seed in seeds)]
        for method in methods
    ]
    headers = ["PQ", *(f"seed {seed}" for seed in seeds)]
    return f"{summary}\n\n{table(headers, each, markdown=markdown)}"


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


def _finished(runs: Sequence[Run], log: Callable[[str], None]) -> list[Run]:
    found = []
    for run in runs:
        if run.finished():
            found.append(run)
        else:
            log(f"left out, as it is not finished: {run.folder}")
    if not found:
        folders = ", ".join(str(run.folder) for run in runs)
        raise UserError(f"no run is finished, with {WEIGHTS} and results, in: {folders}")
    return found


def _asked(what: str, run: Run, iterations: int, threads: int) -> Row:
    task = TrainingTask(
        what, run.config, run.options, str(run.weights), iterations=iterations, threads=threads
    )
    environment = ENVIRONMENT if what == "memory" else {}
    result = ask_worker("rpanoptic.benchmarks.training_worker", task.dump(), threads, environment)
    if "error" in result:
        raise UserError(f"measuring {what} of {run.method} failed: {result['error']}")
    return result


def _differences(cfg: CfgNode, dump: Path) -> list[str]:
    """Keys with another value in a run's ``config.yaml``; keys that it lacks have their default."""
    default = get_cfg()
    add_rpanoptic_config(default)
    try:
        before = dict(_flat(yaml.safe_load(dump.read_text())))
    except (OSError, yaml.YAMLError, AttributeError) as error:
        raise UserError(f"{dump} cannot be read: {error}") from error
    wanted = dict(_flat(yaml.safe_load(cfg.dump())))
    defaults = dict(_flat(yaml.safe_load(default.dump())))
    return [
        f"{key} is {before.get(key, defaults.get(key))}, not {value}"
        for key, value in wanted.items()
        if key not in _FREE and before.get(key, defaults.get(key)) != value
    ]


def _flat(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"


def _formatted(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
