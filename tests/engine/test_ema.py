"""The average of the weights: what it is, which file holds it, how a resume goes on with it."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import TrainerBase, hooks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rpanoptic.engine import setup_config
from rpanoptic.engine.checkpoint import PanopticCheckpointer
from rpanoptic.engine.checkpoint_hooks import BestCheckpoint, RecentCheckpoints
from rpanoptic.engine.ema import WeightAverage, ema_decay
from rpanoptic.engine.ending import Evaluation
from rpanoptic.errors import ConfigError
from rpanoptic.recurrent import unwrapped

DECAY = 0.75
METRIC = "task/score"
Weights = dict[str, Tensor]


class Small(TrainerBase):
    """A trainer of a network with running statistics, on data that follow from the iteration.

    Args:
        folder: of the checkpoints, one every two iterations.
        decay: of the average.
        evaluate: called with the model that is judged, after each iteration; returns the score.
    """

    def __init__(
        self,
        folder: Path,
        decay: float = DECAY,
        evaluate: Callable[[nn.Module], float] = lambda model: 0.0,
        *,
        wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    ) -> None:
        super().__init__()
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        self.model = wrap(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.average = WeightAverage(self.model, decay)
        self.checkpointer = PanopticCheckpointer(
            self.model, str(folder), trainer=weakref.proxy(self)
        )
        judged = self.average.judged
        results = lambda: {"task": {"score": evaluate(judged)}}  # noqa: E731
        self.register_hooks(
            [
                self.average,
                RecentCheckpoints(self.checkpointer, 2, judged=judged),
                Evaluation(1, results),
                BestCheckpoint(1, self.checkpointer, METRIC, judged=judged),
            ]
        )

    def run_step(self) -> None:
        generator = torch.Generator().manual_seed(self.iter)
        # Equal shares of one batch: as many processes as there may be see the whole of it.
        count = dist.get_world_size() if dist.is_initialized() else 1
        rank = dist.get_rank() if dist.is_initialized() else 0
        data = torch.randn(8, 3, generator=generator).chunk(count)[rank]
        self.optimizer.zero_grad()
        (self.model(data) - data.sum(dim=1, keepdim=True)).square().mean().backward()
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])

    def run(self, until: int, *, killed_after: int | None = None, resume: bool = False) -> Small:
        """Train to iteration ``until``, or as if to there and be killed earlier."""
        start = 0
        if resume:
            self.checkpointer.resume_or_load("", resume=True)
            start = self.iter + 1

        def kill(trainer: TrainerBase) -> None:
            if trainer.iter + 1 == killed_after:
                raise KeyboardInterrupt

        self.register_hooks([hooks.CallbackHook(after_step=kill)])
        if killed_after is None:
            self.train(start, until)
        else:
            with pytest.raises(KeyboardInterrupt):
                self.train(start, until)
        return self


def copied(model: nn.Module) -> Weights:
    return {name: value.clone() for name, value in unwrapped(model).state_dict().items()}


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def in_file(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / name, weights_only=True)


def test_average_of_weights_and_running_statistics(tmp_path: Path) -> None:
    trainer = Small(tmp_path)
    expected = copied(trainer.model)
    follow = hooks.CallbackHook(
        after_step=lambda trainer: expected.update(
            {
                name: DECAY * expected[name] + (1 - DECAY) * value
                for name, value in trainer.model.state_dict().items()
            }
        )
    )
    trainer.register_hooks([follow])
    trainer.run(5)
    found, trained = trainer.average.judged.state_dict(), trainer.model.state_dict()
    counter = "1.num_batches_tracked"
    assert found.pop(counter) == trained[counter] == 5
    for name, value in found.items():
        # Sums in another order, in float32.
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
        assert value.dtype == torch.float32 and not torch.equal(value, trained[name]), name


def test_evaluations_judge_the_average_and_leave_the_weights_alone(tmp_path: Path) -> None:
    def stop(model: nn.Module) -> float:
        seen.append(copied(model))
        raise RuntimeError("no disk")

    seen: list[Weights] = []
    trainer = Small(tmp_path, evaluate=stop)
    with pytest.raises(RuntimeError, match="no disk"):
        trainer.run(4)
    plain = Small(tmp_path / "plain", decay=0)
    assert plain.average.judged is plain.model
    plain.run(1)
    assert same(copied(trainer.model), copied(plain.model))
    assert not same(seen[0], copied(trainer.model))
    assert trainer.model.training


def test_which_file_holds_the_average(tmp_path: Path) -> None:
    seen: list[tuple[Weights, Weights]] = []

    def score(model: nn.Module) -> float:
        seen.append((copied(trainer.model), copied(model)))
        return {1: 10.0, 2: 5.0, 3: 30.0}.get(len(seen), 0.0)

    trainer = Small(tmp_path, evaluate=score)
    trainer.run(5)
    for name, iteration, place in (
        ("model_0000001.pth", 1, 0),
        ("model_0000003.pth", 3, 0),
        ("model_best.pth", 2, 1),
        ("model_final.pth", 4, 1),
    ):
        data = in_file(tmp_path, name)
        assert data["iteration"] == iteration
        assert same(data["model"], seen[iteration][place]), name
        both = data["trainer"]["hooks"]["WeightAverage"]
        assert same(both["training"], seen[iteration][0])
        assert same(both["average"], seen[iteration][1])
        # What is named twice is stored once.
        stored = {value.untyped_storage().data_ptr() for value in data["model"].values()}
        other = both["average" if place else "training"]
        assert stored == {value.untyped_storage().data_ptr() for value in other.values()}
    # Any tool that loads a model finds the average.
    fresh = Small(tmp_path / "fresh", decay=0)
    file = str(tmp_path / "model_final.pth")
    fresh.checkpointer.resume_or_load(file, resume=False, strict=True)
    assert same(copied(fresh.model), seen[4][1])


def test_without_decay_checkpoints_are_as_ever(tmp_path: Path) -> None:
    trainer = Small(tmp_path, decay=0).run(2)
    for name in ("model_0000001.pth", "model_final.pth"):
        data = in_file(tmp_path, name)
        assert same(data["model"], copied(trainer.model))
        assert "WeightAverage" not in data["trainer"]["hooks"]


@pytest.mark.parametrize("killed_after", [2, 3, 4], ids=["saved", "between", "saved twice"])
def test_resume_is_exact(tmp_path: Path, killed_after: int) -> None:
    whole = Small(tmp_path / "whole").run(7)
    folder = tmp_path / "parts"
    Small(folder).run(7, killed_after=killed_after)
    resumed = Small(folder).run(7, resume=True)
    assert resumed.start_iter == killed_after // 2 * 2
    assert same(copied(resumed.model), copied(whole.model))
    assert same(copied(resumed.average.judged), copied(whole.average.judged))


def test_a_longer_training_goes_on_from_the_last_of_a_shorter(tmp_path: Path) -> None:
    whole = Small(tmp_path / "whole").run(6)
    folder = tmp_path / "parts"
    first = Small(folder).run(3)
    # The file's "model" is the average, and not what is trained on.
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    assert same(in_file(folder, "model_final.pth")["model"], copied(first.average.judged))
    resumed = Small(folder).run(6, resume=True)
    assert same(copied(resumed.model), copied(whole.model))
    assert same(copied(resumed.average.judged), copied(whole.average.judged))


def test_average_may_begin_and_end_with_a_resume(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Small(tmp_path / "whole", decay=0).run(6)
    folder = tmp_path / "parts"
    Small(folder, decay=0).run(2)
    # Other tests may have set the loggers to tell more.
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    second = Small(folder).run(4, resume=True)
    assert "holds no average of the weights (RPANOPTIC.EMA_DECAY)" in caplog.text
    begun = in_file(folder, "model_0000001.pth")["model"]
    name = "0.weight"
    three, four = (Small(tmp_path / str(count), decay=0).run(count).model for count in (3, 4))
    expected = begun[name]
    for model in (three, four):
        expected = DECAY * expected + (1 - DECAY) * model.state_dict()[name]
    # Sums in another order, in float32.
    torch.testing.assert_close(
        second.average.judged.state_dict()[name], expected, rtol=1e-5, atol=1e-6
    )
    third = Small(folder, decay=0).run(6, resume=True)
    assert "the average of the weights in the checkpoint is dropped" in caplog.text
    assert same(copied(third.model), copied(whole.model))
    assert same(in_file(folder, "model_final.pth")["model"], copied(whole.model))


def test_a_new_training_starts_with_the_weights_that_it_is_given(tmp_path: Path) -> None:
    trainer = Small(tmp_path / "first").run(3)
    second = Small(tmp_path / "second")
    second.checkpointer.resume_or_load(
        str(tmp_path / "first" / "model_final.pth"), resume=False, strict=True
    )
    second.average.trainer = second
    second.start_iter = 0
    second.average.before_train()
    assert same(copied(second.average.judged), copied(trainer.average.judged))


def make_cfg(*options: object) -> Any:
    return setup_config(None, [str(option) for option in options])


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0, float("nan")])
def test_impossible_decay(decay: float) -> None:
    cfg = make_cfg()
    cfg.RPANOPTIC.EMA_DECAY = decay
    with pytest.raises(ConfigError, match=r"RPANOPTIC\.EMA_DECAY is .*above 0 and below 1"):
        ema_decay(cfg)


def test_decay() -> None:
    assert ema_decay(make_cfg()) == 0
    assert ema_decay(make_cfg("RPANOPTIC.EMA_DECAY", 0.999)) == 0.999
    precise = ("TEST.PRECISE_BN.ENABLED", True)
    assert ema_decay(make_cfg(*precise)) == 0
    with pytest.raises(ConfigError, match=r"TEST\.PRECISE_BN\.ENABLED.*RPANOPTIC\.EMA_DECAY"):
        ema_decay(make_cfg(*precise, "RPANOPTIC.EMA_DECAY", 0.999))


def train_a_share(rank: int, folder: Path) -> None:
    """One of two processes."""
    meeting = (folder / "meeting").as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    wrap = lambda model: DistributedDataParallel(model, broadcast_buffers=False)  # noqa: E731
    trainer = Small(folder / "run", wrap=wrap).run(4)
    torch.save(trainer.average.judged.state_dict(), folder / f"{rank}.pth")
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_have_one_average(tmp_path: Path) -> None:
    # Forked: a process that begins anew imports for seconds.
    mp.start_processes(train_a_share, args=(tmp_path,), nprocs=2, start_method="fork")
    first, second = (in_file(tmp_path, f"{rank}.pth") for rank in range(2))
    parameters = [name for name in first if "running" not in name]
    assert all(torch.equal(first[name], second[name]) for name in parameters)
    # Running statistics are those of the main process.
    assert same(in_file(tmp_path / "run", "model_final.pth")["model"], first)
