"""How the penalties of recurrent parts that return no losses reach the losses of the model."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn


class PenaltySource:
    """A part of a model, such as a backbone, that can return features only.

    It keeps the penalties of its latest pass under the names that they have among the losses, and
    the meta-architecture takes them after the pass.
    """

    # Never changed in place, so that no two parts share it.
    _penalties: Mapping[str, Tensor] = MappingProxyType({})

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle holds: no penalties, whose graphs cannot be copied."""
        return {name: value for name, value in self.__dict__.items() if name != "_penalties"}

    def put_penalty(self, name: str, penalty: Tensor | None) -> None:
        """Keep a penalty until it is taken.

        Args:
            name: its key among the losses, such as "loss_lipschitz_fpn". Several under one name,
                those of the levels of a pyramid, are added.
            penalty: a weighted scalar with its graph; None, where the block has none, is ignored.
        """
        if penalty is not None:
            before = self._penalties.get(name)
            total = penalty if before is None else before + penalty
            self._penalties = {**self._penalties, name: total}

    def clear_penalties(self) -> None:
        """Forget what was not taken: it belongs to an earlier pass."""
        self._penalties = {}

    def take_penalties(self) -> dict[str, Tensor]:
        """The penalties of the latest pass by name; each is given once."""
        taken, self._penalties = self._penalties, {}
        return dict(taken)


def clear_penalties(model: nn.Module) -> None:
    """Forget the penalties of all parts of a model, and with them their graphs."""
    for module in model.modules():
        if isinstance(module, PenaltySource):
            module.clear_penalties()


def take_penalties(model: nn.Module) -> dict[str, Tensor]:
    """The penalties of all parts of a model, by their names among the losses.

    Raises:
        ValueError: two parts use one name.
    """
    taken: dict[str, Tensor] = {}
    for module in model.modules():
        if isinstance(module, PenaltySource):
            for name, penalty in module.take_penalties().items():
                if name in taken:
                    raise ValueError(f"two parts of the model have a penalty named {name!r}")
                taken[name] = penalty
    return taken
