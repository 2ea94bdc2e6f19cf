from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from detectron2.config import CfgNode
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from rpanoptic.errors import UserError
from rpanoptic.pathfinder.imagenet.search.run import Report, TrialFailed
from rpanoptic.pathfinder.imagenet.search.study import counted, ranked
from tests.pathfinder.imagenet.search.fakes import (
    begin,
    fake_search,
    fake_size,
    fake_train,
    go_on,
    quality,
    small_config,
)

pytestmark = pytest.mark.usefixtures("fakes")


def test_a_study_finds_the_better_part_of_the_space(tmp_path: Path) -> None:
    search = fake_search()
    study = begin(InMemoryStorage(), search, seed=1, startup_trials=8)
    lines = go_on(study, search, 30, tmp_path)
    # Of 30 random rates over four decades the median is one decade off, which costs 20; TPE comes
    # within a third of a decade.
    best = ranked(study)[0]
    assert best.value is not None and best.value > 93
    assert len(lines) == 30
    assert lines[0].startswith("trial 0: ") and "1 of 30 done, best" in lines[0]
    assert lines[-1].endswith(f"30 of 30 done, best {best.value:.2f} (trial {best.number})")


def test_a_trial_is_a_config_that_can_be_trained_alone(tmp_path: Path) -> None:
    search = fake_search()
    study = begin(InMemoryStorage(), search)
    go_on(study, search, 2, tmp_path / "out")
    for trial in study.trials:
        cfg = small_config()
        file = tmp_path / "out" / f"trial_{trial.number}" / "trial.yaml"
        cfg.merge_from_other_cfg(CfgNode.load_cfg(file.read_text()))
        assert quality(cfg) == trial.value
        assert cfg.SEED == 0 and cfg.OUTPUT_DIR.endswith(f"trial_{trial.number}")
        assert trial.user_attrs["parameters"] == fake_size(cfg)


def test_it_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    search = fake_search()
    whole = begin(InMemoryStorage(), search, seed=3, startup_trials=4)
    go_on(whole, search, 12, tmp_path)
    storage = InMemoryStorage()
    for trials in (5, 9, 12):
        parts = begin(storage, search, seed=3, startup_trials=4)
        go_on(parts, search, trials, tmp_path)
        assert len(parts.trials) == trials
    assert [t.params for t in parts.trials] == [t.params for t in whole.trials]
    assert go_on(parts, search, 12, tmp_path) == []
    other = begin(InMemoryStorage(), search, seed=4, startup_trials=4)
    go_on(other, search, 1, tmp_path)
    assert other.trials[0].params != whole.trials[0].params


@pytest.mark.parametrize("pruner", ["hyperband", "median"])
def test_bad_trials_are_stopped_early(tmp_path: Path, pruner: str) -> None:
    search = fake_search()
    study = begin(InMemoryStorage(), search, seed=0, pruner=pruner)
    lines = go_on(study, search, 24, tmp_path)
    stopped = [t for t in study.trials if t.state == TrialState.PRUNED]
    done = ranked(study)
    assert len(stopped) >= 4 and len(done) >= 4
    assert all(1 <= t.last_step < 9 for t in stopped if t.last_step is not None)
    # What is stopped would have been worse than what is kept, on the whole.
    reached = [max(t.intermediate_values.values()) * 9 / (t.last_step or 1) for t in stopped]
    values = [t.value for t in done if t.value is not None]
    assert sum(reached) / len(reached) < sum(values) / len(values)
    assert sum("stopped at" in line and "behind the others" in line for line in lines) == len(
        stopped
    )


def test_failures_are_kept_with_their_reason(tmp_path: Path) -> None:
    def train(cfg: CfgNode, report: Report) -> float:
        if cfg.OUTPUT_DIR.endswith("_1"):
            raise UserError("loss is nan in iteration 7")
        return math.nan if cfg.OUTPUT_DIR.endswith("_2") else 1.0

    search = fake_search()
    study = begin(InMemoryStorage(), search)
    lines = go_on(study, search, 4, tmp_path, train=train)
    done, failed, nan, last = study.trials
    assert done.state == last.state == TrialState.COMPLETE
    assert failed.state == nan.state == TrialState.FAIL
    assert failed.user_attrs["reason"] == "loss is nan in iteration 7"
    assert nan.user_attrs["reason"] == "classification/top1 is nan"
    assert lines[1].startswith("trial 1 failed: loss is nan in iteration 7; 2 of 4 done")


def test_failing_always_ends_the_search(tmp_path: Path) -> None:
    def train(cfg: CfgNode, report: Report) -> float:
        raise UserError("the disk is full")

    search = fake_search()
    study = begin(InMemoryStorage(), search)
    with pytest.raises(TrialFailed, match=r"the last 5 trials failed.*the disk is full"):
        go_on(study, search, 20, tmp_path, train=train)
    assert len(study.trials) == 5


def test_an_error_of_ours_is_no_failed_trial(tmp_path: Path) -> None:
    def train(cfg: CfgNode, report: Report) -> float:
        raise ZeroDivisionError

    search = fake_search()
    study = begin(InMemoryStorage(), search)
    with pytest.raises(ZeroDivisionError):
        go_on(study, search, 2, tmp_path, train=train)


def test_networks_above_the_limit_are_not_trained(tmp_path: Path) -> None:
    trained: list[int] = []

    def train(cfg: CfgNode, report: Report) -> float | None:
        trained.append(fake_size(cfg))
        return fake_train(cfg, report)

    search = fake_search(max_parameters=500)
    study = begin(InMemoryStorage(), search)
    lines = go_on(study, search, 12, tmp_path, train=train)
    large = [t for t in study.trials if t.user_attrs["parameters"] > 500]
    assert large and all(t.state == TrialState.PRUNED for t in large)
    assert trained and max(trained) <= 500 and len(trained) + len(large) == 12
    assert all(t.constraints["parameters"] > 0 for t in large)
    assert any("more than 500 parameters" in line for line in lines)
    assert not {t.number for t in ranked(study)} & {t.number for t in large}


def test_an_interrupted_trial_is_repeated(tmp_path: Path) -> None:
    def train(cfg: CfgNode, report: Report) -> float | None:
        if cfg.OUTPUT_DIR.endswith("_1"):
            raise KeyboardInterrupt
        return fake_train(cfg, report)

    search = fake_search(max_parameters=900)
    storage = InMemoryStorage()
    study = begin(storage, search)
    with pytest.raises(KeyboardInterrupt):
        go_on(study, search, 3, tmp_path, train=train)
    assert [t.number for t in counted(study)] == [0]
    study = begin(storage, search)
    go_on(study, search, 3, tmp_path)
    assert study.trials[2].params == study.trials[1].params
    assert [t.number for t in counted(study)] == [0, 2, 3]


def test_timeout_begins_no_further_trial(tmp_path: Path) -> None:
    search = fake_search()
    study = begin(InMemoryStorage(), search)
    assert go_on(study, search, 5, tmp_path, timeout=0.0) == []


def _work(file: Path, folder: Path, trials: int, pause: float, heartbeat: int = 60) -> None:
    """A process that shares a study."""

    def train(cfg: CfgNode, report: Report) -> float | None:
        time.sleep(pause)
        return fake_train(cfg, report)

    search = fake_search()
    study = begin(file, search, heartbeat=heartbeat)
    go_on(study, search, trials, folder, train=train)


def test_two_processes_share_a_study(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    file = tmp_path / "study.db"
    workers = [
        context.Process(target=_work, args=(file, tmp_path / str(n), 6, 0.05)) for n in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    study = begin(file, fake_search())
    there = counted(study)
    assert len(there) == 6 and all(t.state == TrialState.COMPLETE for t in there)
    # Of one seed, and yet no value twice.
    assert len({t.params["rate"] for t in there}) == 6
    shares = [len(list((tmp_path / str(n)).glob("trial_*"))) for n in range(2)]
    assert sum(shares) == 6 and min(shares) > 0


def test_the_trial_of_a_killed_process_is_repeated(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    file, search = tmp_path / "study.db", fake_search()
    # Made here: the process may be killed at any time.
    study = begin(file, search, heartbeat=1)
    worker = context.Process(target=_work, args=(file, tmp_path, 2, 60.0, 1))
    worker.start()
    while not (trials := study.trials) or "parameters" not in trials[0].user_attrs:
        time.sleep(0.05)
        assert worker.is_alive()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()

    go_on(study, search, 2, tmp_path, patience=10.0)
    dead, *others = study.trials
    assert dead.state == TrialState.FAIL and len(others) == 2
    assert any(trial.params == dead.params for trial in others)
    assert [t.state for t in counted(study)] == [TrialState.COMPLETE] * 2
