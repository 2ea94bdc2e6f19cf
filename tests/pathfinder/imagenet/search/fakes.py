"""A search without networks: two numbers are varied, and a formula takes the place of training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from optuna.storages import BaseStorage
from optuna.study import Study

from rpanoptic.pathfinder.imagenet.search import study
from rpanoptic.pathfinder.imagenet.search.parameters import Choice, Float, Parameter
from rpanoptic.pathfinder.imagenet.search.run import Report, run_search
from rpanoptic.pathfinder.imagenet.search.space import Space
from rpanoptic.pathfinder.imagenet.search.storage import open_storage
from rpanoptic.pathfinder.imagenet.search.study import Search, default_config, open_study

EVALUATIONS = 9


def parameters(cfg: CfgNode) -> tuple[Parameter, ...]:
    return (
        Float("rate", 1e-4, 1.0, log=True),
        Choice("clipped", (False, True)),
        Float("clip", 0.1, 10.0, when=("clipped", (True,))),
        Float("decay", 0.0, 1.0),
    )


def overrides(cfg: CfgNode, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "SOLVER.BASE_LR": values["rate"],
        "SOLVER.WEIGHT_DECAY": values["decay"],
        "SOLVER.CLIP_GRADIENTS.ENABLED": values["clipped"],
    }


FAKE = Space("fake", parameters, overrides)


def small_config() -> CfgNode:
    """The keys that a search reads, and few more: writing all of a config takes its time."""
    cfg = default_config()
    small = CfgNode({name: cfg[name] for name in ("OUTPUT_DIR", "SEED", "CUDNN_BENCHMARK")})
    small.MODEL = CfgNode({"DEVICE": "cpu"})
    small.DATALOADER = CfgNode({"NUM_WORKERS": 4})
    small.RPANOPTIC = CfgNode({"BEST_METRIC": "classification/top1"})
    small.TEST = CfgNode({"EVAL_PERIOD": 10})
    small.SOLVER = cfg.SOLVER
    small.SOLVER.MAX_ITER = 10 * EVALUATIONS
    return small


def fake_search(max_parameters: int = 0, **changes: Any) -> Search:
    """A search over :data:`FAKE`."""
    base = study.default_config()
    for key, value in changes.items():
        base.merge_from_list([key.replace("__", "."), value])
    return Search(FAKE, base, max_parameters)


def quality(cfg: CfgNode) -> float:
    """What a fake training reaches: best at a rate of 0.01, whatever the decay."""
    return 100.0 - 20.0 * abs(math.log10(cfg.SOLVER.BASE_LR) + 2) - 0.01 * cfg.SOLVER.WEIGHT_DECAY


def fake_train(cfg: CfgNode, report: Report) -> float | None:
    """Climb to :func:`quality` in equal steps."""
    for evaluation in range(1, EVALUATIONS):
        if not report(evaluation, quality(cfg) * evaluation / EVALUATIONS):
            return None
    return quality(cfg)


def fake_size(cfg: CfgNode) -> int:
    """In place of the count of a network's parameters."""
    return round(1000 * cfg.SOLVER.WEIGHT_DECAY)


def begin(
    place: Path | BaseStorage, search: Search, *, heartbeat: int = 60, **options: Any
) -> Study:
    """A study in a file, or in memory, which is faster."""
    storage = open_storage(str(place), heartbeat=heartbeat) if isinstance(place, Path) else place
    return open_study(storage, "convrnn", search, **{"pruner": "none", **options})


def go_on(study: Study, search: Search, trials: int, folder: Path, **options: Any) -> list[str]:
    """Run fake trials; return the lines that were said."""
    lines: list[str] = []
    options = {"train": fake_train, **options}
    run_search(study, search, trials=trials, folder=folder, say=lines.append, **options)
    return lines
