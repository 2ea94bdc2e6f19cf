"""A study: all trials of one search, in a database, with what the search is of."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import optuna
from detectron2.config import CfgNode, get_cfg
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from rpanoptic.config import add_rpanoptic_config
from rpanoptic.errors import ConfigError, listed, naming
from rpanoptic.pathfinder.imagenet.search.parameters import Parameter
from rpanoptic.pathfinder.imagenet.search.sampler import TrialSeededTPE
from rpanoptic.pathfinder.imagenet.search.space import Space, find_space

PRUNERS = ("hyperband", "median", "none")
# What may differ between the machines that share a study.
_OF_MACHINES = ("OUTPUT_DIR", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS", "CUDNN_BENCHMARK")
_ATTRIBUTE = "rpanoptic:search"
# User attributes of trials.
PARAMETERS, REASON, SURPLUS = "parameters", "reason", "surplus"
_LISTED = 8
# Characters of a reason that are shown.
_REASON = 160
# Trials that end early under "median" are at least as many as these, and so are those before it.
_MEDIAN_STARTUP = 5


@dataclass(frozen=True)
class Search:
    """What a study is of.

    Attributes:
        space: what is varied.
        base: the config that is changed; data, training and size of the networks are its.
        max_parameters: trials of larger networks are not trained; 0: any size.
    """

    space: Space
    base: CfgNode
    max_parameters: int = 0

    @property
    def metric(self) -> str:
        """The result that is to be large, ``RPANOPTIC.BEST_METRIC``."""
        return self.base.RPANOPTIC.BEST_METRIC

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Of the space, for this base config."""
        return self.space.parameters(self.base)

    @property
    def evaluations(self) -> int:
        """Evaluations in a training that is not stopped early, the last one included."""
        period, iterations = self.base.TEST.EVAL_PERIOD, self.base.SOLVER.MAX_ITER
        return -(-iterations // period) if period > 0 else 1

    def check(self) -> None:
        """Check what every trial needs, before there is a study.

        Raises:
            ConfigError: the base config names no result, or has nothing that the space varies.
        """
        if not self.metric:
            raise ConfigError("RPANOPTIC.BEST_METRIC is empty: it names the result of a trial")
        with naming(f"space {self.space.name!r}"):
            self.space.parameters(self.base)

    def described(self) -> dict[str, Any]:
        """All that makes it this search and no other, as JSON has it."""
        base = self.base.clone()
        base.defrost()
        for key, value in _flat(default_config()):
            if key in _OF_MACHINES:
                base.merge_from_list([key, value])
        return {
            "space": self.space.name,
            "parameters": self.space.described(self.base),
            "max_parameters": self.max_parameters,
            "config": base.dump(),
        }

    @classmethod
    def of(cls, study: Study) -> Search:
        """The search that a study was made for.

        Raises:
            ConfigError: the study is none of this kind, or of a space as this version does not
                have it.
        """
        stored = _stored(study)
        base = default_config()
        try:
            base.merge_from_other_cfg(CfgNode.load_cfg(stored["config"]))
            found = cls(find_space(stored["space"]), base, stored["max_parameters"])
        except (KeyError, ValueError, AssertionError, TypeError) as error:
            raise ConfigError(
                f"study {study.study_name!r} was made by another version of this package: {error}"
            ) from error
        check_same(study, found)
        return found


def default_config() -> CfgNode:
    """The config that every config starts from."""
    cfg = get_cfg()
    add_rpanoptic_config(cfg)
    return cfg


def open_study(
    storage: BaseStorage,
    name: str,
    search: Search,
    *,
    seed: int = 0,
    startup_trials: int = 20,
    pruner: str = "hyperband",
) -> Study:
    """Open the study of a search, or begin it.

    Args:
        storage: where it is kept, see :func:`~.storage.open_storage`.
        name: of the study.
        search: what it is of.
        seed, startup_trials: see :class:`TrialSeededTPE`.
        pruner: what stops bad trials early, by their results at the evaluations (``TEST.
            EVAL_PERIOD``): "hyperband" (successive halving, by a factor of 3, in brackets of a
            different patience; the sampler then learns within a bracket, so it needs many trials),
            "median" (below the median of the earlier trials at this evaluation) or "none".

    Raises:
        ConfigError: the study was made for another space or config; what differs is named.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        load_if_exists=True,
        sampler=TrialSeededTPE(seed, startup_trials),
        pruner=_pruner(pruner, search.evaluations),
    )
    if _ATTRIBUTE not in study.user_attrs and not study.get_trials(deepcopy=False):
        study.set_user_attr(_ATTRIBUTE, search.described())
    check_same(study, search)
    return study


def load_study(storage: BaseStorage, name: str) -> Study:
    """The study of a name, to be read.

    Raises:
        ConfigError: there is none; those that there are are listed.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        names = ", ".join(map(repr, optuna.get_all_study_names(storage))) or "none"
        raise ConfigError(f"the storage has no study {name!r}; it has {names}") from None


def check_same(study: Study, search: Search) -> None:
    """Raise a ConfigError that says what differs unless a study was made for this search."""
    found = [
        f"{what}: {_short(before)} in the study, {_short(now)} here"
        for what, before, now in _differences(_stored(study), search.described())
    ]
    if not found:
        return
    raise ConfigError(
        f"study {study.study_name!r} was made for another search: {listed(found, most=_LISTED)}. "
        "Give what it was made with, or another --study or --storage."
    )


def counted(study: Study) -> list[FrozenTrial]:
    """The trials that were begun, in their order, each once.

    Left out are those that were interrupted and are to be repeated, and those that processes began
    at the same time beyond the number that was asked for.
    """
    trials = study.get_trials(deepcopy=False)
    repeated = {n for trial in trials for n in trial.system_attrs.get("retry_history", ())}
    return [
        trial
        for trial in trials
        if trial.state != TrialState.WAITING
        and trial.number not in repeated
        and not trial.user_attrs.get(SURPLUS)
    ]


def ranked(study: Study) -> list[FrozenTrial]:
    """The completed trials that keep to the limit of parameters, the best first."""
    done = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if all(value <= 0 for value in trial.constraints.values())
    ]
    return sorted(done, key=lambda trial: (-_value(trial), trial.number))


def reason_of(trial: FrozenTrial) -> str:
    """Why a trial failed, in a line. All of it is in the study, and in the trial's folder."""
    reason = str(trial.user_attrs.get(REASON, "no reason is known"))
    return textwrap.shorten(reason.partition("\n")[0], _REASON, placeholder=" ...")


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _pruner(name: str, evaluations: int) -> BasePruner:
    if name not in PRUNERS:
        raise ConfigError(f"--pruner {name!r} is unknown; known: {', '.join(PRUNERS)}")
    if name == "none" or evaluations < 2:
        return NopPruner()
    if name == "median":
        return MedianPruner(n_startup_trials=_MEDIAN_STARTUP)
    return HyperbandPruner(min_resource=1, max_resource=evaluations, reduction_factor=3)


def _stored(study: Study) -> dict[str, Any]:
    try:
        return study.user_attrs[_ATTRIBUTE]
    except KeyError:
        raise ConfigError(
            f"study {study.study_name!r} is not one of architectures: it does not say of which "
            "space and config it is"
        ) from None


def _differences(stored: Any, given: Any) -> Iterator[tuple[str, Any, Any]]:
    """What differs, by its name."""
    for what in ("space", "max_parameters"):
        if stored.get(what) != given[what]:
            yield what, stored.get(what), given[what]
    before = {p["name"]: p for p in stored.get("parameters", ())}
    now = {p["name"]: p for p in given["parameters"]}
    if stored.get("space") == given["space"]:
        for name in dict.fromkeys([*before, *now]):
            if before.get(name) != now.get(name):
                yield f"parameter {name!r}", before.get(name), now.get(name)
    texts = stored.get("config", "{}"), given["config"]
    then, here = (dict(_flat(CfgNode.load_cfg(text))) for text in texts)
    for key in dict.fromkeys([*then, *here]):
        if then.get(key) != here.get(key):
            yield key, then.get(key), here.get(key)


def _flat(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _short(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
