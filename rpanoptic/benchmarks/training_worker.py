"""A training, or what its iterations cost, in a process of its own.

``python -m rpanoptic.benchmarks.training_worker < task.json``; the last line of standard output is
the result, as JSON: numbers, or ``{"error": ...}``.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import nn

import rpanoptic.data
import rpanoptic.modeling  # noqa: F401  (both register names that configs use)
from rpanoptic.benchmarks.memory import MIB, measure_peak
from rpanoptic.benchmarks.problem import seconds
from rpanoptic.benchmarks.saved_tensors import saved_peak
from rpanoptic.benchmarks.worker import first_line
from rpanoptic.engine import PanopticCheckpointer, Trainer, check_run, setup_config
from rpanoptic.engine.launch import run_parser, start_run
from rpanoptic.errors import UserError


@dataclass(frozen=True)
class TrainingTask:
    """What the process is to do.

    Attributes:
        what: "train", "memory" or "speed".
        config: config file.
        options: overrides, as a flat list.
        weights: with which iterations are measured; "" for those of the seed.
        iterations: that are measured, a batch each.
        threads: of PyTorch.
        seed: of batches, and of the regions that are drawn in each iteration.
    """

    what: str
    config: str
    options: tuple[str, ...] = ()
    weights: str = ""
    iterations: int = 4
    threads: int = 2
    seed: int = 1

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> TrainingTask:
        """From JSON."""
        values = json.loads(text)
        return cls(**{**values, "options": tuple(values["options"])})


def work(task: TrainingTask) -> dict[str, Any]:
    """Carry out a task in this process.

    Returns:
        nothing for "train", which leaves its results in ``OUTPUT_DIR``; else numbers by name.

    Raises:
        UserError: config, data or weights are at fault.
    """
    torch.set_num_threads(task.threads)
    if task.what == "train":
        argv = ["--config-file", task.config, "--num-gpus", "1", "--resume", *task.options]
        start_run(run_parser().parse_args(argv))
        return {}
    cfg = setup_config(task.config, task.options)
    check_run(cfg)
    # Before the model, which draws numbers too: all methods are to get the same batches.
    seed_all_rng(task.seed)
    batches = list(islice(Trainer.build_train_loader(cfg), task.iterations))
    training = _Training(cfg, task.weights, task.seed)
    training.iterate(batches[0])  # what is loaded at first use, and the optimizer's state
    result: dict[str, Any] = {"parameters": training.parameters()}
    passing = partial(training.iterate_all, batches)
    if task.what == "memory":
        peak = measure_peak(passing, cfg.MODEL.DEVICE, repeats=1)
        result |= {"peak_mib": peak.process, "tensors_mib": peak.tensors}
        result["baseline_mib"] = peak.baseline
        result["saved_mib"] = _saved(passing, training.model)
        return result
    times = [seconds(partial(training.iterate, batch), cfg.MODEL.DEVICE) for batch in batches]
    return result | {"seconds": statistics.median(times), "least_seconds": min(times)}


class _Training:
    """Iterations that leave the weights as they are: the optimizer's rate is 0."""

    def __init__(self, cfg: CfgNode, weights: str, seed: int) -> None:
        self.model = build_model(cfg).train()
        if weights:
            PanopticCheckpointer(self.model).load(weights, checkpointables=[], strict=True)
        self._optimizer = Trainer.build_optimizer(cfg, self.model)
        for group in self._optimizer.param_groups:
            group["lr"] = 0.0
        self._seed = seed

    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def iterate(self, batch: list[dict[str, Any]]) -> None:
        torch.manual_seed(self._seed)
        with EventStorage():
            losses = self.model(batch)
            sum(losses.values()).backward()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def iterate_all(self, batches: list[list[dict[str, Any]]]) -> None:
        for batch in batches:
            self.iterate(batch)


def _saved(passing: Callable[[], None], model: nn.Module) -> float | None:
    try:
        return saved_peak(passing, [*model.parameters(), *model.buffers()]) / MIB
    except RuntimeError as error:
        if "saved tensor hooks" not in str(error):
            raise
        return None


def main() -> None:
    """Read a task, carry it out, print the result."""
    try:
        result = work(TrainingTask.load(sys.stdin.read()))
    except (UserError, ValueError, RuntimeError) as error:
        # A task that runs out of memory is a result too; the others go on.
        result = {"error": first_line(error)}
    print(f"\n{json.dumps(result)}")


if __name__ == "__main__":
    main()
