"""What a task-driven ConvRNN consists of, as data: layers, which hold cells, feedback edges.

The network is a chain of convolutional layers after Nayebi et al., NeurIPS 2018. Time runs in
steps: the layers before the first cell and the first target of a feedback are feed-forward, and
with a constant image they are run once; those from there on make up the loop.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from rpanoptic.recurrent.cells.parts import NONLINEARITIES
from rpanoptic.recurrent.checks import check_choice, check_count

ACTIVATIONS = (*NONLINEARITIES, "")


@dataclass(frozen=True)
class CellSpec:
    """The recurrent cell of a layer.

    Args:
        name: in :data:`rpanoptic.recurrent.CELLS`; "" where the builder of the network chooses.
        channels: of its output; None for as many as the layer's convolution has.
        options: keyword arguments of the cell's class.

    Raises:
        ValueError: channels below 1.
    """

    name: str = ""
    channels: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.channels is not None:
            check_count("channels of a cell", self.channels, least=1)


@dataclass(frozen=True)
class Layer:
    """One layer of a network; the paper's form of it is told by :class:`ConvLayer`.

    Args:
        name: such as "conv4".
        channels: of its convolution, which drives the cell.
        kernel_size: side of the kernel of that convolution, in pixels.
        stride: of that convolution.
        pool: whether a 2 x 2 max-pooling stands between it and whatever reads it.
        residual: whether it is a residual block of two convolutions, the cell between them; else
            a convolution and the cell.
        activation: what follows its convolutions: "elu" or another of ``NONLINEARITIES``, or ""
            for nothing.
        cell: its recurrent cell; None where it holds none. True stands for ``CellSpec()``.

    Raises:
        ValueError: a number below 1, an unknown activation, or a residual layer with a stride.
    """

    name: str
    channels: int
    kernel_size: int = 3
    stride: int = 1
    pool: bool = False
    residual: bool = False
    activation: str = "elu"
    cell: CellSpec | bool | None = None

    def __post_init__(self) -> None:
        for option in ("channels", "kernel_size", "stride"):
            check_count(f"{option} of layer {self.name!r}", getattr(self, option), least=1)
        check_choice(f"activation of layer {self.name!r}", self.activation, ACTIVATIONS)
        if self.residual and self.stride > 1:
            raise ValueError(f"layer {self.name!r} is residual, so its stride must be 1")
        if isinstance(self.cell, bool):
            object.__setattr__(self, "cell", CellSpec() if self.cell else None)

    @property
    def cell_channels(self) -> int:
        """Channels that the cell puts out, or the convolution where there is none."""
        own = self.cell.channels if isinstance(self.cell, CellSpec) else None
        return own or self.channels

    @property
    def out_channels(self) -> int:
        """Channels of its output, which a residual layer's second convolution makes."""
        return self.channels if self.residual else self.cell_channels


@dataclass(frozen=True)
class ConvRNNGraph:
    """A chain of layers, and feedback edges that lead back along it.

    Args:
        layers: in the order in which the image passes them.
        feedback: pairs (source, target) of names of layers, the source being the later one.
        input_channels: channels of the image.

    Raises:
        ValueError: no layers, a name twice, a feedback edge twice, from or to a layer that is
            missing (the known ones are listed), or one that does not lead back.
    """

    layers: tuple[Layer, ...]
    feedback: tuple[tuple[str, str], ...] = ()
    input_channels: int = 3

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("a network needs at least one layer")
        if len(set(self.names)) < len(self.layers):
            raise ValueError(f"each layer needs a name of its own, got {', '.join(self.names)}")
        for edge in self.feedback:
            source, target = (self._checked(name, f"feedback edge {list(edge)}") for name in edge)
            if self.names.index(source) <= self.names.index(target):
                raise ValueError(
                    f"feedback edge {list(edge)} must lead from a layer to an earlier one"
                )
        if len(set(self.feedback)) < len(self.feedback):
            raise ValueError(f"a feedback edge stands twice in {self.feedback}")

    def __getitem__(self, name: str) -> Layer:
        return self.layers[self.names.index(name)]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the layers, in their order."""
        return tuple(layer.name for layer in self.layers)

    @cached_property
    def features(self) -> dict[str, str]:
        """Layers by the names of their outputs.

        Each layer by its own, and by Detectron2's "res2" to "res5" the last ones of the strides 4,
        8, 16 and 32, as far as there are such.
        """
        last = {self.stride(name): name for name in self.names}
        found = {f"res{n}": last[2**n] for n in range(2, 6) if 2**n in last}
        return found | {name: name for name in self.names}

    def layer_of(self, feature: str) -> str:
        """The layer behind a name of :attr:`features`.

        Raises:
            ValueError: there is none; the known names are listed.
        """
        if feature not in self.features:
            raise ValueError(unknown("output", feature, self.features))
        return self.features[feature]

    @cached_property
    def before(self) -> tuple[Layer, ...]:
        """The layers that neither a cell nor a feedback reaches."""
        return self.layers[: self._first]

    @cached_property
    def loop(self) -> tuple[Layer, ...]:
        """The layers from the first that does; none in a feed-forward network."""
        return self.layers[self._first :]

    @cached_property
    def _first(self) -> int:
        targets = {target for _, target in self.feedback}
        recurrent = (
            n for n, layer in enumerate(self.layers) if layer.cell or layer.name in targets
        )
        return min(recurrent, default=len(self.layers))

    def in_channels(self, name: str) -> int:
        """Channels that a layer takes from the one before it, or from the image."""
        place = self.names.index(name)
        return self.layers[place - 1].out_channels if place else self.input_channels

    def sources(self, target: str) -> tuple[Layer, ...]:
        """The layers that feed back to ``target``, in the order of their edges."""
        names = [source for source, aim in self.feedback if aim == target]
        return tuple(self[name] for name in names)

    def stride(self, name: str) -> int:
        """Pixels of the image to a pixel of a layer's output, before its pooling."""
        place = self.names.index(name)
        stride = self.layers[place].stride
        for layer in self.layers[:place]:
            stride *= layer.stride * (2 if layer.pool else 1)
        return stride

    def arrival(self, name: str, delay: int) -> int:
        """The first step of the loop whose result the image has a part in, at layer ``name``.

        Args:
            name: a layer of the loop; 0 is returned for one before it.
            delay: 1 if every edge costs a step; 0 if a step is a sweep through all layers.
        """
        place = self.names.index(name) - self._first
        if place < 0:
            return 0
        return place + 1 if delay else 1

    def reduced_to(self, features: Iterable[str]) -> ConvRNNGraph:
        """The graph without the layers behind all those that these outputs depend on.

        Raises:
            ValueError: an unknown output, or none.
        """
        needed = [self.layer_of(feature) for feature in features]
        if not needed:
            raise ValueError("a network needs at least one output")
        last = max(map(self.names.index, needed))
        # What feeds back to a layer that is needed is needed too.
        while reaching := [
            self.names.index(source)
            for source, target in self.feedback
            if self.names.index(target) <= last < self.names.index(source)
        ]:
            last = max(reaching)
        kept = self.names[: last + 1]
        feedback = tuple(edge for edge in self.feedback if edge[1] in kept)
        return replace(self, layers=self.layers[: last + 1], feedback=feedback)

    def _checked(self, name: str, where: str) -> str:
        if name not in self.names:
            raise ValueError(f"{where}: {unknown('layer', name, self.names)}")
        return name


def edges(pairs: Iterable[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    """Feedback edges as :class:`ConvRNNGraph` takes them.

    Raises:
        ValueError: one is no pair.
    """
    if not isinstance(pairs, Iterable) or isinstance(pairs, str):
        raise ValueError(f"feedback edges are a list of pairs of layers, got {pairs!r}")
    found = []
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f"a feedback edge is a pair of layers, got {pair!r}")
        source, target = pair
        found.append((source, target))
    return tuple(found)


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """A message on a name that is not among the known ones, with the closest of these."""
    known = tuple(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {name!r}, known: {', '.join(known)}{hint}"
