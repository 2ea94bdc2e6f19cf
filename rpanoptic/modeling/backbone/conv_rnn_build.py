"""From ``MODEL.RECURRENT.CONVRNN`` to what a ConvRNN is built of."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from detectron2.config import CfgNode

from rpanoptic.errors import ConfigError, naming
from rpanoptic.modeling.backbone.conv_rnn_graph import (
    CellSpec,
    ConvRNNGraph,
    Layer,
    edges,
    unknown,
)
from rpanoptic.modeling.backbone.conv_rnn_layers import parse_layers
from rpanoptic.modeling.backbone.conv_rnn_parts import Connection
from rpanoptic.modeling.build import (
    build_block_of,
    build_recurrent_cell,
    check_recurrent_node,
    fitting,
    output_norm_of,
)
from rpanoptic.recurrent import CELLS, RecurrentCell, build_cell
from rpanoptic.recurrent.checks import check_choice, check_count, check_flag

CONFIG_KEY = "MODEL.RECURRENT.CONVRNN"
BLANKS = ("normalised_0.5", "pixel_grey")
# Mid grey, of 0 to 255.
GREY = 127.5
# Arguments of cells that follow from where they stand.
_GIVEN = ("channels", "drive_channels", "input_channels", "feedback")


def conv_rnn_options(cfg: CfgNode, input_channels: int) -> dict[str, Any]:
    """The arguments of a :class:`ConvRNN` that a config describes.

    Raises:
        ConfigError: a key has an impossible value.
    """
    node = cfg.MODEL.RECURRENT.CONVRNN
    check_recurrent_node(node, key=CONFIG_KEY)
    graph = build_graph(cfg, input_channels)
    with naming(f"{CONFIG_KEY}.OUT_FEATURES"):
        names = node.OUT_FEATURES
        if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
            raise ValueError(f"outputs must be a list of names, got {names!r}")
        graph = graph.reduced_to(names)
    _check_image_steps(node, graph)
    for feature in node.OUT_FEATURES:
        output_norm_of(node, graph[graph.layer_of(feature)].out_channels, key=CONFIG_KEY)
    with naming(f"{CONFIG_KEY}.CONNECTION"):
        connection = Connection(**{k.lower(): v for k, v in node.CONNECTION.items()})
    return {
        "graph": graph,
        "cells": {layer.name: _cell(node, graph, layer) for layer in graph.loop if layer.cell},
        "delay": node.DELAY,
        "connection": connection,
        "out_features": node.OUT_FEATURES,
        "readout": node.READOUT,
        "image_steps": node.IMAGE_STEPS,
        "blank": blank_of(cfg),
        "schedule": node.SCHEDULE,
        "make_block": partial(build_block_of, node=node, key=CONFIG_KEY),
        "output_norm": node.OUTPUT_NORM,
    }


def _check_image_steps(node: CfgNode, graph: ConvRNNGraph) -> None:
    """Raise a ConfigError where the image would go off after the last step."""
    with naming(f"{CONFIG_KEY}.IMAGE_STEPS"):
        seen = check_count("image_steps", node.IMAGE_STEPS, least=0)
        taken = max(node.STEPS, node.STEPS_TEST)
        if graph.loop and seen > taken:
            raise ValueError(
                f"the image would go off after {seen} steps, but a run takes {taken}; 0 lets all "
                "steps see it"
            )


def build_graph(cfg: CfgNode, input_channels: int = 3) -> ConvRNNGraph:
    """The network that a config describes, with all its layers.

    Args:
        cfg: the config.
        input_channels: channels of the image.

    Raises:
        ConfigError: a layer or a feedback edge is described wrongly.
    """
    node = cfg.MODEL.RECURRENT.CONVRNN
    with naming(f"{CONFIG_KEY}.LAYERS"):
        layers = tuple(parse_layers(node.LAYERS, node.WIDTH))
        # An edge would be at fault only because of these.
        ConvRNNGraph(layers)
    with naming(f"{CONFIG_KEY}.FEEDBACK"):
        return ConvRNNGraph(layers, edges(node.FEEDBACK), input_channels)


def blank_of(cfg: CfgNode) -> list[float]:
    """What stands in each channel of the normalised picture once the image is off.

    Raises:
        ConfigError: an unknown name.
    """
    blank = cfg.MODEL.RECURRENT.CONVRNN.BLANK
    with naming(f"{CONFIG_KEY}.BLANK"):
        check_choice("blank", blank, BLANKS)
    pixels = zip(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, strict=True)
    return [0.5 if blank == "normalised_0.5" else (GREY - mean) / std for mean, std in pixels]


def _check_kind(option: str, value: Any, default: Any) -> None:
    """Raise a ValueError where an option of a cell cannot be what its default is."""
    if isinstance(default, bool):
        check_flag(option, value)
    elif isinstance(default, float) and (
        isinstance(value, bool) or not isinstance(value, int | float)
    ):
        raise ValueError(f"{option} must be a number, got {value!r}")


def _cell(node: CfgNode, graph: ConvRNNGraph, layer: Layer) -> RecurrentCell:
    spec = layer.cell
    assert isinstance(spec, CellSpec)
    given = {
        "input_channels": graph.in_channels(layer.name),
        "feedback": bool(graph.sources(layer.name)),
    }
    if not spec.name:
        return build_recurrent_cell(
            node,
            layer.cell_channels,
            key=CONFIG_KEY,
            drive_channels=layer.channels,
            given=given,
        )
    with naming(f"{CONFIG_KEY}.LAYERS: cell of layer {layer.name!r}"):
        takes = inspect.signature(CELLS.get(spec.name)).parameters
        known = [name for name in takes if name not in _GIVEN]
        for option in spec.options:
            if option not in known:
                raise ValueError(f"{spec.name!r}: {unknown('option', option, known)}")
            _check_kind(option, spec.options[option], takes[option].default)
        if layer.cell_channels != layer.channels:
            if "drive_channels" not in takes:
                raise ValueError(
                    f"the drive of {spec.name!r} must have as many channels as its output; here "
                    f"they are {layer.channels} and {layer.cell_channels}"
                )
            given["drive_channels"] = layer.channels
        given["max_steps"] = node.STEPS
        options = fitting(spec.name, given) | dict(spec.options)
        try:
            return build_cell(spec.name, layer.cell_channels, **options)
        except TypeError as error:
            raise ConfigError(
                f"{CONFIG_KEY}.LAYERS: cell of layer {layer.name!r}: {error}"
            ) from error
