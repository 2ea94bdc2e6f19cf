"""The loop of a task-driven ConvRNN as one recurrent cell: wiring of layers, cells and feedback."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from rpanoptic.modeling.backbone.conv_rnn_graph import ConvRNNGraph
from rpanoptic.modeling.backbone.conv_rnn_parts import Connection, ConvLayer, Feedback
from rpanoptic.modeling.build import check_keeps_size
from rpanoptic.recurrent import RecurrentCell
from rpanoptic.recurrent.cells.base import Drive
from rpanoptic.recurrent.state import State, to_tensors

DELAYS = (0, 1)


class LayerResult(NamedTuple):
    """What a layer has after a step.

    Attributes:
        output: y ``(N, C, H, W)``, before its pooling.
        hidden: the state of its cell; None where it holds none.
    """

    output: Tensor
    hidden: State | None


class ConvRNNCell(RecurrentCell):
    """One step of all layers of the loop.

    With x the output of the layer before, as read after its pooling, A and U what
    :class:`ConvLayer` does after and before the cell, and B the feedback::

        h_l <- cell_l(U_l(x_{l-1}) + B_l(later layers' outputs, of the step before), h_l)
        y_l <- A_l(output(h_l), x_{l-1})

    (``+`` or another combination, see :class:`Connection`; a cell whose ``drive_parts`` say so is
    given the feedback, or x too, by itself.) With delay 1 x too is of the step before, so that each
    connection takes a step; with delay 0 it is of this one. The equilibria are the same.

    A run takes at least as many steps as the image needs to arrive at every output: with delay 1,
    as there are layers from the first of the loop to the last output.

    The state holds the outputs y that the next step or the caller reads, then the states h. All
    are zero at first. A network whose image has further layers to pass before the loop runs on
    meanwhile, see :meth:`first_state`.

    Args:
        graph: the network; its loop is what this cell runs. The drive is the output of the layer
            before the loop, after its pooling, or the image.
        cells: the local cells by the names of their layers, with the drives and outputs that the
            graph says and states as high and wide as those.
        delay: 1 or 0.
        outputs: names of layers of the loop that :meth:`features` gives.
        connection: how feedback reaches the layers; as published by default.

    Raises:
        ValueError: there is no loop, another delay, an output outside the loop, cells for other
            layers, or of other shapes, than the graph's, or a combination that no layer uses.
    """

    def __init__(
        self,
        graph: ConvRNNGraph,
        cells: Mapping[str, RecurrentCell],
        *,
        delay: int = 1,
        outputs: Collection[str],
        connection: Connection | None = None,
    ) -> None:
        if not graph.loop:
            raise ValueError("the network has neither cells nor feedback: nothing is recurrent")
        if delay not in DELAYS:
            raise ValueError(f"delay must be 1 or 0, got {delay!r}")
        wanted = [layer.name for layer in graph.loop if layer.cell]
        if set(wanted) != set(cells):
            raise ValueError(f"cells are needed for {sorted(wanted)}, got some for {sorted(cells)}")
        for name in wanted:
            _check_cell(cells[name], graph, name)
        loop = {layer.name: layer for layer in graph.loop}
        names = list(loop)
        if not outputs or not set(outputs) <= set(names):
            raise ValueError(f"outputs must be among the layers {names}, got {list(outputs)}")
        self.outputs = [name for name in names if name in outputs]
        super().__init__(loop[self.outputs[-1]].out_channels, graph.in_channels(names[0]))
        self.least_steps = max(graph.arrival(name, delay) for name in self.outputs)
        self.graph = graph
        self.delay = delay
        self.layers = nn.ModuleDict(
            {name: ConvLayer(layer, graph.in_channels(name)) for name, layer in loop.items()}
        )
        self.cells = nn.ModuleDict({name: cells[name] for name in wanted})
        self.feedback = nn.ModuleDict()
        for name, layer in loop.items():
            if widths := {source.name: source.out_channels for source in graph.sources(name)}:
                self.feedback[name] = Feedback(widths, layer.channels, connection)
        if connection is not None and connection.combination != "add":
            _check_combination(connection.combination, cells, list(self.feedback))
        sources = {source for source, _ in graph.feedback}
        # What is read a step later, and with the outputs what a state holds.
        self._last = names[-1]
        self._delayed = [n for n in names if n in sources or (delay == 1 and n != self._last)]
        read = [name for name in names if name in self._delayed or name in outputs]
        # Some layers put out what their cell reads out of its own state.
        self._read_out = [n for n in read if loop[n].cell and not loop[n].residual]
        self._kept = [name for name in read if name not in self._read_out]
        self.state_tensors = len(self._kept) + sum(cell.state_tensors for cell in cells.values())

    def forward(self, drive: Tensor, state: State) -> tuple[Tensor, ...]:
        """Take one step; drive is ``(N, C_drive, H, W)``, state as :meth:`initial_state` has it."""
        before, hidden = self._taken_apart(state)
        read = {name: self.layer(name).pooled(before[name]) for name in self._delayed}
        results: dict[str, LayerResult] = {}
        x = drive
        for name in self.layers:
            results[name] = self.advance(name, x, read, hidden.get(name))
            if name != self._last:
                x = read[name] if self.delay else self.layer(name).pooled(results[name].output)
        return self._put_together(results)

    def advance(
        self, name: str, x: Tensor, read: Mapping[str, Tensor], hidden: State | None
    ) -> LayerResult:
        """Let one layer take its step.

        Args:
            name: of the layer.
            x: what it reads of the layer before, ``(N, C_in, H, W)``.
            read: what it reads of the layers that feed back to it, by their names, ``(N, C, H, W)``
                or ``(1, C, H, W)``.
            hidden: the state of its cell, of N samples; None where it holds none.
        """
        layer = self.layer(name)
        u = layer.drive(x)
        parts = {"drive": u, "input": x}
        taken = self._cell(name).drive_parts if name in self.cells else ("drive",)
        if name in self.feedback:
            feedback = cast(Feedback, self.feedback[name])
            f = feedback(read, u.shape[-2:])
            if "feedback" in taken:
                parts["feedback"] = f.expand_as(u)
            else:
                parts["drive"] = feedback.combined(u, f)
        if hidden is None:
            h = parts["drive"]
        else:
            cell = self._cell(name)
            drives = tuple(parts[part] for part in taken if part in parts)
            hidden = cell(drives if len(drives) > 1 else drives[0], hidden)
            h = cell.output(hidden)
        return LayerResult(layer.finish(h, x), hidden)

    def initial_layers(self, drive: Tensor) -> dict[str, LayerResult]:
        """What the layers have at the very first, by their names: zeros.

        Args:
            drive: ``(N, C_drive, H, W)``; its values do not matter.
        """
        size = drive.shape[-2:]
        samples = drive.shape[0]
        results: dict[str, LayerResult] = {}
        for layer in self.graph.loop:
            parts = {"input": drive.new_zeros(samples, self.graph.in_channels(layer.name), *size)}
            size = _divided(size, layer.stride)
            for part in ("drive", "feedback"):
                parts[part] = drive.new_zeros(samples, layer.channels, *size)
            hidden = None
            if layer.cell:
                cell = self._cell(layer.name)
                zeros: Drive = tuple(parts[part] for part in cell.drive_parts)
                hidden = cell.initial_state(zeros if len(zeros) > 1 else zeros[0])
            output = drive.new_zeros(samples, layer.out_channels, *size)
            results[layer.name] = LayerResult(output, hidden)
            size = _divided(size, 2 if layer.pool else 1)
        return results

    def initial_state(self, drive: Tensor) -> tuple[Tensor, ...]:
        """Zeros, of the sizes that the layers have for this drive ``(N, C_drive, H, W)``."""
        return self._put_together(self.initial_layers(drive))

    def first_state(self, earlier: Iterable[Tensor], drive: Tensor) -> tuple[Tensor, ...]:
        """The state in which the image finds the loop, when it has run on other drives before.

        Args:
            earlier: these drives, in their order, each ``(1, C_drive, H, W)``: all samples share
                them.
            drive: that of the image, ``(N, C_drive, H, W)``, of the same height and width.
        """
        state = self.initial_state(drive[:1])
        for given in earlier:
            state = self(given, state)
        return tuple(t.expand(drive.shape[0], *t.shape[1:]) for t in state)

    def features(self, state: State) -> dict[str, Tensor]:
        """The chosen layers' outputs ``(N, C, H, W)``, before pooling, by their names."""
        before, _ = self._taken_apart(state)
        return {name: before[name] for name in self.outputs}

    def output(self, state: State) -> Tensor:
        """The output of the last of the chosen layers."""
        return list(self.features(state).values())[-1]

    def layer(self, name: str) -> ConvLayer:
        """The convolutions of a layer."""
        return cast(ConvLayer, self.layers[name])

    def _cell(self, name: str) -> RecurrentCell:
        return cast(RecurrentCell, self.cells[name])

    def _put_together(self, results: Mapping[str, LayerResult]) -> tuple[Tensor, ...]:
        """A state of the layers' outputs and of their cells' states."""
        state = [results[name].output for name in self._kept]
        for name in self.cells:
            hidden = results[name].hidden
            assert hidden is not None
            state += to_tensors(hidden)
        return tuple(state)

    def _taken_apart(self, state: State) -> tuple[dict[str, Tensor], dict[str, State]]:
        """The inverse of :meth:`_put_together`."""
        tensors = iter(to_tensors(state))
        outputs = {name: next(tensors) for name in self._kept}
        hidden: dict[str, State] = {}
        for name in self.cells:
            part = tuple(next(tensors) for _ in range(self._cell(name).state_tensors))
            hidden[name] = part if len(part) > 1 else part[0]
        for name in self._read_out:
            outputs[name] = self._cell(name).output(hidden[name])
        return outputs, hidden


def _divided(size: torch.Size, by: int) -> torch.Size:
    return torch.Size(math.ceil(side / by) for side in size)


def _check_cell(cell: RecurrentCell, graph: ConvRNNGraph, name: str) -> None:
    layer = graph[name]
    there = {"drive": layer.channels, "input": graph.in_channels(name)}
    if graph.sources(name):
        there["feedback"] = layer.channels
    parts = cell.drive_parts
    if lacking := [part for part in parts if part not in there]:
        raise ValueError(
            f"the cell of layer {name!r} is driven by {lacking[0]!r}, but layer {name!r} has "
            f"{', '.join(map(repr, there))} alone"
        )
    if "input" in parts and layer.stride > 1:
        raise ValueError(
            f"the cell of layer {name!r} reads the layer's input, which must be as high and wide "
            f"as its drive: the stride must be 1, got {layer.stride}"
        )
    wanted, given = tuple(there[part] for part in parts), cell.part_channels()
    if (wanted, layer.cell_channels) != (given, cell.channels):
        raise ValueError(
            f"the cell of layer {name!r} must take {', '.join(parts)} of {_channels(wanted)} "
            f"channels and give {layer.cell_channels}; it takes {_channels(given)} and gives "
            f"{cell.channels}"
        )
    check_keeps_size(f"level {name}", cell)


def _channels(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def _check_combination(
    combination: str, cells: Mapping[str, RecurrentCell], targets: list[str]
) -> None:
    own = [name for name in targets if name in cells and "feedback" in cells[name].drive_parts]
    if targets and len(own) == len(targets):
        raise ValueError(
            f"no layer combines drive and feedback by {combination!r}: the cells of "
            f"{', '.join(own)} take feedback by themselves"
        )
