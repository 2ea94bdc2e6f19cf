"""What the spaces read from the layers of a base config, and how they change them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from detectron2.config import CfgNode

from rpanoptic.errors import ConfigError

KEY = "MODEL.RECURRENT.CONVRNN"


def layers_of(cfg: CfgNode) -> list[dict[str, Any]]:
    """Copies of the layers, in their order."""
    return [dict(layer) for layer in cfg.MODEL.RECURRENT.CONVRNN.LAYERS]


def with_cell(cfg: CfgNode) -> list[dict[str, Any]]:
    """The layers that hold a cell.

    Raises:
        ConfigError: there is none, so that there is nothing to search.
    """
    found = [layer for layer in layers_of(cfg) if layer.get("cell")]
    if not found:
        raise ConfigError(
            f"{KEY}.LAYERS of the base config has no layer with a cell: a search replaces the "
            "cells that are there"
        )
    return found


def changed(
    cfg: CfgNode, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """All layers, those with a cell changed: ``change`` gives the new entries of such a layer."""
    # Copies: what several layers shared would be references in a file of YAML.
    return [
        {**layer, **deepcopy(dict(change(layer)))} if layer.get("cell") else layer
        for layer in layers_of(cfg)
    ]


def candidate_edges(cfg: CfgNode) -> list[tuple[str, str]]:
    """All pairs (later, earlier) of layers with cells, which feedback might join."""
    names = [layer["name"] for layer in with_cell(cfg)]
    return [(later, names[j]) for i, later in enumerate(names) for j in range(i)]
