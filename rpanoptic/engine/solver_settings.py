"""The settings of the solver that a checkpoint holds, against those of the config."""

from __future__ import annotations

import logging
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase

from rpanoptic.errors import CheckpointError

logger = logging.getLogger(__name__)

# What the states of the optimizer and of the schedule carry, so that --resume takes it from the
# checkpoint; all other settings of the solver are the config's.
CARRIED = (
    "BASE_LR",
    "BIAS_LR_FACTOR",
    "MOMENTUM",
    "NESTEROV",
    "WEIGHT_DECAY",
    "WEIGHT_DECAY_BIAS",
    "WEIGHT_DECAY_NORM",
)


class SolverSettings(HookBase):
    """Saves which optimizer a training has and with which settings, and compares on a resume.

    The state of a hook is loaded before that of the optimizer, so another optimizer is refused
    before its state could fail in a step. A checkpoint of an earlier version, which lacks the
    entry, is not compared.

    Args:
        cfg: config of the run.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self._settings: dict[str, Any] = {"optimizer": cfg.RPANOPTIC.OPTIMIZER}
        self._settings |= {key: cfg.SOLVER[key] for key in CARRIED}

    def state_dict(self) -> dict[str, Any]:
        """Name of the optimizer, and settings by key."""
        return dict(self._settings)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare with the config; what is loaded afterwards holds what the checkpoint says.

        Raises:
            CheckpointError: the checkpoint is of another optimizer.
        """
        name, kept = self._settings["optimizer"], state_dict.get("optimizer")
        if kept != name:
            raise CheckpointError(
                f"--resume: RPANOPTIC.OPTIMIZER is {name!r}, but the checkpoint holds the state of "
                f"{kept!r}. Set the same, or start a new training from the checkpoint by "
                "MODEL.WEIGHTS."
            )
        changed = [
            f"SOLVER.{key} {state_dict[key]} (now {self._settings[key]})"
            for key in CARRIED
            if key in state_dict and state_dict[key] != self._settings[key]
        ]
        if changed:
            logger.warning(
                "--resume goes on with the checkpoint's settings, not with the config's: %s. To "
                "train with others, start a new training from the checkpoint by MODEL.WEIGHTS.",
                ", ".join(changed),
            )
        self._settings |= {key: state_dict[key] for key in CARRIED if key in state_dict}
