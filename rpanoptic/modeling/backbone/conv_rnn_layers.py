"""The layers of a task-driven ConvRNN: as a config lists them, and as the paper has them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from torch import nn

from rpanoptic.modeling.backbone.conv_rnn_graph import (
    CellSpec,
    ConvRNNGraph,
    Layer,
    edges,
    unknown,
)
from rpanoptic.recurrent.checks import check_flag

TEN_LAYERS = tuple(f"conv{place}" for place in range(1, 11))
# Those that a max-pooling follows.
TEN_LAYERS_POOLED = ("conv1", "conv4", "conv6", "conv7", "conv10")
FIVE_LAYERS = TEN_LAYERS[:5]
FIVE_WIDTHS = (64, 128, 256, 256, 512)

_KEYS = {field.name: field.type for field in fields(Layer)}
_REQUIRED = [field.name for field in fields(Layer) if field.default is MISSING]
_FLAGS = ("pool", "residual")
# What a container of layers has itself: no layer can be called so.
_TAKEN = nn.ModuleDict()


def parse_layers(descriptions: Sequence[Mapping[str, Any]], width: float = 1.0) -> list[Layer]:
    """Layers from what a config says of them.

    Args:
        descriptions: the arguments of :class:`Layer` by their names, in the order in which the
            image passes the layers. ``cell`` may be True or False, the name of a cell, or a
            mapping with that "name", with "channels" where its output has others than the
            convolution, and with options of the cell's class.
        width: factor of all channels, rounded and at least 1; of the options of cells whose names
            end in "channels" too.

    Raises:
        ValueError: an unknown key (the known ones are listed, and the closest is named), a missing
            name or number of channels, or a value of the wrong kind or out of its range.
    """
    if not isinstance(width, int | float) or isinstance(width, bool) or not 0 < width < math.inf:
        raise ValueError(f"width must be a number above 0, got {width!r}")
    if not isinstance(descriptions, list | tuple):
        raise ValueError(f"layers must be a list of mappings, got {descriptions!r}")
    return [_layer(place, given, width) for place, given in enumerate(descriptions, start=1)]


def _layer(place: int, given: Any, width: float) -> Layer:
    if not isinstance(given, Mapping):
        raise ValueError(f"layer {place} must be a mapping such as {{name: conv1}}, got {given!r}")
    where = f"layer {given['name']!r}" if "name" in given else f"layer {place}"
    for key in given:
        if key not in _KEYS:
            raise ValueError(f"{where}: {unknown('key', key, _KEYS)}")
    for key in _REQUIRED:
        if key not in given:
            raise ValueError(f"{where} has no {key!r}")
    for key in _FLAGS:
        check_flag(f"{key} of {where}", given.get(key, False))
    options = dict(given)
    if not isinstance(options["name"], str) or not options["name"].isidentifier():
        raise ValueError(f"{where}: a name is made of letters, digits and _, as 'conv1'")
    if hasattr(_TAKEN, options["name"]):
        raise ValueError(f"{where}: PyTorch's containers have something of this name")
    options["channels"] = _wide(options["channels"], width)
    options["cell"] = _cell(options.get("cell", False), where, width)
    return Layer(**options)


def _cell(given: Any, where: str, width: float) -> CellSpec | bool:
    if isinstance(given, bool):
        return given
    if isinstance(given, str) and given:
        return CellSpec(given)
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise ValueError(
            f"cell of {where} must be True, False, the name of a cell or a mapping with its "
            f"'name', got {given!r}"
        )
    options = {
        key: _wide(value, width) if str(key).endswith("channels") else value
        for key, value in given.items()
    }
    return CellSpec(options.pop("name"), options.pop("channels", None), options)


def _wide(channels: Any, width: float) -> Any:
    """So many times the channels; whatever is no number is left to later checks."""
    if not isinstance(channels, int) or isinstance(channels, bool) or channels < 1:
        return channels
    return max(round(channels * width), 1)


def ten_layers(
    widths: Sequence[int],
    *,
    cells: Collection[str] = (),
    feedback: Iterable[Sequence[str]] = (),
    residual: bool = False,
    input_channels: int = 3,
) -> ConvRNNGraph:
    """The "intermediate" network of the paper, of ten layers conv1 to conv10.

    conv1 is a 7 x 7 convolution of stride 2, the others have kernels of 3 x 3; a max-pooling
    follows conv1, conv4, conv6, conv7 and conv10.

    Args:
        widths: channels of the ten layers.
        cells: names of the layers that hold a cell.
        feedback: edges, as :class:`ConvRNNGraph` takes them.
        residual: whether conv2 to conv10 are residual blocks.
        input_channels: channels of the image.

    Raises:
        ValueError: not ten widths, an unknown layer, or an edge that :class:`ConvRNNGraph` refuses.
    """
    _check_layers(TEN_LAYERS, widths, cells)
    layers = tuple(
        Layer(
            name,
            width,
            kernel_size=7 if name == "conv1" else 3,
            stride=2 if name == "conv1" else 1,
            pool=name in TEN_LAYERS_POOLED,
            residual=residual and name != "conv1",
            cell=name in cells,
        )
        for name, width in zip(TEN_LAYERS, widths, strict=True)
    )
    return ConvRNNGraph(layers, edges(feedback), input_channels)


def five_layers(
    widths: Sequence[int] = FIVE_WIDTHS,
    *,
    cells: Collection[str] = (),
    activation: str = "elu",
    input_channels: int = 3,
) -> ConvRNNGraph:
    """The "shallow" network of the paper, of five layers conv1 to conv5.

    conv1 is a 7 x 7 convolution of stride 2, the others have kernels of 3 x 3; a max-pooling
    follows each of them.

    Args:
        widths: channels of the five layers.
        cells: names of the layers that hold a cell; the published networks have them in conv3,
            conv4 and conv5.
        activation: of the convolution before a cell; "" in most published ones.
        input_channels: channels of the image.

    Raises:
        ValueError: not five widths, an unknown layer or activation.
    """
    _check_layers(FIVE_LAYERS, widths, cells)
    layers = tuple(
        Layer(
            name,
            width,
            kernel_size=7 if name == "conv1" else 3,
            stride=2 if name == "conv1" else 1,
            pool=True,
            activation=activation if name in cells else "elu",
            cell=name in cells,
        )
        for name, width in zip(FIVE_LAYERS, widths, strict=True)
    )
    return ConvRNNGraph(layers, input_channels=input_channels)


def _check_layers(names: Sequence[str], widths: Sequence[int], cells: Collection[str]) -> None:
    if len(widths) != len(names):
        raise ValueError(f"the network has {len(names)} layers; got {len(widths)} widths")
    for name in cells:
        if name not in names:
            raise ValueError(f"a cell in {unknown('layer', name, names)}")
