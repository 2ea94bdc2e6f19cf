"""Which layers of an unrolled ConvRNN must be evaluated at which steps, and a run of those alone.

Every layer of the loop at every step is more than a readout depends on: late steps of early layers
no longer reach it. And until the image arrives at a layer, what the layer computes is the same for
all images (Nayebi et al., NeurIPS 2018, unroll their networks so).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

from torch import Tensor

from rpanoptic.modeling.backbone.conv_rnn_cell import ConvRNNCell, LayerResult
from rpanoptic.modeling.backbone.conv_rnn_graph import ConvRNNGraph
from rpanoptic.recurrent.convolution import shared_spectra
from rpanoptic.recurrent.state import State, like, to_tensors

#: What the layers of the loop have after a step, by their names, as far as it is needed.
Results: TypeAlias = dict[str, LayerResult]


def first_step(graph: ConvRNNGraph, delay: int) -> int:
    """The step in which the loop begins to run; that in which the image enters it is step 1.

    With delay 1 the image passes the layers before the loop first, a step each. What the loop sees
    in the first step is then zero, and after it what these layers make of zeros.
    """
    return 1 - len(graph.before) if delay else 1


def needed_steps(
    graph: ConvRNNGraph, wanted: Mapping[str, Collection[int]], *, delay: int
) -> dict[str, tuple[int, ...]]:
    """The steps at which each layer of the loop must be evaluated.

    Args:
        graph: the network.
        wanted: steps after which outputs are read, by the names of layers of the loop.
        delay: 1 or 0.

    Returns:
        rising steps from :func:`first_step` on, by the names of the layers in their order.
    """
    first = first_step(graph, delay)
    names = [layer.name for layer in graph.loop]
    before = dict(zip(names[1:], names, strict=False))
    needed: dict[str, set[int]] = {name: set(wanted.get(name, ())) for name in names}
    last = max((step for steps in needed.values() for step in steps), default=first - 1)
    for step in range(last, first - 1, -1):
        for name in reversed(names):
            if step not in needed[name]:
                continue
            if name in before:
                needed[before[name]].add(step - delay)
            for source in graph.sources(name):
                needed[source.name].add(step - 1)
            if graph[name].cell:
                needed[name].add(step - 1)
    return {name: tuple(sorted(s for s in steps if s >= first)) for name, steps in needed.items()}


def steps_with_image(
    graph: ConvRNNGraph, needed: Mapping[str, Collection[int]], *, delay: int
) -> dict[str, tuple[int, ...]]:
    """Of the needed steps those in which the image has a part; the others serve all images."""
    return {
        name: tuple(step for step in steps if step >= graph.arrival(name, delay))
        for name, steps in needed.items()
    }


def run_pruned(
    cell: ConvRNNCell,
    drive: Callable[[int], Tensor],
    wanted: Mapping[str, Collection[int]],
    *,
    samples: int,
    taped: Callable[[Callable[[Results], Results]], Callable[[Results], Results]],
) -> dict[int, dict[str, Tensor]]:
    """Run a loop, no more of it than the wanted outputs need.

    Args:
        cell: the loop.
        drive: gives, for a step from :func:`first_step` on, the drive ``(N, C_drive, H, W)`` or
            ``(1, C_drive, H, W)``.
        wanted: as in :func:`needed_steps`.
        samples: N.
        taped: wraps the step as the gradient method does, say into a checkpoint.

    Returns:
        outputs ``(N, C, H, W)``, before their pooling, by step and name.
    """
    graph, delay = cell.graph, cell.delay
    needed = {name: {*steps} for name, steps in needed_steps(graph, wanted, delay=delay).items()}
    first = first_step(graph, delay)
    last = max(step for steps in wanted.values() for step in steps)
    found: dict[int, dict[str, Tensor]] = {}
    results: Results = cell.initial_layers(drive(first)[:1])
    with shared_spectra():
        for step in range(first, last + 1):
            advance = taped(_Step(cell, needed, step, drive(step), samples))
            results = advance(results)
            here = [name for name, steps in wanted.items() if step in steps]
            for name in here:
                found.setdefault(step, {})[name] = _for_all(results[name].output, samples)
    return found


class _Step:
    """One step of what is needed.

    Args:
        cell, samples: as in :func:`run_pruned`.
        needed: steps of each layer.
        step: the number of this one.
        drive: of this one.
    """

    def __init__(
        self,
        cell: ConvRNNCell,
        needed: Mapping[str, Collection[int]],
        step: int,
        drive: Tensor,
        samples: int,
    ) -> None:
        self.cell = cell
        self.step = step
        self.drive = drive
        self.samples = samples
        self.needed = [name for name, steps in needed.items() if step in steps]

    def __call__(self, before: Results) -> Results:
        """What the needed layers have after the step, of what the layers had before it."""
        cell = self.cell
        names = list(cell.layers)
        results: Results = {}
        # Several layers may read one, so what it comes to after its pooling is kept.
        of_before = _Pooled(cell, before)
        read = of_before if cell.delay else _Pooled(cell, results)
        for name in self.needed:
            place = names.index(name)
            x = self.drive
            if place:
                x = read[names[place - 1]]
            arrived = self.step >= cell.graph.arrival(name, cell.delay)
            samples = self.samples if arrived else 1
            sources = {s.name: of_before[s.name] for s in cell.graph.sources(name)}
            hidden = before[name].hidden if name in cell.cells else None
            if hidden is not None:
                hidden = _state_for_all(hidden, samples)
            results[name] = cell.advance(name, _for_all(x, samples), sources, hidden)
        return results


class _Pooled(dict[str, Tensor]):
    """What layers put out, after their pooling, computed when it is read."""

    def __init__(self, cell: ConvRNNCell, results: Results) -> None:
        super().__init__()
        self._cell = cell
        self._results = results

    def __missing__(self, name: str) -> Tensor:
        self[name] = self._cell.layer(name).pooled(self._results[name].output)
        return self[name]


def _for_all(x: Tensor, samples: int) -> Tensor:
    return x.expand(samples, *x.shape[1:])


def _state_for_all(state: State, samples: int) -> State:
    return like(tuple(_for_all(t, samples) for t in to_tensors(state)), state)
