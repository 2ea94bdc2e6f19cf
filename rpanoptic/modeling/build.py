"""From a config node to a recurrent block."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode

from rpanoptic.errors import ConfigError, naming
from rpanoptic.recurrent import (
    CELLS,
    GRADIENTS,
    AdjointConfig,
    ForwardConfig,
    LipschitzPenalty,
    RecurrentBlock,
    RecurrentCell,
    build_cell,
)
from rpanoptic.recurrent.state import to_tensors


def build_recurrent_block(
    node: CfgNode, channels: int, *, key: str, drive_channels: int | None = None
) -> RecurrentBlock:
    """Build the recurrent block of a head that a node of the config describes.

    Args:
        node: a node with the keys of ``rpanoptic.config``'s recurrent block.
        channels: channels of the cell's output.
        key: where the node stands, such as "MODEL.RECURRENT.MASK_HEAD"; begins error messages.
        drive_channels: channels of the drive; None for as many.

    Raises:
        ConfigError: a value is unknown or out of its range, or the cell's state has not the size of
            its drive; the message begins with its key.
    """
    cell = build_recurrent_cell(node, channels, key=key, drive_channels=drive_channels)
    with naming(f"{key}.CELL {node.CELL!r}"):
        check_keeps_size("the head", cell)
    return build_block_of(cell, node, key=key)


def check_keeps_size(place: str, cell: RecurrentCell) -> None:
    """Raise a ValueError unless a cell's state has the height and width of its drive.

    Args:
        place: what the cell serves, such as "level p3", for the message.
        cell: the cell.
    """
    device = next((p.device for p in cell.parameters()), None)
    parts = tuple(torch.zeros(1, c, 2, 2, device=device) for c in cell.part_channels())
    state = cell.initial_state(parts if len(parts) > 1 else parts[0])
    if any(t.shape[2:] != (2, 2) for t in to_tensors(state)):
        raise ValueError(
            f"{place} needs a cell whose state is as high and wide as its drive; "
            f"that of {type(cell).__name__} is not"
        )


def build_recurrent_cell(
    node: CfgNode,
    channels: int,
    *,
    key: str,
    drive_channels: int | None = None,
    given: Mapping[str, Any] | None = None,
) -> RecurrentCell:
    """Build the cell alone; see :func:`build_recurrent_block`.

    Args:
        node, channels, key, drive_channels: as there.
        given: arguments that follow from where the cell stands; those that its class has are
            passed on.
    """
    check_recurrent_node(node, key=key)
    options = _cell_options(node, key) | fitting(node.CELL, given or {})
    if drive_channels not in (None, channels):
        if "drive_channels" not in inspect.signature(CELLS.get(node.CELL)).parameters:
            raise ConfigError(
                f"{key}.CELL: the drive of {node.CELL!r} must have as many channels as its state, "
                f"{channels}, but here it has {drive_channels}; 'hgru_low_dim' or 'conv_gru' take "
                "such a drive"
            )
        options["drive_channels"] = drive_channels
    with naming(key):
        return build_cell(node.CELL, channels, **options)


def fitting(cell: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that the class of a cell has.

    Raises:
        ValueError: an unknown cell.
    """
    known = inspect.signature(CELLS.get(cell)).parameters
    return {name: value for name, value in given.items() if name in known}


def build_block_of(cell: RecurrentCell, node: CfgNode, *, key: str) -> RecurrentBlock:
    """Put a cell, of any make, into the block that a node of the config describes.

    Args:
        cell: the cell; the node's own keys of the cell are not read.
        node, key: as in :func:`build_recurrent_block`.

    Raises:
        ConfigError: a value is unknown or out of its range.
    """
    with naming(key):
        return RecurrentBlock(
            cell,
            steps=node.STEPS,
            steps_test=node.STEPS_TEST,
            halt_tol=node.HALT_TOL,
            gradient=node.GRADIENT,
            forward=ForwardConfig(**_lower(node.FORWARD)),
            adjoint=AdjointConfig(**_lower(node.ADJOINT)),
            penalty=LipschitzPenalty(**_lower(node.LIPSCHITZ)),
            truncation=node.TRUNCATION,
            backend=node.BACKEND,
            on_failure=node.ON_FAILURE,
        )


OUTPUT_NORMS = ("SyncBN", "naiveSyncBN", "BN", "FrozenBN", "GN", "")
# As detectron2.layers.get_norm makes it.
GROUPS = 32


def output_norm_of(node: CfgNode, channels: int, *, key: str) -> str:
    """The normalisation of an equilibrium that a node names, for ``detectron2.layers.get_norm``.

    Args:
        node: with the key OUTPUT_NORM.
        channels: channels to normalise.
        key: as in :func:`build_recurrent_block`.

    Raises:
        ConfigError: it is unknown, or "GN" cannot divide the channels into its groups.
    """
    name = node.OUTPUT_NORM
    if name not in OUTPUT_NORMS:
        raise ConfigError(
            f"{key}.OUTPUT_NORM must be one of {', '.join(map(repr, OUTPUT_NORMS))}; got {name!r}"
        )
    if name == "GN" and channels % GROUPS:
        raise ConfigError(
            f"{key}.OUTPUT_NORM 'GN' has {GROUPS} groups and needs a multiple of as many channels; "
            f"there are {channels}"
        )
    return name


# The options of cells by their keys, with the defaults of the config.
CELL_KEYS = {
    "KERNEL_SIZE": 0,
    "NORM": "default",
    "NONLINEARITY": "default",
    "GALA": True,
    "LESS_SOFTPLUS": True,
    "EXTRA_SOFTPLUS": False,
    "BIAS_INIT": "chrono",
    "FORGET_BIAS": 1.0,
}
# Values that leave the choice to the cell, by the keys that have such.
CELLS_OWN = {"KERNEL_SIZE": 0, "NORM": "default", "NONLINEARITY": "default"}


def _cell_options(node: CfgNode, key: str) -> dict[str, Any]:
    """The keyword arguments for the node's cell.

    Raises:
        ConfigError: a key was changed that the cell has no use for.
    """
    known = inspect.signature(CELLS.get(node.CELL)).parameters
    options = {}
    for name, default in CELL_KEYS.items():
        value = node[name]
        if name.lower() in known:
            if name not in CELLS_OWN or value != CELLS_OWN[name]:
                options[name.lower()] = value
        elif value != default:
            raise ConfigError(
                f"{key}.{name} is {value!r}, but cell {node.CELL!r} has no such option; "
                f"leave it at {default!r}"
            )
    if "max_steps" in known:
        options["max_steps"] = node.STEPS
    return options


def _lower(node: CfgNode) -> dict[str, Any]:
    return {name.lower(): value for name, value in node.items()}


def check_recurrent_node(node: CfgNode, *, key: str) -> None:
    """Check what can be known of a recurrent block before any data or model is there.

    Raises:
        ConfigError: an unknown cell or gradient method (the known ones are listed), a number of
            steps that cannot be run, or an impossible kernel size of the feedback's cells.
    """
    for name, registry in (("CELL", CELLS), ("GRADIENT", GRADIENTS)):
        with naming(f"{key}.{name}"):
            registry.get(node[name])
    for name, least in (("STEPS", 1), ("STEPS_TEST", 0)):
        if not isinstance(node[name], int) or node[name] < least:
            raise ConfigError(f"{key}.{name} must be at least {least}, got {node[name]!r}")
    # With feedback or without: a value that waits for it to be turned on should be right already.
    for name in ("TOP_DOWN_KERNEL_SIZE", "FEEDBACK_KERNEL_SIZE"):
        if name in node and (node[name] < 1 or node[name] % 2 == 0):
            raise ConfigError(f"{key}.{name} must be odd and at least 1, got {node[name]}")
