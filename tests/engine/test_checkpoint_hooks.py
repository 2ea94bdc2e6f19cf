from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import TrainerBase, hooks
from torch import nn

from rpanoptic.engine.checkpoint import PanopticCheckpointer
from rpanoptic.engine.checkpoint_hooks import BestCheckpoint, RecentCheckpoints
from rpanoptic.engine.ending import Evaluation
from rpanoptic.engine.trainer import Trainer
from tests.engine.tiny import tiny_cfg

METRIC = "panoptic_seg/PQ"


class Scripted(TrainerBase):
    """A trainer whose model counts its steps, and whose evaluations are told beforehand.

    Args:
        folder: of the checkpoints, one every ``save`` iterations.
        scores: by iteration, counted from 1; an evaluation takes place at each.
        results: wraps a score as evaluators do.
    """

    def __init__(
        self,
        folder: Path,
        scores: dict[int, float],
        *,
        save: int = 1,
        kept: int = 0,
        results: Callable[[float], dict[str, Any]] = lambda score: {"panoptic_seg": {"PQ": score}},
    ) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1)
        nn.init.zeros_(self.model.weight)
        self.checkpointer = PanopticCheckpointer(
            self.model, str(folder), trainer=weakref.proxy(self)
        )
        evaluate = lambda: results(scores[self.evaluated])  # noqa: E731
        self.best = BestCheckpoint(1, self.checkpointer, METRIC)
        self.recent = RecentCheckpoints(self.checkpointer, save, kept=kept)
        self.register_hooks([self.recent, Evaluation(1, evaluate), self.best])

    @property
    def evaluated(self) -> int:
        return int(self.model.weight.item())

    def run_step(self) -> None:
        with torch.no_grad():
            self.model.weight += 1

    def run(self, until: int, *, of: int = 100, resume: bool = False) -> Scripted:
        """Train to iteration ``until`` of ``of``, and be killed there unless it is the last."""
        start = 0
        if resume:
            self.checkpointer.resume_or_load("", resume=True)
            start = self.iter + 1

        def kill(trainer: TrainerBase) -> None:
            if trainer.iter + 1 == until and until < of:
                raise KeyboardInterrupt

        self.register_hooks([hooks.CallbackHook(after_step=kill)])
        if until < of:
            with pytest.raises(KeyboardInterrupt):
                self.train(start, of)
        else:
            self.train(start, of)
        return self


def best_of(folder: Path, name: str = "model_best.pth") -> tuple[float, float, int]:
    """Weight, score and iteration (from 0) in the file of the best."""
    data = torch.load(folder / name, weights_only=True)
    assert data["iteration"] == data["best"]["iteration"]
    assert data["best"]["metric"] == METRIC
    return data["model"]["weight"].item(), data["best"]["value"], data["iteration"]


def periodic(folder: Path) -> list[int]:
    return sorted(int(file.stem[-7:]) for file in folder.glob("model_0*.pth"))


def test_best_is_kept_and_the_last_stays_the_last(tmp_path: Path) -> None:
    Scripted(tmp_path, {1: 10, 2: 30, 3: 20, 4: 30}).run(4)
    assert best_of(tmp_path) == (2.0, 30.0, 1)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"


def test_best_may_be_the_last(tmp_path: Path) -> None:
    Scripted(tmp_path, {1: 10, 2: 30, 3: 40}).run(3, of=3)
    assert best_of(tmp_path) == (3.0, 40.0, 2)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_resumed_run_starts_at_the_last_and_knows_the_best(tmp_path: Path) -> None:
    scores = {1: 10.0, 2: 30.0, 3: 20.0, 4: 25.0, 5: 35.0}
    Scripted(tmp_path, scores).run(3)
    resumed = Scripted(tmp_path, scores).run(4, resume=True)
    assert resumed.start_iter == 3
    assert resumed.evaluated == 4
    assert best_of(tmp_path) == (2.0, 30.0, 1)
    Scripted(tmp_path, scores).run(5, resume=True)
    assert best_of(tmp_path) == (5.0, 35.0, 4)


def test_resumed_run_knows_an_evaluation_that_followed_its_checkpoint(tmp_path: Path) -> None:
    scores = {1: 10.0, 2: 30.0, 3: 20.0}
    # The checkpoint of iteration 2 is written before its evaluation, which finds the best.
    Scripted(tmp_path, scores).run(2)
    Scripted(tmp_path, scores).run(3, resume=True)
    assert best_of(tmp_path) == (2.0, 30.0, 1)


def test_best_of_an_iteration_that_is_repeated_is_kept(tmp_path: Path) -> None:
    Scripted(tmp_path, {1: 10, 2: 30, 3: 40}, save=2).run(3)
    # Without its seed, say, the repeated iteration comes to something worse.
    Scripted(tmp_path, {3: 20, 4: 5}, save=2).run(4, resume=True)
    assert best_of(tmp_path) == (3.0, 40.0, 2)
    assert not (tmp_path / "model_best.1.pth").exists()


def test_best_of_an_earlier_run_does_not_count_and_is_not_lost(tmp_path: Path) -> None:
    Scripted(tmp_path, {1: 90, 2: 10}).run(2)
    Scripted(tmp_path, {1: 50}).run(1)
    assert best_of(tmp_path) == (1.0, 50.0, 0)
    assert best_of(tmp_path, "model_best.1.pth") == (1.0, 90.0, 0)


def test_resumed_run_does_not_take_the_best_of_an_earlier_one(tmp_path: Path) -> None:
    def killed(_: float) -> dict[str, Any]:
        raise KeyboardInterrupt

    Scripted(tmp_path, {1: 90}).run(1)
    # The second run has a checkpoint of the iteration that the first one's best is of, and is
    # killed before it has a best of its own.
    with pytest.raises(KeyboardInterrupt):
        Scripted(tmp_path, {1: 50}, results=killed).train(0, 100)
    Scripted(tmp_path, {2: 60, 3: 70}).run(3, resume=True)
    assert best_of(tmp_path) == (3.0, 70.0, 2)
    assert best_of(tmp_path, "model_best.1.pth") == (1.0, 90.0, 0)


def test_best_put_beside_the_checkpoint_of_another_run_does_not_count(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        Scripted(folder, {1: 90}).run(1)
    (one / "model_best.pth").replace(other / "model_best.pth")
    Scripted(other, {2: 60}).run(2, resume=True)
    assert best_of(other) == (2.0, 60.0, 1)
    assert best_of(other, "model_best.1.pth") == (1.0, 90.0, 0)
    # Nor does a value whose model is gone keep the next from being written.
    Scripted(one, {2: 60}).run(2, resume=True)
    assert best_of(one) == (2.0, 60.0, 1)


def test_best_of_another_metric_does_not_count(tmp_path: Path) -> None:
    Scripted(tmp_path, {1: 90}).run(1)
    resumed = Scripted(tmp_path, {2: 60})
    resumed.best._val_metric = "sem_seg/mIoU"
    resumed.run(2, resume=True)
    assert not (tmp_path / "model_best.pth").exists()
    assert best_of(tmp_path, "model_best.1.pth") == (1.0, 90.0, 0)


def test_last_iteration_that_fails_is_not_evaluated(tmp_path: Path) -> None:
    class Failing(Scripted):
        def run_step(self) -> None:
            super().run_step()
            if self.iter == 2:
                raise FloatingPointError("spoilt")

    evaluated = []

    def results(score: float) -> dict[str, Any]:
        evaluated.append(score)
        return {"panoptic_seg": {"PQ": score}}

    trainer = Failing(tmp_path, {1: 10, 2: 20, 3: 30}, results=results)
    with pytest.raises(FloatingPointError, match="spoilt"):
        trainer.train(0, 3)
    assert evaluated == [10, 20]
    assert best_of(tmp_path) == (2.0, 20.0, 1)
    assert not (tmp_path / "model_final.pth").exists()
    assert periodic(tmp_path) == [0, 1]


def test_half_written_checkpoints_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    stale = [f".model_{name}.pth.partial" for name in ("0000003", "final", "best")]
    others = [".model_other.pth.partial", ".notes.partial", "model_final.pth.partial"]
    for name in (*stale, *others):
        (tmp_path / name).write_text("x")
    Scripted(tmp_path, {1: 10}).run(1)
    assert sorted(file.name for file in tmp_path.glob("*.partial")) == sorted(others)


def test_what_is_not_a_number_is_not_the_best(tmp_path: Path) -> None:
    Scripted(tmp_path, {1: float("nan"), 2: 5.0, 3: float("inf")}).run(3)
    assert best_of(tmp_path) == (2.0, 5.0, 1)


def test_missing_metric_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="rpanoptic"):
        Scripted(tmp_path, {1: 1, 2: 2}, results=lambda score: {"segm": {"AP": score}}).run(2)
    told = [r for r in caplog.records if "BEST_METRIC" in r.getMessage()]
    assert [r.levelno for r in told] == [logging.INFO]
    assert METRIC in told[0].getMessage()
    assert not (tmp_path / "model_best.pth").exists()


def test_a_metric_with_a_slip_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    near = f"{METRIC}th"
    Scripted(tmp_path, {1: 1}, results=lambda score: {near.split("/")[0]: {"PQth": score}}).run(1)
    assert f"{METRIC} is not among the results" in caplog.text
    assert f"There are {near}." in caplog.text


def test_of_several_test_sets_the_one_that_counts_must_be_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def results(score: float) -> dict[str, Any]:
        return {name: {"panoptic_seg": {"PQ": score}} for name in ("day", "night")}

    Scripted(tmp_path, {1: 1}, results=results).run(1)
    assert f"There are day/{METRIC}, night/{METRIC}." in caplog.text


def test_damaged_best_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Scripted(tmp_path, {1: 10}).run(1)
    (tmp_path / "model_best.pth").write_bytes(b"cut short")
    Scripted(tmp_path, {2: 5}).run(2, resume=True)
    assert best_of(tmp_path) == (2.0, 5.0, 1)
    assert (tmp_path / "model_best.1.pth").read_bytes() == b"cut short"
    assert "does not say how good it is" in caplog.text


@pytest.mark.parametrize("kept", [0, -1])
def test_all_checkpoints_are_kept_by_default(tmp_path: Path, kept: int) -> None:
    Scripted(tmp_path, dict.fromkeys(range(1, 5), 0.0), kept=kept).run(4)
    assert periodic(tmp_path) == [0, 1, 2, 3]


def test_latest_checkpoints_are_kept(tmp_path: Path) -> None:
    Scripted(tmp_path, dict.fromkeys(range(1, 7), 0.0), save=2, kept=2).run(6, of=6)
    assert periodic(tmp_path) == [3, 5]
    assert (tmp_path / "model_final.pth").is_file()
    assert (tmp_path / "model_best.pth").is_file()


def test_resumed_run_deletes_what_it_wrote_before_and_nothing_else(tmp_path: Path) -> None:
    scores = dict.fromkeys(range(1, 20), 0.0)
    # An earlier run left checkpoints of iterations before, between and after those of this one.
    others = [tmp_path / f"model_{iteration:07d}.pth" for iteration in (0, 4, 90)]
    for file in others:
        file.write_text("of another run")
    Scripted(tmp_path, scores, save=2, kept=2).run(4)
    assert periodic(tmp_path) == [0, 1, 3, 4, 90]
    Scripted(tmp_path, scores, save=2, kept=2).run(6, resume=True)
    assert periodic(tmp_path) == [0, 3, 4, 5, 90]
    # Killed between two checkpoints, and killed at once: nothing is deleted twice.
    Scripted(tmp_path, scores, save=2, kept=2).run(7, resume=True)
    Scripted(tmp_path, scores, save=2, kept=2).run(8, resume=True)
    assert periodic(tmp_path) == [0, 4, 5, 7, 90]
    assert all(file.read_text() == "of another run" for file in others)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000007.pth"


def test_checkpoint_names_no_file_outside_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("outside.pth", "run/notes.txt", "run/model_final.pth", "run/model_0000001.pth"):
        (tmp_path / name).write_text("x")
    hook = Scripted(folder, {}, kept=1).recent
    names = ["../outside.pth", "notes.txt", "model_final.pth", str(tmp_path / "outside.pth"), 3]
    hook.load_state_dict({"recent": [*names, "model_0000001.pth", "model_0000002.pth"]})
    assert hook.recent_checkpoints == [str(folder / "model_0000001.pth")]


def test_order_of_the_hooks(tiny_data: Path, tmp_path: Path) -> None:
    def names(**changes: Any) -> list[str]:
        trainer = Trainer(tiny_cfg(tmp_path, **changes))
        return [type(hook).__name__ for hook in trainer._hooks]

    found = names(TEST__EVAL_PERIOD=1)
    wanted = ["RecentCheckpoints", "Evaluation", "BestCheckpoint", "PeriodicWriter"]
    assert [name for name in found if name in wanted] == wanted
    assert not {"PeriodicCheckpointer", "EvalHook"}.intersection(found)
    assert "BestCheckpoint" not in names()  # one evaluation, at the end, chooses nothing
    assert "BestCheckpoint" not in names(TEST__EVAL_PERIOD=1, RPANOPTIC__BEST_METRIC="")


def test_training_keeps_its_best(tiny_data: Path, tmp_path: Path) -> None:
    cfg = tiny_cfg(tmp_path, TEST__EVAL_PERIOD=1, RPANOPTIC__CHECKPOINTS_KEPT=1)
    trainer = Trainer(cfg)
    trainer.train()
    data = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert data["best"]["metric"] == METRIC
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert periodic(tmp_path) == [1]
    again = Trainer(cfg)
    again.checkpointer.resume_or_load(str(tmp_path / "model_best.pth"), resume=False, strict=True)
