"""The trainer: Detectron2's default one with our checkpoints, evaluators, optimizers and hooks."""

from __future__ import annotations

import weakref
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, create_ddp_model
from detectron2.engine.hooks import PeriodicWriter
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn
from torch.utils.data import DataLoader

from rpanoptic.data import TrainLoader, build_mapper, build_test_loader, build_train_loader
from rpanoptic.engine.check import check_penalties
from rpanoptic.engine.checkpoint import PanopticCheckpointer
from rpanoptic.engine.checkpoint_hooks import with_checkpoint_hooks
from rpanoptic.engine.cpu_norm import replace_sync_batch_norm
from rpanoptic.engine.ema import WeightAverage, ema_decay
from rpanoptic.engine.hooks import RecurrenceLogger
from rpanoptic.engine.optimizers import build_optimizer, build_schedule
from rpanoptic.engine.own_data import first_classes
from rpanoptic.engine.resume import with_resume_hooks
from rpanoptic.engine.train_step import build_train_step, check_batch
from rpanoptic.engine.writers import RecurrencePrinter
from rpanoptic.evaluation import build_evaluators
from rpanoptic.modeling.heads.void_targets import accept_void_targets
from rpanoptic.modeling.test_time_augmentation import with_test_time_augmentation
from rpanoptic.random_state import preserved_random_state


class Trainer(DefaultTrainer):
    """Trains any config: model by registry, data by name, evaluation by the dataset's type.

    It differs from :class:`detectron2.engine.DefaultTrainer` in its checkpointer, which refuses
    unsafe and unfitting files, in ``RPANOPTIC.OPTIMIZER``, in its hook for recurrent blocks,
    in the average of the weights that ``RPANOPTIC.EMA_DECAY`` asks for, in that batches may be void
    everywhere, and in that several processes may train on CPUs.

    Args:
        cfg: a config from :func:`rpanoptic.engine.setup_config`.
    """

    iter: int  # of Detectron2's class
    start_iter: int

    def __init__(self, cfg: CfgNode) -> None:
        # DefaultTrainer makes its own checkpointer, hands it to hooks and wraps the model for
        # GPUs, all inside its constructor; so its few steps are taken here instead.
        super(DefaultTrainer, self).__init__()
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        check_batch(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        check_penalties(model)
        accept_void_targets(model)
        if comm.get_world_size() > 1 and cfg.MODEL.DEVICE == "cpu":
            replace_sync_batch_norm(model)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        on_cpu = {"device_ids": None} if cfg.MODEL.DEVICE == "cpu" else {}
        model = create_ddp_model(model, broadcast_buffers=False, **on_cpu)
        self._trainer = build_train_step(cfg, model, data_loader, optimizer)
        self._average = WeightAverage(model, ema_decay(cfg))
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = PanopticCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            classes=first_classes(cfg.DATASETS.TRAIN),
            trainer=weakref.proxy(self),
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's hooks, ours in the place of some, and the log of the recurrent blocks."""
        hooks = with_checkpoint_hooks(
            super().build_hooks(),
            self.cfg,
            self.checkpointer,
            judged=self.judged,
            evaluate=self._evaluate,
        )
        hooks = [self._average, *with_resume_hooks(hooks, self.cfg)]
        period = self.cfg.RPANOPTIC.LOG_PERIOD
        for hook in hooks:
            if isinstance(hook, PeriodicWriter):
                hook._period = period  # Detectron2 always takes 20.
        if comm.is_main_process():
            # Before an evaluation, which runs the blocks too, and before the writers.
            hooks.insert(0, RecurrenceLogger(period))
        return hooks

    @property
    def judged(self) -> nn.Module:
        """The model that is evaluated, not wrapped: the one in training or the average of it."""
        return self._average.judged

    def build_writers(self) -> list[EventWriter]:
        """Detectron2's writers (terminal, JSON, TensorBoard) and a terminal line of recurrence."""
        terminal, *others = super().build_writers()
        return [terminal, RecurrencePrinter(), *others]

    def train(self) -> dict[str, Any] | None:
        """Train to the last iteration and evaluate.

        Returns:
            the evaluator's results in the main process, None in others.
        """
        super().train()
        return getattr(self, "_last_eval_results", None) if comm.is_main_process() else None

    def _evaluate(self) -> dict[str, Any]:
        # The name by which Detectron2's train() finds them.
        self._last_eval_results = self.test(self.cfg, self.judged)
        return self._last_eval_results

    def after_train(self) -> None:
        """Let the hooks finish; the iteration is then the number of those that were done.

        Where a resumed training has nothing left to do, Detectron2's loop counts one too many.
        """
        self.iter = min(self.iter, max(self.start_iter, self.max_iter))
        super().after_train()

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None
    ) -> dict[str, Any]:
        """Evaluate as Detectron2 does, in all processes the model that a checkpoint would hold.

        The random numbers of a training are the same with an evaluation or without. With
        ``TEST.AUG.ENABLED`` it is the model's answer to several views of each picture.

        Raises:
            ConfigError: see :func:`with_test_time_augmentation`.
        """
        _share_buffers(model)
        model = with_test_time_augmentation(cfg, model)
        with preserved_random_state(cfg.MODEL.DEVICE):
            return super().test(cfg, model, evaluators)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer that ``RPANOPTIC.OPTIMIZER`` names."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRMultiplier:
        """The schedule that ``SOLVER.LR_SCHEDULER_NAME`` names."""
        return build_schedule(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        """A stream of data that can be continued, with the mapper that the datasets ask for."""
        return build_train_loader(cfg, build_mapper(cfg, cfg.DATASETS.TRAIN, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        """A dataset in its order, in batches of ``RPANOPTIC.TEST_BATCH``."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluators:
        """All evaluators that the dataset's type asks for."""
        return build_evaluators(cfg, dataset_name)


def _share_buffers(model: nn.Module) -> None:
    """Give all processes the running statistics of the main one, which alone are saved.

    In training each process keeps those of its own part of the batch, without ever reading them.
    """
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
