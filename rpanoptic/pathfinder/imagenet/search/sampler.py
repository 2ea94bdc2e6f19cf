"""Which values a trial gets: TPE, so seeded that a search goes on as if it had not stopped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from rpanoptic.pathfinder.imagenet.search.storage import quiet


class TrialSeededTPE(BaseSampler):
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), seeded by the trial.

    What it proposes follows from the seed, the trial's number and the trials before. So processes
    that share a study draw unlike numbers although they have one seed, and a search that was
    stopped goes on as if it had not been. All parameters that exist together are drawn together
    (``multivariate``, ``group``).

    Args:
        seed: of all trials, not negative.
        startup_trials: that are drawn at random before the first proposal.
    """

    def __init__(self, seed: int, startup_trials: int) -> None:
        self._seed = seed
        self._startup_trials = startup_trials
        self._tpe = self._seeded(0)

    def _seeded(self, number: int) -> TPESampler:
        (seed,) = np.random.SeedSequence((self._seed, number)).generate_state(1)
        with quiet():
            return TPESampler(
                seed=int(seed),
                n_startup_trials=self._startup_trials,
                multivariate=True,
                group=True,
            )

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Take the numbers of this trial."""
        self._tpe = self._seeded(trial.number)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As TPE has it."""
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As TPE has it."""
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """As TPE has it."""
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """As TPE has it."""
        self._tpe.after_trial(study, trial, state, values)
