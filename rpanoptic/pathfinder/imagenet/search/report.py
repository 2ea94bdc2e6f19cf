"""What a study has found: its best networks, their median, what mattered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from tabulate import tabulate

from rpanoptic.data.paths import write_atomically
from rpanoptic.errors import ConfigError
from rpanoptic.pathfinder.imagenet.graph_picture import graph_figure
from rpanoptic.pathfinder.imagenet.search.figures import draw_history, draw_importances
from rpanoptic.pathfinder.imagenet.search.parameters import median_of
from rpanoptic.pathfinder.imagenet.search.run import trial_config
from rpanoptic.pathfinder.imagenet.search.study import (
    PARAMETERS,
    Search,
    counted,
    ranked,
    reason_of,
)
from rpanoptic.visualization.style import save_figure

# Completed trials below which nothing is said of importance: less than half of them would be good.
LEAST_TRIALS = 10
# Good trials that the importance rests on, and the part of all that they are of many.
_GOOD, _GOOD_PART = 5, 0.1


def median_config(study: Study, search: Search, folder: Path, *, top: float = 0.1) -> CfgNode:
    """The config of the median network: what the best trials have in common.

    Args:
        study: with at least one completed trial.
        search: what it is of.
        folder: for the results of its training.
        top: part of the completed trials that counts, above 0; at least one does.

    Raises:
        ConfigError: no trial is completed, or ``top`` is not above 0 and at most 1.
    """
    values, _ = _median(study, search, top)
    return trial_config(search, values, folder)


def importances(study: Study) -> dict[str, float]:
    """How much each parameter says of which trials are good; the largest first, 1 in all.

    By PED-ANOVA (Watanabe et al., IJCAI 2023), and not by fANOVA: it can compare parameters that
    exist only with some values of others, as most here do, and asks what leads to good trials
    rather than what makes bad ones differ. Good are the best tenth of the completed ones, or the
    best five of less than fifty. Trials that were stopped early do not count.

    Returns:
        nothing for less than ten completed trials.
    """
    done = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    if done < LEAST_TRIALS:
        return {}
    part = max(_GOOD_PART, _GOOD / done)
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=part))


def write_report(
    study: Study, search: Search, folder: Path, *, best: int = 5, top: float = 0.1
) -> list[Path]:
    """Write ``report.md``, figures, and configs and pictures of the best and the median network.

    The configs are complete: ``tools/train_net.py`` takes them as they are.

    Args:
        study: any number of trials, finished or not.
        search: what it is of.
        folder: exists.
        best: most networks that are written.
        top: see :func:`median_config`.

    Returns:
        the files; the report is the first.
    """
    order = ranked(study)
    ended = [trial for trial in counted(study) if trial.state.is_finished()]
    files: list[Path] = []
    lines = [f"# Study {study.study_name}", "", *_summary(study, search, ended, order), ""]
    if order:
        lines += ["## Best networks", "", _table(order[:best], search), ""]
        for place, trial in enumerate(order[:best], start=1):
            name = f"best_{place}"
            cfg = trial_config(search, dict(trial.params), folder / name)
            title = f"trial {trial.number}: {search.metric} {trial.value:.2f}"
            files += _write_network(folder, name, cfg, title)
            lines += [f"### {name}: {title}", "", f"![]({name}.png)", ""]
        values, count = _median(study, search, top)
        cfg = trial_config(search, values, folder / "median")
        title = f"median of the best {count} of {len(order)} trials"
        files += _write_network(folder, "median", cfg, title)
        lines += [
            "## Median network",
            "",
            f"The {title}: medians of numbers, the most frequent of other values. It has not been "
            "trained; `median.yaml` is its config.",
            "",
            _values_table(values),
            "",
            "![](median.png)",
            "",
        ]
    lines += ["## Importance", "", *_importance_lines(study, folder, files), ""]
    if order or any(trial.intermediate_values for trial in ended):
        files.append(save_figure(folder / "history.png", draw_history(ended, order, search.metric)))
        lines += ["## History", "", "![](history.png)", ""]
    lines += _failures(ended)
    report = folder / "report.md"
    write_atomically(report, ("\n".join(lines).rstrip() + "\n").encode())
    return [report, *files]


def _median(study: Study, search: Search, top: float) -> tuple[dict[str, Any], int]:
    """Values of the median network, and of how many trials."""
    if not 0 < top <= 1:
        raise ConfigError(f"the part of the trials that makes the median is in (0, 1]; got {top}")
    order = ranked(study)
    if not order:
        raise ConfigError(f"study {study.study_name!r} has no completed trial to take a median of")
    count = math.ceil(top * len(order))
    return median_of(search.parameters, [trial.params for trial in order[:count]]), count


def _summary(
    study: Study, search: Search, ended: Sequence[FrozenTrial], order: Sequence[FrozenTrial]
) -> list[str]:
    states = Counter(trial.state for trial in ended)
    limit = search.max_parameters
    text = (
        f"Space `{search.space.name}`, {len(search.parameters)} parameters"
        f"{f', networks of at most {limit:,} weights' if limit else ''}. "
        f"{len(ended)} trials: {states[TrialState.COMPLETE]} completed, "
        f"{states[TrialState.PRUNED]} stopped early, {states[TrialState.FAIL]} failed."
    )
    running = sum(not trial.state.is_finished() for trial in counted(study))
    if running:
        text += f" {running} more {'is' if running == 1 else 'are'} running."
    if order:
        text += (
            f" The best has a {search.metric} of {order[0].value:.2f} (trial {order[0].number})."
        )
    else:
        text += " None has come to a result yet."
    return [text]


def _table(trials: Sequence[FrozenTrial], search: Search) -> str:
    rows = [
        (
            f"best_{place}.yaml",
            trial.number,
            f"{trial.value:.2f}",
            f"{trial.user_attrs.get(PARAMETERS, 0):,}",
        )
        for place, trial in enumerate(trials, start=1)
    ]
    return _markdown(("config", "trial", search.metric, "weights"), rows)


def _values_table(values: Mapping[str, Any]) -> str:
    rows = [
        (name, f"{value:.4g}" if isinstance(value, float) else repr(value))
        for name, value in values.items()
    ]
    return _markdown(("parameter", "value"), rows)


def _importance_lines(study: Study, folder: Path, files: list[Path]) -> list[str]:
    found = importances(study)
    if not found:
        return [
            f"Too few completed trials to tell: from {LEAST_TRIALS} on something can be said, and "
            "it is worth reading once there are several times as many as parameters."
        ]
    files.append(save_figure(folder / "importance.png", draw_importances(found)))
    return [
        "How much a parameter tells good trials from the others (PED-ANOVA; good are the best "
        f"tenth, or the best {_GOOD} of few). Trials that were stopped early do not count. With "
        "fewer trials than several times the parameters, most of it is chance.",
        "",
        "![](importance.png)",
    ]


def _failures(ended: Sequence[FrozenTrial]) -> list[str]:
    reasons = Counter(reason_of(trial) for trial in ended if trial.state == TrialState.FAIL)
    if not reasons:
        return []
    rows = [(reason, count) for reason, count in reasons.most_common()]
    return ["## Failed trials", "", _markdown(("reason", "trials"), rows), ""]


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def _write_network(folder: Path, name: str, cfg: CfgNode, title: str) -> list[Path]:
    """A network's config and its picture."""
    config = folder / f"{name}.yaml"
    write_atomically(config, f"# {title}\n{cfg.dump()}".encode())
    # Its size alone counts, not its weights.
    with torch.device("meta"):
        figure = graph_figure(cfg, title=title)
    return [config, save_figure(folder / f"{name}.png", figure)]
