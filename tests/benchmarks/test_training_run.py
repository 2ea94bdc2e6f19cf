"""What counts as a finished training, and what is read from its records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rpanoptic.errors import ConfigError, UserError
from tests.benchmarks.runs import finish, runs_in


def test_a_run_with_another_config_is_no_run_of_ours(tmp_path: Path) -> None:
    (run, *_) = runs_in(tmp_path)
    finish(run)
    # What concerns the machine or the records, and keys that are younger than the run.
    longer = runs_in(tmp_path, opts=["DATALOADER.NUM_WORKERS", "3", "RPANOPTIC.PICTURES", "0"])
    assert longer[0].finished()
    text = (run.folder / "config.yaml").read_text()
    lines = [line for line in text.splitlines() if "HALT_TOL" not in line]
    assert len(lines) < len(text.splitlines())
    (run.folder / "config.yaml").write_text("\n".join(lines))
    assert run.finished()
    other = runs_in(tmp_path, opts=["SOLVER.MAX_ITER", "3", "SOLVER.BASE_LR", "0.5"])[0]
    with pytest.raises(ConfigError, match=r"baseline_1 holds a run with another config: SOLVER\."):
        other.finished()


def test_an_evaluation_before_the_end_does_not_finish_a_run(tmp_path: Path) -> None:
    (run, *_) = runs_in(tmp_path)
    finish(run, evaluated=False)
    end = run.cfg().SOLVER.MAX_ITER
    for iteration, finished in ((None, False), (end // 2 - 1, False), (end, True)):
        line = dict.fromkeys(run.metrics.values(), 40.0)
        place = {} if iteration is None else {"iteration": iteration}
        with (run.folder / "metrics.json").open("a") as file:
            file.write(f"{json.dumps(place | line)}\n")
        assert run.finished() is finished
        assert (run.evaluation() is not None) is finished


def test_minutes_are_those_of_the_iterations(tmp_path: Path) -> None:
    (run, *_) = runs_in(tmp_path)
    assert run.minutes() is None
    finish(run)
    assert run.minutes() is None
    lines = [
        {"iteration": 9, "time": 6.0},
        {"iteration": 19, "time": 100.0},
        # Interrupted and resumed: iterations 10 to 19 were done once more.
        {"iteration": 19, "time": 12.0},
        {"iteration": 19, "panoptic_seg/PQ": 50.0},
        {"iteration": 24, "time": 24.0},
    ]
    (run.folder / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    # Ten iterations of 6 s, ten of 12 s, five of 24 s.
    assert run.minutes() == pytest.approx(1 + 2 + 2)


@pytest.mark.parametrize("text", ['{"panoptic_seg/PQ": 1', "1\n"])
def test_damaged_records(tmp_path: Path, text: str) -> None:
    (run, *_) = runs_in(tmp_path)
    finish(run)
    (run.folder / "metrics.json").write_text(text)
    with pytest.raises(UserError, match=r"metrics\.json cannot be read"):
        run.finished()
    (run.folder / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"config\.yaml cannot be read"):
        run.finished()
