from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rpanoptic.engine.deterministic import make_deterministic
from rpanoptic.engine.launch import run_parser, start_run
from rpanoptic.engine.run import run
from rpanoptic.engine.trainer import Trainer
from tests.engine.records import metrics
from tests.engine.tiny import TINY_CONFIG, tiny_cfg, tiny_options

ARGUMENTS = argparse.Namespace(config_file="", resume=False, eval_only=False)


@pytest.fixture(autouse=True)
def settings_of_the_process() -> Iterator[None]:
    """Puts back what a deterministic run sets for its whole process."""
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
        patch.delenv("CUBLAS_WORKSPACE_CONFIG")
        yield
    torch.use_deterministic_algorithms(before[0])
    cudnn.deterministic, cudnn.benchmark = before[1:]


def train(
    output: Path, **changes: object
) -> tuple[dict[int, dict[str, float | None]], dict[str, torch.Tensor]]:
    run(
        tiny_cfg(output, SEED=-1, RPANOPTIC__PICTURES=0, RPANOPTIC__LOG_PERIOD=1, **changes),
        ARGUMENTS,
    )
    return metrics(output), torch.load(output / "model_final.pth", weights_only=True)["model"]


def test_two_runs_are_equal_to_the_last_bit(tiny_data: Path, tmp_path: Path) -> None:
    first, second, other = (
        train(tmp_path / str(n), RPANOPTIC__DETERMINISTIC=n < 2) for n in range(3)
    )
    assert first[0] == second[0]
    assert all(torch.equal(first[1][name], value) for name, value in second[1].items())
    # Without it, SEED -1 means another seed each time.
    assert other[0] != first[0]


def test_operation_without_a_deterministic_algorithm_stops_the_training(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.run_step
    enabled = []

    def with_another_operation(trainer: Trainer) -> None:
        step(trainer)
        enabled.append(torch.are_deterministic_algorithms_enabled())
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))

    monkeypatch.setattr(Trainer, "run_step", with_another_operation)
    with pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"):
        train(tmp_path / "deterministic", RPANOPTIC__DETERMINISTIC=True)
    assert enabled == [True]


def test_settings(tmp_path: Path) -> None:
    cfg = tiny_cfg(tmp_path, SEED=-1, CUDNN_BENCHMARK=True)
    make_deterministic(cfg)
    assert cfg.SEED == 0
    assert not cfg.CUDNN_BENCHMARK
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_seed_that_is_set_stays(tmp_path: Path) -> None:
    cfg = tiny_cfg(tmp_path, SEED=7)
    make_deterministic(cfg)
    assert cfg.SEED == 7


def test_flag_of_the_command_line_sets_the_key(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr("rpanoptic.engine.launch.launch_run", lambda cfg, args: started.append(cfg))
    for flags in ([], ["--deterministic"]):
        command = ["--config-file", str(TINY_CONFIG), *flags, *tiny_options(OUTPUT_DIR=tmp_path)]
        start_run(run_parser().parse_args(command))
    assert [cfg.RPANOPTIC.DETERMINISTIC for cfg in started] == [False, True]
