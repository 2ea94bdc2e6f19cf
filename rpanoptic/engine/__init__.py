"""Training, checkpoints, evaluation runs: what the command lines call."""

import rpanoptic.pathfinder  # noqa: F401  (registers models and datasets that configs name)
from rpanoptic.engine.check import check_output_dir, check_process_count, check_run
from rpanoptic.engine.checkpoint import PanopticCheckpointer
from rpanoptic.engine.optimizers import OPTIMIZERS, build_optimizer
from rpanoptic.engine.predictor import Predictor
from rpanoptic.engine.setup import setup_config
from rpanoptic.engine.trainer import Trainer

__all__ = [
    "OPTIMIZERS",
    "PanopticCheckpointer",
    "Predictor",
    "Trainer",
    "build_optimizer",
    "check_output_dir",
    "check_process_count",
    "check_run",
    "setup_config",
]
