"""One training of a comparison: its config, its folder, and what it leaves there."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from detectron2.config import CfgNode, get_cfg

from rpanoptic.benchmarks.report import Row
from rpanoptic.config import add_rpanoptic_config
from rpanoptic.engine import setup_config
from rpanoptic.errors import ConfigError, UserError, listed

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


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training.

    Attributes:
        method: its name.
        seed: of the run.
        config: its config file.
        folder: its ``OUTPUT_DIR``.
        opts: overrides of the config, without ``SEED`` and ``OUTPUT_DIR``.
        metrics: results by the names of the tables: their names in ``metrics.json``. A line of
            that file with the first of them is an evaluation.
        weights_name: of the file that a finished run leaves.
    """

    method: str
    seed: int
    config: str
    folder: Path
    opts: tuple[str, ...] = ()
    metrics: Mapping[str, str] = field(hash=False)
    weights_name: str = "model_final.pth"

    @property
    def options(self) -> tuple[str, ...]:
        """All overrides."""
        return (*self.opts, "SEED", str(self.seed), "OUTPUT_DIR", str(self.folder))

    @property
    def weights(self) -> Path:
        """The weights that a finished run leaves."""
        return self.folder / self.weights_name

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
                f"{self.folder} holds a run with another config: {listed(different, most=4)}. "
                "Choose another folder, or remove it."
            )
        return self.weights.is_file() and self.evaluation() is not None

    def evaluation(self) -> Row | None:
        """The evaluation at its end, by the names of the tables; None if there was none.

        Evaluations before the end of the training do not count: a run may have been interrupted
        between its last checkpoint and the last evaluation.

        Raises:
            UserError: ``metrics.json`` is damaged.
        """
        end = self.cfg().SOLVER.MAX_ITER - 1
        judged = next(iter(self.metrics.values()))
        # Detectron2 records what is evaluated after the last iteration, MAX_ITER - 1, at MAX_ITER.
        found = [line for line in self._log() if judged in line and line.get("iteration", 0) >= end]
        if not found:
            return None
        values = {name: found[-1].get(key) for name, key in self.metrics.items()}
        return {name: None if v is None or math.isnan(v) else v for name, v in values.items()}

    def minutes(self) -> float | None:
        """How long its iterations took, by its own log; what is between them does not count.

        Evaluations and checkpoints are between them. A time is logged every
        ``RPANOPTIC.LOG_PERIOD`` iterations, the median of the latest, and stands for those since
        the one before. None without any.

        Raises:
            UserError: ``metrics.json`` is damaged.
        """
        # A resumed run repeats some: the later line counts.
        times = {
            line["iteration"]: line["time"]
            for line in self._log()
            if {"iteration", "time"} <= {*line}
        }
        pairs = pairwise([-1, *sorted(times)])
        return sum((now - before) * times[now] for before, now in pairs) / 60 if times else None

    def _log(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.json``."""
        file = self.folder / "metrics.json"
        if not file.is_file():
            return []
        try:
            lines = [json.loads(line) for line in file.read_text().splitlines()]
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read: {error}") from error
        if not all(isinstance(line, dict) for line in lines):
            raise UserError(f"{file} cannot be read: expected lines of names and values")
        return lines


@cache
def _config(file: str, options: tuple[str, ...]) -> CfgNode:
    return setup_config(file, options)


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
        f"{key} is {before.get(key, defaults.get(key))} instead of {value}"
        for key, value in wanted.items()
        if key not in _FREE and before.get(key, defaults.get(key)) != value
    ]


def _flat(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
