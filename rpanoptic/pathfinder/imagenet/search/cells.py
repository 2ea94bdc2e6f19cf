"""A small space: which of the compared cells the layers hold, its kernel, its norm, the rate."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

from rpanoptic.pathfinder.imagenet.search.layers import KEY, changed, with_cell
from rpanoptic.pathfinder.imagenet.search.parameters import Choice, Float, Integer, Parameter
from rpanoptic.recurrent import CELLS

# Those that Nayebi et al. compare.
_NAMES = (
    "time_decay",
    "conv_rnn",
    "conv_gru",
    "conv_lstm",
    "ugrnn",
    "intersection_rnn",
    "reciprocal_gated",
)


def parameters(cfg: CfgNode) -> tuple[Parameter, ...]:
    """Cell and number of steps, with the rate; kernel and norm for the cells that have such."""
    loop = len(with_cell(cfg))
    return (
        Choice("cell", _NAMES),
        Choice("kernel_size", (1, 3, 5), when=("cell", _with_option("kernel_size"))),
        Choice("norm", ("", "LN"), when=("cell", _with_option("norm"))),
        Integer("steps", loop, 2 * loop + 1),
        Float("learning_rate", 1e-3, 1e-1, log=True),
    )


def overrides(cfg: CfgNode, values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that a trial changes."""
    options = {name: values[name] for name in ("kernel_size", "norm") if name in values}
    cell = {"name": values["cell"], **options}
    return {
        f"{KEY}.LAYERS": changed(cfg, lambda _: {"cell": cell}),
        f"{KEY}.STEPS": values["steps"],
        "SOLVER.BASE_LR": values["learning_rate"],
    }


def _with_option(option: str) -> tuple[str, ...]:
    return tuple(n for n in _NAMES if option in inspect.signature(CELLS.get(n)).parameters)
