from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import TrialState, create_trial
from PIL import Image

from rpanoptic.engine import setup_config
from rpanoptic.errors import ConfigError
from rpanoptic.pathfinder.imagenet.search.parameters import suggest_all
from rpanoptic.pathfinder.imagenet.search.report import importances, median_config, write_report
from rpanoptic.pathfinder.imagenet.search.space import SPACES, count_parameters
from rpanoptic.pathfinder.imagenet.search.study import Search, open_study
from tests.paths import CONFIGS


def synthetic(trials: int) -> tuple[Study, Search]:
    """A study whose results follow from the rate and the width alone."""
    base = setup_config(CONFIGS / "imagenet" / "digits_search.yaml", ["MODEL.DEVICE", "cpu"])
    search = Search(SPACES["reciprocal_gated"], base)
    study = open_study(InMemoryStorage(), "convrnn", search)
    draws = optuna.create_study(sampler=RandomSampler(seed=0))
    for number in range(trials):
        trial = draws.ask()
        values = suggest_all(search.parameters, trial)
        result = 90 - 300 * values["learning_rate"] - 20 * values["width"]
        given: dict[str, Any] = {"params": trial.params, "distributions": trial.distributions}
        if number % 7 == 3:
            reason = {"reason": f"out of memory: {number % 2}"}
            study.add_trial(create_trial(state=TrialState.FAIL, user_attrs=reason, **given))
        elif number % 7 == 5:
            study.add_trial(
                create_trial(
                    state=TrialState.PRUNED,
                    intermediate_values={1: 40.0},
                    user_attrs={"parameters": 10, "reason": "behind the others"},
                    **given,
                )
            )
        else:
            user_attrs = {"parameters": 1000 + number}
            study.add_trial(create_trial(value=result, user_attrs=user_attrs, **given))
    return study, search


def test_a_report(tmp_path: Path) -> None:
    study, search = synthetic(56)
    files = write_report(study, search, tmp_path, best=2, top=0.2)
    assert sorted(path.name for path in files) == sorted(p.name for p in tmp_path.iterdir())
    assert {path.name for path in files} == {
        "report.md",
        "history.png",
        "importance.png",
        *(f"{name}.{kind}" for name in ("best_1", "best_2", "median") for kind in ("yaml", "png")),
    }
    text = (tmp_path / "report.md").read_text()
    best = study.best_trial
    assert "56 trials: 40 completed, 8 stopped early, 8 failed" in text
    assert f"The best has a classification/top1 of {best.value:.2f} (trial {best.number})" in text
    assert "| out of memory: 1 | 4" in text
    assert "The median of the best 8 of 40 trials" in text
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 100

    # The files are configs as train_net takes them, of the networks that they name.
    cfg = setup_config(tmp_path / "best_1.yaml")
    assert best.params["learning_rate"] == cfg.SOLVER.BASE_LR
    assert str(tmp_path / "best_1") == cfg.OUTPUT_DIR and cfg.SEED == 0
    assert count_parameters(cfg) == count_parameters(search.space.config(search.base, best.params))
    median = setup_config(tmp_path / "median.yaml")
    assert count_parameters(median) > 0
    again = median_config(study, search, tmp_path / "median", top=0.2)
    assert median.MODEL.RECURRENT == again.MODEL.RECURRENT and median.SOLVER == again.SOLVER
    # The best have small rates and widths.
    assert median.SOLVER.BASE_LR < 0.02 and median.MODEL.RECURRENT.CONVRNN.WIDTH == 0.5


def test_importance_finds_what_matters() -> None:
    study, _ = synthetic(210)
    found = importances(study)
    assert sum(found.values()) == pytest.approx(1)
    # Of 49 parameters; both outweigh what chance gives to any other.
    assert set(list(found)[:2]) == {"learning_rate", "width"}


def test_too_few_trials_say_so(tmp_path: Path) -> None:
    study, search = synthetic(6)
    assert importances(study) == {}
    write_report(study, search, tmp_path, best=1)
    text = (tmp_path / "report.md").read_text()
    assert "Too few completed trials to tell" in text
    assert not (tmp_path / "importance.png").exists()


def test_a_study_without_results(tmp_path: Path) -> None:
    study, search = synthetic(0)
    (report,) = write_report(study, search, tmp_path)
    assert "0 trials: 0 completed" in report.read_text()
    with pytest.raises(ConfigError, match="no completed trial to take a median of"):
        median_config(study, search, tmp_path)
    long = {"reason": "iteration 0: loss is nan. Pictures: " + "digit 1, " * 60}
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs=long))
    study.ask()
    (report,) = write_report(study, search, tmp_path)
    text = report.read_text()
    assert "1 trials: 0 completed, 0 stopped early, 1 failed. 1 more is running. None has" in text
    assert "digit 1, ..." in text and max(map(len, text.splitlines())) < 200
    study, search = synthetic(1)
    with pytest.raises(ConfigError, match=r"in \(0, 1\]; got 2"):
        median_config(study, search, tmp_path, top=2)
