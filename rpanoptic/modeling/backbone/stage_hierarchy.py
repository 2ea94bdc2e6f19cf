"""A hierarchy of cells with the stages of a feed-forward network between its levels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from rpanoptic.modeling.backbone.hierarchy import Hierarchy, check_names
from rpanoptic.recurrent import RecurrentCell
from rpanoptic.recurrent.cells.base import Drive
from rpanoptic.recurrent.state import State, to_tensors


class StageHierarchy(Hierarchy):
    """A hierarchy in which stages of a feed-forward network lead from each level to the next.

    One step, with the drive x of the first level, stages S and output norms N::

        h_1 <- cell_1(x, h_1)
        h_l <- cell_l(S_l(relu(N_{l-1}(output(h_{l-1})))), h_l)   l = 2 ... L, with h_{l-1} new
        h_l <- feedback_l(output(h_{l+1}), h_l)                   l = L - 1 ... 1

    The gamma-Net of Linsley et al. (ICLR 2020), inside a residual network.

    A step costs a pass through the stages. They are a part of F, so their parameters have the
    gradient of the equilibrium too. They stay where checkpoints have them: the cell borrows them
    and counts their parameters as its own, but does not save, move or list them as its modules.

    Args:
        stages: by the names of the levels that they lead to, all but the first; made of blocks
            with an attribute ``stride``, as :class:`detectron2.layers.CNNBlockBase`.
        cells, feedback: as in :class:`Hierarchy`; the drive of a cell is its stage's output.
        norms: N by the names of the levels; what is handed on, and read out at the end.

    Raises:
        ValueError: as in :class:`Hierarchy`, or a stage or norm updates or uses statistics of
            batches, which would couple the samples and change from step to step.
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        cells: Mapping[str, RecurrentCell],
        feedback: Mapping[str, RecurrentCell],
        norms: Mapping[str, nn.Module],
    ) -> None:
        super().__init__(cells, feedback)
        first, *above = cells
        check_names("stages", stages, above)
        check_names("output norms", norms, list(cells))
        for kind, modules in (("stage", stages), ("output norm of", norms)):
            for name, module in modules.items():
                if any(isinstance(part, _BatchNorm) for part in module.modules()):
                    raise ValueError(
                        f"{kind} {name} is a part of the recurrent step and must keep no "
                        "statistics of batches: use FrozenBN or GN in place of a batch norm"
                    )
        self.norms = nn.ModuleDict({name: norms[name] for name in cells})
        self._first = first
        for name in above:
            # Past nn.Module, which would make it a child, under a second name in checkpoints.
            object.__setattr__(self, name, stages[name])

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Own parameters and, unless ``recurse`` is False, those of the stages."""
        yield from super().named_parameters(prefix, recurse, remove_duplicate)
        if recurse:
            for name, stage in self._stages():
                path = f"{prefix}.{name}" if prefix else name
                yield from stage.named_parameters(path, True, remove_duplicate)

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Own buffers and, unless ``recurse`` is False, those of the stages."""
        yield from super().named_buffers(prefix, recurse, remove_duplicate)
        if recurse:
            for name, stage in self._stages():
                path = f"{prefix}.{name}" if prefix else name
                yield from stage.named_buffers(path, True, remove_duplicate)

    def _stages(self) -> Iterator[tuple[str, nn.Module]]:
        for name in self.cells:
            if name != self._first:
                yield name, self.__dict__[name]

    def forward(self, drive: Tensor, state: State) -> State:
        """Take one step; drive is ``(N, C, H, W)``, that of the first level."""
        first, *above = self._levels
        start, *rest = self.split(state)
        levels = [first(drive, start)]
        x = self._hand_on(self._first, first.output(levels[0]))
        for (name, stage), cell, level in zip(self._stages(), above, rest, strict=True):
            levels.append(cell(stage(x), level))
            x = self._hand_on(name, cell.output(levels[-1]))
        return self._sweep_down(levels)

    def _hand_on(self, name: str, output: Tensor) -> Tensor:
        return F.relu(self.norms[name](output))

    def features(self, state: State) -> dict[str, Tensor]:
        """What the levels hand on, ``relu(N_l(output(h_l)))``, by the names of the levels."""
        return {name: self._hand_on(name, x) for name, x in self.outputs(state).items()}

    def check_drive(self, drive: Drive) -> None:
        """Check that the drive is ``(N, C, H, W)``.

        Raises:
            ValueError: it is not.
        """
        RecurrentCell.check_drive(self, drive)

    def initial_state(self, drive: Tensor) -> State:
        """The first states of the levels' cells, in a row, of the sizes that the stages lead to."""
        first, *above = self._levels
        tensors = [*to_tensors(first.initial_state(drive))]
        size = list(drive.shape[2:])
        for (_, stage), cell in zip(self._stages(), above, strict=True):
            size = [-(-side // _stride(stage)) for side in size]
            shaped = drive.new_zeros(drive.shape[0], cell.drive_channels, *size)
            if _is_channels_last(drive):
                shaped = shaped.contiguous(memory_format=torch.channels_last)
            tensors += to_tensors(cell.initial_state(shaped))
        return tuple(tensors)


def _stride(stage: nn.Module) -> int:
    """By how much a residual stage shrinks its input, which it rounds up."""
    total = 1
    for block in stage.children():
        total *= cast(int, block.stride)
    return total


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
