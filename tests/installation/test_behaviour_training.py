"""Checkpoints, schedules, processes and loaders of the mended Detectron2."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.installation import gloo_worker
from tests.installation.behaviour import needs_our_detectron2

needs_our_detectron2()

import torch  # noqa: E402
from detectron2.config import CfgNode, get_cfg  # noqa: E402
from detectron2.data import build_detection_train_loader  # noqa: E402
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, hooks, launch  # noqa: E402
from detectron2.solver import LRMultiplier, LRScheduler, build_lr_scheduler  # noqa: E402


class Line(torch.nn.Module):
    """A line through points, as the smallest model that a trainer accepts."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)
        torch.nn.init.ones_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.linear(x) - 3 * x).square().mean()}


class LineTrainer(DefaultTrainer):
    """Trains :class:`Line` on the same two points at each step."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        return Line()

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> list[torch.Tensor]:
        return [torch.tensor([[1.0], [2.0]])] * 10

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> list[torch.Tensor]:
        return []

    def build_writers(self) -> list:
        return []


def config(folder: Path, iterations: int) -> CfgNode:
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder)
    cfg.MODEL.DEVICE = "cpu"
    cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM = 0.01, 0.9
    cfg.SOLVER.WARMUP_ITERS = 2
    cfg.SOLVER.STEPS = (4,)
    cfg.SOLVER.MAX_ITER = iterations
    cfg.SOLVER.CHECKPOINT_PERIOD = 3
    return cfg


def weights(trainer: DefaultTrainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters()]


def test_resumed_run_equals_one_that_went_through(tmp_path: Path):
    through = LineTrainer(config(tmp_path, 6))
    through.train()

    broken = LineTrainer(config(tmp_path, 6))  # another process, after a crash
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    broken.resume_or_load(resume=True)
    assert broken.start_iter == 3
    momentum = [state["momentum_buffer"] for state in broken._trainer.optimizer.state.values()]
    assert len(momentum) == 2 and all(buffer.abs().sum() > 0 for buffer in momentum)
    broken.train()
    # The same operations on the same numbers: equal to the last bit.
    assert all(torch.equal(a, b) for a, b in zip(weights(through), weights(broken), strict=True))


def test_checkpoint_holds_all_states(tmp_path: Path):
    trainer = LineTrainer(config(tmp_path, 3))
    trainer.train()
    # Readable without unpickling arbitrary objects.
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert saved["trainer"]["_trainer"]["optimizer"]["state"][0]["momentum_buffer"].abs() > 0
    assert saved["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == 3
    assert saved["trainer"]["_trainer"]["iteration"] == 2


@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_a_missing_evaluator_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    cfg = config(tmp_path, 3)
    cfg.DATASETS.TEST = ("none",)
    with caplog.at_level(logging.WARNING):
        assert not LineTrainer.test(cfg, Line())
    assert "No evaluator found" in caplog.text


def test_checkpoint_of_unmended_v06_loads_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    trainer = LineTrainer(config(tmp_path, 3))
    state = trainer.state_dict()
    del state["_trainer"]
    with caplog.at_level(logging.WARNING):
        trainer.load_state_dict(state)
    assert "no optimizer state" in caplog.text


def test_scaler_state_is_in_the_checkpoint(tmp_path: Path):
    cfg = config(tmp_path, 3)
    cfg.SOLVER.AMP.ENABLED = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no GPU: the scaler is off
        trainer = LineTrainer(cfg)
    assert isinstance(trainer._trainer, AMPTrainer)
    assert "grad_scaler" in trainer.state_dict()["_trainer"]


@pytest.mark.filterwarnings("error::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")  # no GPU: the scaler is off
def test_precision_of_mixed_precision():
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert AMPTrainer(model, [], optimizer).precision is torch.float16
    assert AMPTrainer(model, [], optimizer, precision=torch.bfloat16).precision is torch.bfloat16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="mixed precision needs a GPU")
@pytest.mark.filterwarnings("error::FutureWarning")
def test_mixed_precision_runs_in_the_given_precision():
    seen = []

    class Watched(Line):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            seen.append(self.linear(x).dtype)
            return super().forward(x)

    model = Watched().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = [torch.ones(2, 1, device="cuda")] * 2
    AMPTrainer(model, data, optimizer, precision=torch.bfloat16).train(0, 2)
    assert seen == [torch.bfloat16] * 2


def test_state_of_pytorchs_own_schedule_is_kept():
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
    hook = hooks.LRScheduler(optimizer, schedule)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    state = hook.state_dict()
    assert state["last_epoch"] == 3

    fresh = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=1.0)
    other = hooks.LRScheduler(fresh, torch.optim.lr_scheduler.StepLR(fresh, 2, gamma=0.1))
    other.load_state_dict(state)
    assert other.scheduler.last_epoch == 3
    assert issubclass(LRMultiplier, LRScheduler)
    assert build_lr_scheduler.__annotations__["return"] is LRScheduler


def test_two_processes_on_the_cpu(tmp_path: Path):
    launch(gloo_worker.work, 2, dist_url="auto", args=(str(tmp_path),))
    answers = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [answer["gathered"] for answer in answers] == [["x", "xx"]] * 2
    assert [answer["first"] for answer in answers] == [[{"rank": 0}, {"rank": 1}], []]
    assert [answer["local"] for answer in answers] == [[0, 2], [1, 2]]
    assert [answer["gradient"] for answer in answers] == [3.0, 3.0]  # the mean of 2 and 4
    if not torch.cuda.is_available():
        assert {answer["backend"] for answer in answers} == {"gloo"}


class CountingLoader:
    """Counts how often it is started."""

    starts = 0

    def __iter__(self):
        self.starts += 1
        return iter([torch.ones(1, 1)] * 3)


def test_loader_starts_with_the_first_step():
    model, loader = Line(), CountingLoader()
    trainer = SimpleTrainer(model, loader, torch.optim.SGD(model.parameters(), lr=0.1))
    assert loader.starts == 0
    trainer.train(0, 3)
    assert loader.starts == 1
    trainer._data_loader_iter = iter([])  # a trainer's subclass may set it
    with pytest.raises(StopIteration):
        next(trainer._data_loader_iter)


def first_batches(workers: int, seed: int | None) -> list:
    loader = build_detection_train_loader(
        list(range(100)),
        mapper=lambda i: (i, torch.rand(()).item()),
        total_batch_size=4,
        aspect_ratio_grouping=False,
        num_workers=workers,
        seed=seed,
    )
    batches = iter(loader)
    return [next(batches) for _ in range(3)]


def test_seed_reaches_the_loader():
    np.random.seed(1)
    torch.manual_seed(1)
    one, two, other = (first_batches(1, seed) for seed in (7, 7, 8))
    assert one == two  # the order, and the random numbers that a worker draws
    assert one != other


def test_seed_reaches_the_sampler_of_a_config(tmp_path: Path):
    cfg = config(tmp_path, 3)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
    cfg.SOLVER.IMS_PER_BATCH = 10
    for sampler in ("TrainingSampler", "RandomSubsetTrainingSampler"):
        cfg.DATALOADER.SAMPLER_TRAIN = sampler
        orders = []
        for state in (1, 2):
            np.random.seed(state)
            loader = build_detection_train_loader(
                cfg, dataset=list(range(100)), mapper=lambda i: i, seed=5
            )
            orders.append(next(iter(loader)))
        assert orders[0] == orders[1]
