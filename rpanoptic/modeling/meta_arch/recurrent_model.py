"""What a meta-architecture adds for its recurrent blocks, whichever parts they stand in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

from torch import Tensor, nn

from rpanoptic.errors import DatasetError
from rpanoptic.modeling.heads.void_targets import accept_void_targets
from rpanoptic.modeling.penalty import clear_penalties, take_penalties
from rpanoptic.recurrent import Diagnostics, recurrent_blocks, steps_at_test

#: Steps for all recurrent blocks, or by their names; None keeps those of the config.
Steps: TypeAlias = "int | Mapping[str, int] | None"


class RecurrentModel(nn.Module):
    """Mixin, to stand before one of Detectron2's meta-architectures among the bases.

    In training it adds the penalties of parts that return features only to the losses; crops that
    are void everywhere have a semantic loss of 0. At inference the numbers of steps can be chosen
    by call.
    """

    #: What each picture of a training batch must bring beside "image".
    ground_truth: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        accept_void_targets(self)

    def forward(self, batched_inputs: list[dict[str, Any]], *, steps: Steps = None) -> Any:
        """As the meta-architecture's own, with the penalties of all parts, or with other steps.

        Args:
            batched_inputs: pictures as the meta-architecture takes them; at inference there may
                be none.
            steps: at inference, steps of all recurrent blocks, or of some by their names in
                :func:`rpanoptic.recurrent.recurrent_blocks`; at least 1 each. Blocks that are not
                named keep theirs.

        Returns:
            in training the losses by name, otherwise a list with an output for each picture.

        Raises:
            DatasetError: a picture lacks ground truth in training, or there is no picture.
            ValueError: ``steps`` names no block, is below 1, or is given in training; or two parts
                give losses of one name.
        """
        if not self.training:
            if not batched_inputs:
                return []
            with steps_at_test(self, steps):
                return super().forward(batched_inputs)
        self._check_steps(steps)
        self._check_ground_truth(batched_inputs)
        # What a pass that was broken off has left belongs to no loss.
        clear_penalties(self)
        try:
            losses: dict[str, Tensor] = super().forward(batched_inputs)
            for name, penalty in take_penalties(self).items():
                if name in losses:
                    raise ValueError(f"two parts of the model give a loss named {name!r}")
                losses[name] = penalty
            return losses
        finally:
            clear_penalties(self)

    def diagnostics(self) -> dict[str, Diagnostics]:
        """What the recurrent blocks did in their latest run, by name; those that ran."""
        blocks = recurrent_blocks(self)
        return {name: block.last for name, block in blocks.items() if block.last is not None}

    def _check_steps(self, steps: Steps) -> None:
        """Raise a ValueError where steps are given in training."""
        if self.training and steps is not None:
            raise ValueError("steps can be chosen at inference only; in training the config does")

    def _check_ground_truth(self, batched_inputs: list[dict[str, Any]]) -> None:
        if not batched_inputs:
            raise DatasetError("a training batch needs at least one picture; this one has none.")
        for place, picture in enumerate(batched_inputs):
            for key in self.ground_truth:
                if key not in picture:
                    name = picture.get("file_name", f"number {place} of the batch")
                    kind = type(self).__name__
                    raise DatasetError(f"picture {name}: no {key!r}, which {kind} trains on.")
