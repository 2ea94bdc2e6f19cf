"""Running the trials of a study, one after another, with a line on each."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import optuna
from detectron2.config import CfgNode
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from rpanoptic.data.paths import write_atomically
from rpanoptic.errors import ConfigError, UserError
from rpanoptic.pathfinder.imagenet.search.parameters import suggest_all
from rpanoptic.pathfinder.imagenet.search.space import count_parameters
from rpanoptic.pathfinder.imagenet.search.storage import quiet
from rpanoptic.pathfinder.imagenet.search.study import (
    PARAMETERS,
    REASON,
    SURPLUS,
    Search,
    counted,
    ranked,
    reason_of,
)

#: Takes the number of an evaluation, from 1, and its result; says whether the training goes on.
Report = Callable[[int, float], bool]
#: Trains a config; returns the last result, or None if a report has stopped it.
Train = Callable[[CfgNode, Report], "float | None"]

logger = logging.getLogger(__name__)

# So many failures in a row are no matter of the single trial.
_FAILURES = 5
# Seconds between two looks at what other processes do.
_LOOK = 0.5
# The seed of trials whose base config has none.
_SEED = 0


class TrialFailed(UserError):
    """A trial came to no result; the search goes on."""


class _Surplus(Exception):
    """Other processes have begun the last of the trials."""


def run_search(
    study: Study,
    search: Search,
    train: Train,
    *,
    trials: int,
    folder: Path,
    timeout: float | None = None,
    patience: float = 0.0,
    say: Callable[[str], None] = logger.info,
) -> None:
    """Run trials until the study has as many as asked for, in all processes together.

    Each trial's config is one that ``tools/train_net.py`` trains: it has a ``SEED``, and an
    ``OUTPUT_DIR`` of its own, ``trial_<number>``, where it stands as ``trial.yaml``. A trial that
    fails is kept in the study, with the reason. One that is interrupted, or whose process died, is
    put into the queue again.

    Args:
        study: from :func:`open_study`, of ``search``.
        search: what it is of.
        train: trains one config; a UserError is the reason of a failed trial.
        trials: in the study, with those that are there.
        folder: for the folders of the trials.
        timeout: seconds after which no further trial is begun.
        patience: seconds that this waits at the end while trials of other processes are running:
            as long as it takes until those that have died are known to have.
        say: takes a line of text on each trial that has ended.

    Raises:
        TrialFailed: five trials in a row have failed; with the last one's reason.
    """
    end = math.inf if timeout is None else time.monotonic() + timeout
    failures = 0
    while (left := end - time.monotonic()) > 0 and _some_left(study, trials, min(patience, left)):
        trial = _run_one(study, search, train, trials=trials, folder=folder)
        if trial.user_attrs.get(SURPLUS):
            continue
        say(f"{_outcome(trial)}; {_progress(study, trials)}")
        failures = failures + 1 if trial.state == TrialState.FAIL else 0
        if failures == _FAILURES:
            raise TrialFailed(
                f"the last {failures} trials failed, so the search stops. The reason of the last: "
                f"{trial.user_attrs.get(REASON)}"
            )


def _run_one(
    study: Study, search: Search, train: Train, *, trials: int, folder: Path
) -> FrozenTrial:
    """Begin the next trial, or one that waits, and see it through."""
    ended: list[FrozenTrial] = []
    begun: list[int] = []

    def objective(trial: Trial) -> float:
        begun.append(trial.number)
        places = [other.number for other in counted(study)]
        if trial.number in places[trials:]:
            trial.set_user_attr(SURPLUS, True)
            raise _Surplus
        try:
            return _train(trial, search, train, folder)
        except TrialFailed as error:
            trial.set_user_attr(REASON, str(error))
            raise

    try:
        with quiet():
            study.optimize(
                objective,
                n_trials=1,
                catch=(TrialFailed, _Surplus),
                callbacks=[lambda _, trial: ended.append(trial)],
            )
    except KeyboardInterrupt:
        for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
            if trial.number in begun:
                with quiet():
                    RetryHeartbeatStaleTrialCallback()(study, trial)
        raise
    return ended[0]


def _train(trial: Trial, search: Search, train: Train, folder: Path) -> float:
    """Build a trial's config, write it down, train it; return its value."""
    values = suggest_all(search.parameters, trial)
    cfg = trial_config(search, values, folder / f"trial_{trial.number}")
    try:
        size = count_parameters(cfg)
    except ConfigError as error:
        raise TrialFailed(f"the network cannot be built: {error}") from error
    # One that is begun again has it from before.
    if search.max_parameters and PARAMETERS not in trial.user_attrs:
        trial.set_constraint(PARAMETERS, size - search.max_parameters)
    trial.set_user_attr(PARAMETERS, size)
    if 0 < search.max_parameters < size:
        trial.set_user_attr(REASON, f"more than {search.max_parameters:,} parameters")
        raise optuna.TrialPruned
    place = Path(cfg.OUTPUT_DIR)
    try:
        place.mkdir(parents=True, exist_ok=True)
        write_atomically(place / "trial.yaml", cfg.dump().encode())
    except OSError as error:
        reason = error.strerror or error
        raise TrialFailed(f"cannot write to the folder {place}: {reason}") from error

    def report(evaluation: int, value: float) -> bool:
        trial.report(value, evaluation)
        return not trial.should_prune()

    try:
        value = train(cfg, report)
    except UserError as error:
        raise TrialFailed(str(error)) from error
    if value is None:
        trial.set_user_attr(REASON, "behind the others")
        raise optuna.TrialPruned
    if not math.isfinite(value):
        raise TrialFailed(f"{search.metric} is {value}")
    trial.report(value, search.evaluations)
    return value


def trial_config(search: Search, values: dict[str, object], folder: Path) -> CfgNode:
    """The config of a trial's values, with a seed and a folder for its results."""
    cfg = search.space.config(search.base, values)
    cfg.OUTPUT_DIR = str(folder)
    if cfg.SEED < 0:
        cfg.SEED = _SEED
    return cfg


def _some_left(study: Study, trials: int, patience: float) -> bool:
    """Whether there is a trial to begin; waits for those that run elsewhere, and may be dead."""
    until = time.monotonic() + patience
    while True:
        with quiet():
            optuna.storages.fail_stale_trials(study)
        there = counted(study)
        if len(there) < trials:
            return True
        running = any(trial.state == TrialState.RUNNING for trial in there)
        if not running or time.monotonic() >= until:
            return False
        time.sleep(_LOOK)


def _outcome(trial: FrozenTrial) -> str:
    """What became of a trial."""
    seconds = trial.duration.total_seconds() if trial.duration else 0.0
    size = trial.user_attrs.get(PARAMETERS)
    if trial.state == TrialState.FAIL:
        return f"trial {trial.number} failed: {reason_of(trial)}"
    if trial.state == TrialState.PRUNED:
        last = trial.last_step
        reached = "" if last is None else f" at {trial.intermediate_values[last]:.2f}"
        text = f"trial {trial.number} stopped{reached}: {trial.user_attrs.get(REASON)}"
    else:
        text = f"trial {trial.number}: {trial.value:.2f}"
    return f"{text}, {size:,} parameters, {_span(seconds)}"


def _progress(study: Study, trials: int) -> str:
    """How far the study is."""
    there = counted(study)
    done = [trial for trial in there if trial.state.is_finished()]
    text = f"{len(done)} of {trials} done"
    best = ranked(study)
    if best:
        text += f", best {best[0].value:.2f} (trial {best[0].number})"
    spans = [trial.duration.total_seconds() for trial in done if trial.duration]
    if spans and len(done) < trials:
        # This process and those that are busy now.
        workers = 1 + len(there) - len(done)
        text += f", about {_span(fmean(spans) * (trials - len(done)) / workers)} left"
    return text


def _span(seconds: float) -> str:
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
