"""Cells of several levels and gated feedback between them, as one cell with one equilibrium."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, cast

from detectron2.config import CfgNode
from torch import Tensor, nn

from rpanoptic.errors import naming
from rpanoptic.modeling.build import check_keeps_size
from rpanoptic.recurrent import RecurrentCell, build_cell
from rpanoptic.recurrent.cells.base import Drive
from rpanoptic.recurrent.state import State, to_tensors


class Hierarchy(RecurrentCell):
    """Levels of a pyramid, each with a cell, that the level above acts on.

    One step, with the drives x and the states h of levels 1 (fine) to L (coarse)::

        h_l <- cell_l(x_l, h_l)                 l = 1 ... L
        h_l <- feedback_l(output(h_{l+1}), h_l) l = L - 1 ... 1, with the h_{l+1} just found

    So activity passes from the top to the bottom within a step. Its state is the tensors of all
    levels in a row, fine to coarse; its drive a tensor a level. Feedback acts on the first tensor
    of a level's state (the only one of most cells).

    Args:
        cells: by the names of their levels, fine to coarse.
        feedback: cells as :class:`rpanoptic.recurrent.cells.TopDown`, by the name of the level
            that each acts on: all levels but the coarsest.

    Raises:
        ValueError: a level lacks a cell or feedback, or has one of other channels or of a state
            that differs from its drive in size.
    """

    def __init__(
        self, cells: Mapping[str, RecurrentCell], feedback: Mapping[str, RecurrentCell]
    ) -> None:
        if not cells:
            raise ValueError("a hierarchy needs a cell for at least one level")
        names = list(cells)
        first = cells[names[0]]
        super().__init__(first.channels, first.drive_channels)
        check_names("feedback", feedback, names[:-1])
        for name, above in pairwise(names):
            wanted = (cells[name].channels, cells[above].channels)
            given = (feedback[name].channels, feedback[name].drive_channels)
            if given != wanted:
                raise ValueError(
                    f"the feedback to {name} must have {wanted[0]} channels and a drive of "
                    f"{wanted[1]}; got {given[0]} and {given[1]}"
                )
        for name, cell in cells.items():
            check_keeps_size(f"level {name}", cell)
        self.cells = nn.ModuleDict(cells)
        self.feedback = nn.ModuleDict({name: feedback[name] for name in names[:-1]})
        self.state_tensors = sum(cell.state_tensors for cell in cells.values())

    def forward(self, drive: Any, state: State) -> State:
        """Take one step.

        Args:
            drive: tensors ``(N, C_l, H_l, W_l)``, each half the size of the one before it, give
                or take a pixel.
            state: as :meth:`initial_state` makes it.
        """
        return self._sweep_down(
            [
                cell(x, level)
                for cell, x, level in zip(self._levels, drive, self.split(state), strict=True)
            ]
        )

    def _sweep_down(self, levels: list[State]) -> State:
        """The gated feedback, from the top level to the bottom one."""
        names = list(self.cells)
        for index in reversed(range(len(levels) - 1)):
            above = self._levels[index + 1].output(levels[index + 1])
            target, *rest = to_tensors(levels[index])
            target = self.feedback[names[index]](above, target)
            levels[index] = (target, *rest) if rest else target
        return tuple(tensor for level in levels for tensor in to_tensors(level))

    @property
    def _levels(self) -> list[RecurrentCell]:
        return [cast(RecurrentCell, cell) for cell in self.cells.values()]

    def split(self, state: State) -> list[State]:
        """The states of the levels, each in the form of its cell, fine to coarse."""
        rest, levels = to_tensors(state), []
        for cell in self._levels:
            level, rest = rest[: cell.state_tensors], rest[cell.state_tensors :]
            levels.append(level if cell.state_tensors > 1 else level[0])
        return levels

    def outputs(self, state: State) -> dict[str, Tensor]:
        """What the levels' cells read out, ``(N, C_l, H_l, W_l)``, by the names of the levels."""
        levels = zip(self.cells, self._levels, self.split(state), strict=True)
        return {name: cell.output(level) for name, cell, level in levels}

    def output(self, state: State) -> Tensor:
        """What the finest level's cell reads out; :meth:`outputs` has all levels."""
        return self._levels[0].output(self.split(state)[0])

    def check_drive(self, drive: Drive) -> None:
        """Check that there is a drive for each level, ``(N, C_l, H_l, W_l)``.

        Raises:
            ValueError: there is not.
        """
        given = len(drive) if isinstance(drive, tuple) else "a single one"
        if given != len(self.cells):
            raise ValueError(f"drive must be a tuple of {len(self.cells)} tensors; got {given}")
        for name, cell, level_drive in zip(self.cells, self._levels, drive, strict=True):
            try:
                cell.check_drive(level_drive)
            except ValueError as error:
                raise ValueError(f"level {name}: {error}") from error

    def initial_state(self, drive: Any) -> State:
        """The first states of the levels' cells, in a row."""
        pairs = zip(self._levels, drive, strict=True)
        return tuple(t for cell, x in pairs for t in to_tensors(cell.initial_state(x)))


def check_names(what: str, given: Mapping[str, Any], wanted: list[str]) -> None:
    """Raise a ValueError unless a mapping has exactly the wanted keys."""
    if set(given) != set(wanted):
        raise ValueError(f"{what} must be given for {wanted}; got {list(given)}")


def build_feedback(
    node: CfgNode, cells: Mapping[str, RecurrentCell], kernel_size: int, *, key: str
) -> dict[str, RecurrentCell]:
    """The gated top-down cells between levels, by the level that each acts on.

    Args:
        node: node of the recurrent block; norm, gate biases and steps are taken from it.
        cells: by the names of their levels, fine to coarse.
        kernel_size: side of the top-down cells' spatial kernels, odd.
        key: the config key that the kernel size comes from, for messages.

    Raises:
        ConfigError: an impossible value.
    """
    options: dict[str, Any] = {"bias_init": node.BIAS_INIT, "max_steps": node.STEPS}
    if node.NORM != "default":
        options["norm"] = node.NORM
    names = list(cells)
    with naming(key):
        return {
            name: build_cell(
                "top_down",
                cells[name].channels,
                drive_channels=cells[above].channels,
                kernel_size=kernel_size,
                **options,
            )
            for name, above in pairwise(names)
        }
