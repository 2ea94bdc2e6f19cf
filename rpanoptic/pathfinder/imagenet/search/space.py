"""What a search varies, and how a trial's values become a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from rpanoptic.errors import ConfigError
from rpanoptic.pathfinder.imagenet.search import cells, reciprocal_gated
from rpanoptic.pathfinder.imagenet.search.parameters import Parameter


@dataclass(frozen=True)
class Space:
    """A search space.

    Attributes:
        name: of the space.
        parameters: the parameters, of a base config: its layers say which feedback edges there can
            be, how many steps make sense, and so on.
        overrides: from a base config and a trial's values to the config keys that they change.
            Values that cannot stand together are repaired here, always in the same way, so that
            each trial stands for a network.
    """

    name: str
    parameters: Callable[[CfgNode], tuple[Parameter, ...]]
    overrides: Callable[[CfgNode, Mapping[str, Any]], dict[str, Any]]

    def config(self, base: CfgNode, values: Mapping[str, Any]) -> CfgNode:
        """The config of a trial: the base config with what the values change.

        Raises:
            ConfigError: a key is unknown or a value of another type than the config's.
        """
        cfg = base.clone()
        cfg.defrost()
        for key, value in self.overrides(base, values).items():
            try:
                cfg.merge_from_list([key, value])
            except (KeyError, ValueError, AssertionError) as error:
                raise ConfigError(f"space {self.name!r}: {key}: {error}") from error
        return cfg

    def described(self, base: CfgNode) -> list[dict[str, Any]]:
        """The parameters as plain data, which tells whether two spaces are the same."""
        return [
            {"kind": type(parameter).__name__, **_plain(asdict(parameter))}
            for parameter in self.parameters(base)
        ]


#: The spaces by name.
SPACES = {
    "reciprocal_gated": Space(
        "reciprocal_gated", reciprocal_gated.parameters, reciprocal_gated.overrides
    ),
    "cells": Space("cells", cells.parameters, cells.overrides),
}


def find_space(name: str) -> Space:
    """The space of a name.

    Raises:
        ConfigError: there is none; the known names are listed.
    """
    if name not in SPACES:
        raise ConfigError(f"--space {name!r} is unknown; known: {', '.join(SPACES)}")
    return SPACES[name]


def count_parameters(cfg: CfgNode) -> int:
    """The number of parameters of the model that a config describes, without memory for them.

    Raises:
        ConfigError: the model cannot be built.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    try:
        with torch.device("meta"):
            model = build_model(cfg)
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error)) from error
    return sum(parameter.numel() for parameter in model.parameters())


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value
