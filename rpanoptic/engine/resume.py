"""What an interrupted training needs to go on as if nothing had happened.

Detectron2's checkpoints hold the model, the optimizer, the schedule and the iteration. The hooks
here add the random states of all processes, the place in the stream of data, the scalars over
which the logs take their medians, and the settings of the optimizer. Each saves its state with
the trainer's; a checkpoint without it, as earlier versions wrote them, still loads.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm

from rpanoptic.engine.solver_settings import SolverSettings
from rpanoptic.random_state import RandomState, random_state, set_random_state

logger = logging.getLogger(__name__)

# Of Detectron2's writers: values over which a logged scalar is smoothed.
_WINDOW = 20


def with_resume_hooks(built: Sequence[HookBase | None], cfg: CfgNode) -> list[HookBase | None]:
    """Put the hooks of this module among a trainer's, in front of the first checkpoint.

    Every process gets them: all take part in collecting the random states, and all load them.

    Args:
        built: the trainer's hooks, in their order.
        cfg: config of the run.
    """
    states = RandomStates(
        torch.device(cfg.MODEL.DEVICE), periods=(cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD)
    )
    first = next(
        i
        for i, hook in enumerate(built)
        if isinstance(hook, (hooks.PeriodicCheckpointer, hooks.EvalHook))
    )
    ours = [SolverSettings(cfg), states, DataPosition(), RecentScalars()]
    return [*built[:first], *ours, *built[first:]]


class RandomStates(HookBase):
    """Keeps the random states of all processes, which the main process writes down.

    Args:
        device: of the model.
        periods: iterations between two events after which a checkpoint may be written; 0 or less
            for those that never happen.
    """

    def __init__(self, device: torch.device, periods: tuple[int, ...]) -> None:
        self._device = device
        self._periods = tuple(period for period in periods if period > 0)
        self._collected: dict[str, Any] = {}
        self._restored: RandomState | None = None
        self._loaded = False

    def before_train(self) -> None:
        """Warn if the training is resumed without its random states."""
        if self.trainer.start_iter > 0 and not self._loaded:
            logger.warning("The checkpoint holds no random states: random numbers start anew.")

    def before_step(self) -> None:
        """Set what was loaded, at the last moment: nothing else shall have drawn from it."""
        if self._restored is not None:
            set_random_state(self._restored, self._device)
            self._restored = None

    def after_step(self) -> None:
        """Collect the states if a checkpoint may follow."""
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or any(done % period == 0 for period in self._periods):
            states = comm.gather(random_state(self._device))
            self._collected = {"iteration": self.trainer.iter, "processes": states}

    def state_dict(self) -> dict[str, Any]:
        """The states by rank; nothing if they were not collected in this iteration."""
        if comm.get_world_size() == 1:
            return {
                "iteration": self.trainer.iter,
                "processes": [random_state(self._device)],
            }
        return self._collected if self._collected.get("iteration") == self.trainer.iter else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep this process's state for the first step."""
        processes = state_dict["processes"]
        rank, count = comm.get_rank(), comm.get_world_size()
        if len(processes) != count:
            logger.warning(
                "The checkpoint was written by %d processes, and there are %d: losses will not be "
                "those of an uninterrupted training.",
                len(processes),
                count,
            )
        self._loaded = True
        self._restored = processes[rank] if rank < len(processes) else None


class DataPosition(HookBase):
    """Keeps the place in the stream of data, see :class:`rpanoptic.data.TrainLoader`."""

    def __init__(self) -> None:
        self._loaded = False

    def before_train(self) -> None:
        """Warn if the training is resumed without its place in the stream."""
        if self.trainer.start_iter > 0 and not self._loaded:
            logger.warning(
                "The checkpoint does not say which data it has seen: their order starts anew."
            )

    def state_dict(self) -> dict[str, Any]:
        """Seed and place; nothing for a loader that has none."""
        loader = self.trainer.data_loader
        return loader.state_dict() if hasattr(loader, "state_dict") else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the loader continue there."""
        loader = self.trainer.data_loader
        if hasattr(loader, "load_state_dict"):
            loader.load_state_dict(state_dict)
            self._loaded = True


class RecentScalars(HookBase):
    """Keeps the scalars over which the writers take their medians.

    Without them the first lines after a resume would be medians over fewer iterations, and differ
    from those of an uninterrupted training although every loss is the same.
    """

    def __init__(self) -> None:
        self._restored: dict[str, list[list[float]]] = {}

    def before_train(self) -> None:
        """Put what was loaded into the event storage, as history: it is not written again."""
        histories = self.trainer.storage.histories()
        for name, values in self._restored.items():
            for value, iteration in values:
                histories[name].update(value, iteration)
        self._restored = {}

    def state_dict(self) -> dict[str, Any]:
        """The latest values of each scalar, with their iterations."""
        return {
            name: [
                [float(value), int(iteration)] for value, iteration in buffer.values()[-_WINDOW:]
            ]
            for name, buffer in self.trainer.storage.histories().items()
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the values until there is an event storage."""
        self._restored = state_dict
