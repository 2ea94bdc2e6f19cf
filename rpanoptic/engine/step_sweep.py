"""Results against test steps, of one checkpoint or several, kept in a CSV file."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from torch import nn

from rpanoptic.benchmarks.report import Row, read_csv, table, write_csv
from rpanoptic.engine.check import check_run
from rpanoptic.engine.checkpoint import PanopticCheckpointer
from rpanoptic.engine.earlier_run import numbered_aside
from rpanoptic.engine.own_data import first_classes
from rpanoptic.engine.weights_file import file_sha256, local_weights
from rpanoptic.errors import ConfigError, UserError, naming
from rpanoptic.evaluation.steps import evaluate_steps
from rpanoptic.pathfinder.imagenet.models import ImageClassifier
from rpanoptic.recurrent.blocks import check_steps, recurrent_blocks, steps_at_test
from rpanoptic.visualization import save_figure
from rpanoptic.visualization.step_sweep import Curve, curves, draw_step_sweep

logger = logging.getLogger(__name__)

# What says from where a row is; the columns after these are metrics by name.
_WHOLE = ("trained_steps", "test_steps", "pictures")
_TEXT = ("label", "gradient", "dataset", "weights", "weights_sha256", "settings")
COLUMNS = ("label", "gradient", *_WHOLE, "seconds", "dataset", *_TEXT[3:])
_IDENTITY = ("label", "weights_sha256", "settings", "dataset", "pictures")
# Nodes of a config on which its results depend, given the weights.
_SETTINGS = ("INPUT", "MODEL", "TEST")

#: The result that says most of its task; what a table without a config is drawn by.
MAIN_METRICS = (
    "panoptic_seg/PQ",
    "contour/F1",
    "classification/accuracy",
    "classification/top1",
)


@dataclass(frozen=True)
class Checkpoint:
    """Trained weights with the config that they fit.

    Attributes:
        label: the name of its curve. Checkpoints of one label are taken for seeds of one method.
        cfg: config of the model; the first of ``DATASETS.TEST`` is evaluated. For several datasets
            there are as many checkpoints, of the same label and weights.
        weights: a path or a URL.
    """

    label: str
    cfg: CfgNode
    weights: str


def split_checkpoint(text: str) -> tuple[str, str, str]:
    """Take ``LABEL=CONFIG:WEIGHTS`` apart.

    The label ends at the first "=", the config file at the first ":" after it; the weights may
    hold both signs, as URLs do.

    Raises:
        ConfigError: a part is missing.
    """
    label, _, rest = text.partition("=")
    config, _, weights = rest.partition(":")
    if not (label and config and weights):
        raise ConfigError(f"--checkpoint {text}: expected LABEL=CONFIG:WEIGHTS")
    return label, config, weights


def best_metric(cfg: CfgNode) -> str:
    """``RPANOPTIC.BEST_METRIC`` as a column of a sweep: without the name of a dataset.

    Raises:
        ConfigError: it is empty.
    """
    if not cfg.RPANOPTIC.BEST_METRIC:
        raise ConfigError("RPANOPTIC.BEST_METRIC names no result: say by --metric what to draw")
    return "/".join(cfg.RPANOPTIC.BEST_METRIC.split("/")[-2:])


def sweep(
    checkpoints: Sequence[Checkpoint],
    steps: Sequence[int],
    file: Path,
    *,
    timed_pictures: int = 5,
) -> list[Row]:
    """Evaluate checkpoints after numbers of steps; what ``file`` holds already is taken from it.

    Rows of the file count if label, weights (by their SHA-256), dataset, number of pictures and
    the settings that results depend on are the same. If it holds others, it is renamed (``x.csv``
    to ``x.1.csv``) and only the rows that count go on. Rows without a time are evaluated again
    where times are asked for. The file is rewritten, whole, after each row.

    Args:
        checkpoints: at least one.
        steps: for all recurrent blocks, at least as many as each needs; a model without any has
            one row, without a number of steps.
        file: CSV, in a folder that exists.
        timed_pictures: on how many pictures the time is measured; 0 leaves it out.

    Returns:
        the rows of the file: :data:`COLUMNS`, None where a thing is not known, and the metrics.

    Raises:
        UserError: weights, dataset or config of a checkpoint are at fault, there are too few
            steps for a block, or the file is not one of this function.
    """
    todo = [(one, _identity(one)) for one in checkpoints]
    identities = [identity for _, identity in todo]
    # Before the first of them takes its hours; models of equal settings are equal.
    for one in {identity["settings"]: one for one, identity in todo}.values():
        _check_steps(one, steps)
    rows = _taken_over(file, identities)
    for one, identity in todo:
        here = [row for row in rows if _matches(row, identity)]
        if timed_pictures:
            here = [row for row in here if row["seconds"] is not None]
        missing = sorted(set(steps) - {row["test_steps"] for row in here})
        if not missing or any(row["test_steps"] is None for row in here):
            logger.info("%s, %s: all is there already.", one.label, one.weights)
            continue
        for row in _evaluated(one, identity, missing, timed_pictures):
            rows = [*(old for old in rows if not _replaces(row, old)), row]
            rows.sort(key=lambda row: _order(row, identities))
            write_csv(file, rows)
    return rows


def read_sweep(file: Path) -> list[Row]:
    """Read what :func:`sweep` has written.

    Raises:
        UserError: the file is missing, or not of this kind.
    """
    return read_csv(file, COLUMNS, _read, what="table of a sweep")


def save_sweep_figures(folder: Path, rows: Sequence[Row], metrics: Sequence[str]) -> list[Path]:
    """Draw metrics of a sweep against the steps, with a panel for each dataset.

    Args:
        folder: exists.
        rows: of one sweep or several.
        metrics: names of columns; "panoptic_seg/PQ" becomes ``panoptic_seg_PQ.png``.

    Returns:
        the files, one a metric.

    Raises:
        UserError: no row has such a metric, or a label stands for two kinds of models.
    """
    figures = {
        metric: draw_step_sweep(curves_by_dataset(rows, metric), metric) for metric in metrics
    }
    return [
        save_figure(folder / f"{metric.replace('/', '_')}.png", figure)
        for metric, figure in figures.items()
    ]


def sweep_table(rows: Sequence[Row], metric: str) -> str:
    """Lay out a metric, the mean over seeds: a line a number of steps, a column a label.

    Of several datasets each has its table, under its name.
    """
    tables = {name: _table(found) for name, found in curves_by_dataset(rows, metric).items()}
    if len(tables) == 1:
        return "".join(tables.values())
    return "\n".join(f"{name}\n{text}" for name, text in tables.items())


def curves_by_dataset(rows: Sequence[Row], metric: str) -> dict[str, list[Curve]]:
    """Gather the rows of a sweep into curves, a label each, for each dataset that has any.

    Raises:
        UserError: no row has the metric, or a label stands for two kinds of models.
    """
    found = {}
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        with naming(dataset):
            found[dataset] = curves([row for row in rows if row["dataset"] == dataset], metric)
    found = {dataset: shown for dataset, shown in found.items() if shown}
    if not found:
        known = {name for row in rows for name, value in row.items() if value is not None}
        names = ", ".join(sorted(known - {*COLUMNS} | {"seconds"})) or "none"
        raise UserError(f"no row has a result {metric!r}; there are: {names}")
    return found


def _table(found: Sequence[Curve]) -> str:
    cells: dict[int | None, dict[str, str]] = {}
    for curve in found:
        mean, _, _ = curve.over_seeds()
        for place, value in enumerate(mean):
            count = int(curve.steps[place]) if curve.steps.size else None
            cells.setdefault(count, {})[curve.label] = f"{value:.2f}"
    lines = [
        [
            "feed-forward" if count is None else str(count),
            *(line.get(curve.label, "-") for curve in found),
        ]
        for count, line in sorted(cells.items(), key=lambda item: item[0] or 0)
    ]
    return table(["test steps", *(curve.label for curve in found)], lines, markdown=False)


def _read(name: str, text: str | None) -> Any:
    if name in _TEXT:
        return text
    if not text:
        return None
    return int(text) if name in _WHOLE else float(text)


def _taken_over(file: Path, identities: Sequence[Row]) -> list[Row]:
    """The rows of an earlier sweep that count; a file with others is set aside."""
    if not file.exists():
        return []
    rows = read_sweep(file)
    good = [row for row in rows if any(_matches(row, identity) for identity in identities)]
    if len(good) < len(rows):
        (aside,) = numbered_aside([file])
        logger.warning(
            "%s holds %d rows of other labels, weights, datasets or settings: it is now %s.",
            file,
            len(rows) - len(good),
            aside.name,
        )
        if good:
            write_csv(file, good)
    return good


def _matches(row: Row, identity: Row) -> bool:
    return all(row[name] == identity[name] for name in _IDENTITY)


def _replaces(row: Row, old: Row) -> bool:
    return _matches(row, old) and row["test_steps"] == old["test_steps"]


def _order(row: Row, identities: Sequence[Row]) -> tuple[int, int]:
    place = next(i for i, identity in enumerate(identities) if _matches(row, identity))
    return place, row["test_steps"] or 0


def _check_steps(one: Checkpoint, steps: Sequence[int]) -> None:
    with naming(one.label):
        model = build_model(one.cfg).eval()
        check_steps(model, steps)
        if isinstance(model, ImageClassifier):
            for count in steps:
                with steps_at_test(model, count):
                    model.readouts.steps()


def _identity(one: Checkpoint) -> Row:
    """What makes a checkpoint's rows its own."""
    check_run(one.cfg, eval_only=True)
    dataset = one.cfg.DATASETS.TEST[0]
    settings = {name: one.cfg[name] for name in _SETTINGS}
    model = settings["MODEL"] = one.cfg.MODEL.clone()
    model.defrost()
    model.WEIGHTS = model.DEVICE = ""
    if MetadataCatalog.get(dataset).get("evaluator_type") == "image_classification":
        pictures = one.cfg.RPANOPTIC.CLASSIFICATION
        settings["PICTURES"] = [pictures.SIZE, pictures.RESIZE]
    text = json.dumps(settings, sort_keys=True)
    return {
        "label": one.label,
        "dataset": dataset,
        "pictures": len(DatasetCatalog.get(dataset)),
        "weights": one.weights,
        "weights_sha256": file_sha256(local_weights(one.weights)),
        "settings": hashlib.sha256(text.encode()).hexdigest()[:16],
    }


def _evaluated(
    one: Checkpoint, identity: Row, steps: Sequence[int], timed_pictures: int
) -> Iterator[Row]:
    model = _load(one)
    blocks = recurrent_blocks(model).values()
    row: Row = dict.fromkeys(COLUMNS)
    row |= identity
    row["gradient"] = "/".join(sorted({block.gradient for block in blocks}))
    row["trained_steps"] = max((block.steps for block in blocks), default=None)
    what = f"{len(steps)} numbers of steps" if blocks else "feed-forward"
    logger.info("%s, %s: %s", one.label, one.weights, what)
    for result in evaluate_steps(
        one.cfg, model, identity["dataset"], steps, timed_pictures=timed_pictures
    ):
        row["test_steps"], row["seconds"] = result.steps, result.seconds
        yield row | {"pictures": result.pictures} | result.metrics


def _load(one: Checkpoint) -> nn.Module:
    model = build_model(one.cfg)
    classes = first_classes(one.cfg.DATASETS.TEST)
    PanopticCheckpointer(model, classes=classes).load(one.weights, checkpointables=[], strict=True)
    return model
