"""Whether a run can start: its parts, folders, processes and datasets, before any is built."""

from __future__ import annotations

import itertools
import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
)
from detectron2.modeling.meta_arch import RetinaNet
from fvcore.common.registry import Registry
from torch import nn

from rpanoptic.data import build_mapper, check_dataset
from rpanoptic.data.panoptic_dataset import PanopticMetadata
from rpanoptic.engine.ema import ema_decay
from rpanoptic.engine.own_data import dataset_classes, run_length_masks
from rpanoptic.engine.setup import closest
from rpanoptic.engine.train_step import amp_dtype, check_batch
from rpanoptic.engine.unused import check_unused_nodes
from rpanoptic.errors import ConfigError
from rpanoptic.evaluation import check_evaluators, check_learnable
from rpanoptic.modeling import RecurrentModel, check_recurrent_node
from rpanoptic.modeling.outputs import architecture_of, outputs_of
from rpanoptic.modeling.penalty import PenaltySource
from rpanoptic.modeling.test_time_augmentation import check_test_time_augmentation
from rpanoptic.pathfinder.imagenet.models import ImageClassifier, check_classifier_node
from rpanoptic.pathfinder.models import check_pathfinder_node
from rpanoptic.recurrent import recurrent_blocks

logger = logging.getLogger(__name__)


def check_run(
    cfg: CfgNode,
    *,
    eval_only: bool = False,
    said_where: Callable[[str], str] = lambda key: "",
) -> None:
    """Check what a run needs besides its model, before the model is built.

    Args:
        cfg: config of the run.
        eval_only: leave out the training sets.
        said_where: from a key to where its value comes from, as " in FILE", for messages.

    Raises:
        ConfigError: see :func:`check_settings`; or ``OUTPUT_DIR`` cannot be written; a head has
            another number of classes than a dataset; sets that are trained on together, or
            panoptic ones that are trained on and evaluated, have
            different classes; a test set judges nothing, or a
            training set has nothing, that the model predicts; the training sets cannot be read
            together, or not as ``INPUT`` says.
        DatasetError: a dataset is unknown, missing or damaged, or no evaluator is known for a
            test set's type.
    """
    check_settings(cfg, eval_only=eval_only)
    check_output_dir(cfg.OUTPUT_DIR, key="OUTPUT_DIR")
    names = [*cfg.DATASETS.TEST] if eval_only else [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    names = list(dict.fromkeys(names))
    # Before the files are looked at one by one, which may take minutes.
    for name in names:
        _check_class_counts(cfg, name, said_where)
    _check_class_tables(names, eval_only=eval_only)
    for name in names:
        check_dataset(name)
        _check_label_count(cfg, name)
    _check_class_names(cfg, names)
    if not eval_only:
        build_mapper(cfg, cfg.DATASETS.TRAIN, is_train=True)
        for name in cfg.DATASETS.TRAIN:
            check_learnable(cfg, name)
    for name in cfg.DATASETS.TEST:
        build_mapper(cfg, [name], is_train=False)
        check_evaluators(cfg, name)


def check_settings(cfg: CfgNode, *, eval_only: bool = False, processes: int = 1) -> None:
    """Check what follows from the config alone, whatever datasets and folders this machine has.

    Args:
        cfg: config of the run.
        eval_only: leave out what a training needs.
        processes: how many share the batch.

    Raises:
        ConfigError: a recurrent block has an unknown part or an impossible number of steps, or
            settings though the model has no such block; a model of Pathfinder or a classifier has
            an impossible setting; ``TEST.AUG`` is enabled for a model or with sizes that it cannot;
            no dataset is named; the architecture, the backbone or a head is not registered;
            mixed precision in float16 is asked for without a GPU; the batch has no equal parts;
            the decay of the average of the weights is out of range;
            a period or a limit of time is out of range.
    """
    _check_parts(cfg)
    for place, node in cfg.MODEL.RECURRENT.items():
        check_recurrent_node(node, key=f"MODEL.RECURRENT.{place}")
    check_pathfinder_node(cfg.MODEL.PATHFINDER)
    check_classifier_node(cfg.MODEL.CLASSIFIER)
    check_unused_nodes(cfg)
    if cfg.TEST.AUG.ENABLED:
        check_test_time_augmentation(cfg)
    timeout = cfg.RPANOPTIC.PROCESS_TIMEOUT
    if not 0 < timeout < math.inf:
        raise ConfigError(f"RPANOPTIC.PROCESS_TIMEOUT must be above 0 and finite; got {timeout}.")
    if cfg.RPANOPTIC.LOG_PERIOD < 1:
        raise ConfigError(f"RPANOPTIC.LOG_PERIOD is {cfg.RPANOPTIC.LOG_PERIOD}; at least 1.")
    if cfg.RPANOPTIC.TEST_BATCH < 1:
        raise ConfigError(f"RPANOPTIC.TEST_BATCH is {cfg.RPANOPTIC.TEST_BATCH}; at least 1.")
    if not eval_only and cfg.SOLVER.CHECKPOINT_PERIOD < 1:
        raise ConfigError(
            f"SOLVER.CHECKPOINT_PERIOD is {cfg.SOLVER.CHECKPOINT_PERIOD}; at least 1."
        )
    needed = ["TEST"] if eval_only else ["TRAIN"]
    for split in needed:
        if not cfg.DATASETS[split]:
            raise ConfigError(
                f"DATASETS.{split} is empty: name at least one dataset, or give panoptic data of "
                f"your own by --{split.lower()}-data."
            )
    if not eval_only:
        amp_dtype(cfg)
        ema_decay(cfg)
        check_batch(cfg, processes)


def check_penalties(model: nn.Module) -> None:
    """Check that the penalties of parts that return features only will reach the losses.

    Args:
        model: built and not wrapped; to be called before a training.

    Raises:
        ConfigError: a part has a penalty, and the architecture does not ask for it.
    """
    if isinstance(model, RecurrentModel):
        return
    for name, part in model.named_modules():
        blocks = recurrent_blocks(part).values()
        if isinstance(part, PenaltySource) and any(block.penalised for block in blocks):
            given = type(model).__name__
            ours = f"Recurrent{given}"
            instead = ours if ours in META_ARCH_REGISTRY else "one that derives from RecurrentModel"
            raise ConfigError(
                f"MODEL.META_ARCHITECTURE {given} would lose the penalty of the model's {name}: "
                f"take {instead}, or set LIPSCHITZ.WEIGHT to 0 there."
            )


def _check_parts(cfg: CfgNode) -> None:
    """The parts that the config names must be registered, and go together."""
    model = cfg.MODEL
    _check_registered("MODEL.META_ARCHITECTURE", model.META_ARCHITECTURE, META_ARCH_REGISTRY)
    _check_registered("MODEL.BACKBONE.NAME", model.BACKBONE.NAME, BACKBONE_REGISTRY)
    predicted = outputs_of(cfg)
    if "masks" in predicted:
        _check_registered(
            "MODEL.ROI_MASK_HEAD.NAME", model.ROI_MASK_HEAD.NAME, ROI_MASK_HEAD_REGISTRY
        )
    if "sem_seg" in predicted:
        _check_registered(
            "MODEL.SEM_SEG_HEAD.NAME", model.SEM_SEG_HEAD.NAME, SEM_SEG_HEADS_REGISTRY
        )
    if "panoptic_seg" in predicted and "masks" not in predicted:
        raise ConfigError(
            f"MODEL.MASK_ON is False, but a {model.META_ARCHITECTURE} merges the masks of things."
        )


def _check_registered(key: str, name: str, registry: Registry) -> None:
    known = sorted(entry for entry, _ in registry)
    if name not in known:
        close = closest(name, known)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(f"{key} {name!r} is unknown; known: {', '.join(known)}.{hint}")


def _check_class_counts(cfg: CfgNode, name: str, said_where: Callable[[str], str]) -> None:
    """The heads must have as many classes as a panoptic dataset."""
    if name not in DatasetCatalog:
        return  # check_dataset tells.
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") != "coco_panoptic_seg":
        return
    predicted = outputs_of(cfg)
    names = metadata.get("thing_classes")
    if "instances" in predicted and names is not None and not names:
        raise ConfigError(
            f"dataset {_called(name)} has no classes of things (isthing 1), but a "
            f"{cfg.MODEL.META_ARCHITECTURE} detects things. For stuff alone set "
            "MODEL.META_ARCHITECTURE to SemanticSegmentor or RecurrentSemanticSegmentor."
        )
    things = "RETINANET" if issubclass(architecture_of(cfg), RetinaNet) else "ROI_HEADS"
    stuff = "stuff, the one for all things included"
    for output, node, kind, counted in (
        ("instances", things, "thing_classes", "things"),
        ("sem_seg", "SEM_SEG_HEAD", "stuff_classes", stuff),
    ):
        wanted, given = len(metadata.get(kind, ())), cfg.MODEL[node].NUM_CLASSES
        if output in predicted and wanted not in (0, given):
            key = f"MODEL.{node}.NUM_CLASSES"
            raise ConfigError(
                f"{key} is {given}{said_where(key)}, but dataset {_called(name)} has {wanted} "
                f"classes of {counted}. Where nothing says the number, or 0, it follows from the "
                "data."
            )
    if "masks" in predicted and run_length_masks(name) and name in cfg.DATASETS.TRAIN:
        key, given = "INPUT.MASK_FORMAT", cfg.INPUT.MASK_FORMAT
        if given != "bitmask":
            raise ConfigError(
                f"{key} is {given!r}{said_where(key)}, but the masks of dataset {name} are no "
                'polygons: "bitmask" is needed.'
            )


def _called(name: str) -> str:
    """A dataset's name; with its JSON, if the name may be one that was made for it."""
    metadata = MetadataCatalog.get(name)
    return f"{name} ({metadata.panoptic_json})" if isinstance(metadata, PanopticMetadata) else name


def _check_label_count(cfg: CfgNode, name: str) -> None:
    """A classifier must have as many classes as a dataset of labelled pictures."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") != "image_classification":
        return
    wanted, given = len(metadata.get("classes", ())), cfg.MODEL.CLASSIFIER.NUM_CLASSES
    if issubclass(architecture_of(cfg), ImageClassifier) and wanted not in (0, given):
        raise ConfigError(
            f"MODEL.CLASSIFIER.NUM_CLASSES is {given}, but dataset {name} has {wanted} classes."
        )


def _check_class_tables(names: Sequence[str], *, eval_only: bool) -> None:
    """A label must stand for one class in all panoptic sets.

    An evaluation may be of sets with names of their own.
    """
    tables = {name: table for name in names if (table := dataset_classes(name)) is not None}
    for first, name in itertools.pairwise(tables):
        difference = tables[first].difference(tables[name])
        if difference is None:
            continue
        names_of_both = f"{_called(first)} and {_called(name)}"
        message = f"datasets {names_of_both} have different classes: {difference}."
        if not eval_only:
            raise ConfigError(f"{message} Their JSONs must list the same 'categories'.")
        logger.warning("%s%s", message[0].upper(), message[1:])


def _check_class_names(cfg: CfgNode, names: list[str]) -> None:
    """A label must stand for one class in all sets of labelled pictures.

    Of a test set it is warned only: its folders may have names of their own.
    """
    kinds = {name: MetadataCatalog.get(name) for name in dict.fromkeys(names)}
    labelled = [
        n for n, one in kinds.items() if one.get("evaluator_type") == "image_classification"
    ]
    for name in labelled[1:]:
        first = labelled[0]
        pairs = zip(kinds[first].get("classes", ()), kinds[name].get("classes", ()), strict=False)
        label, differing = next(((n, p) for n, p in enumerate(pairs) if p[0] != p[1]), (0, None))
        if differing is None:
            continue
        message = (
            f"datasets {first} and {name} have different classes: label {label} is "
            f"{differing[0]!r} in the one and {differing[1]!r} in the other."
        )
        if name in cfg.DATASETS.TRAIN and first in cfg.DATASETS.TRAIN:
            raise ConfigError(f"DATASETS.TRAIN: {message}")
        logger.warning("%s%s", message[0].upper(), message[1:])


def check_output_dir(path: str | Path, *, key: str) -> Path:
    """Create a folder for results and make sure that a file can be written into it.

    Args:
        path: the folder; its parents are created too.
        key: the config key or flag that named it, for the message.

    Raises:
        ConfigError: the folder cannot be created or written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{key}: cannot write to the folder {folder}: {reason}.") from error
    return folder


def check_process_count(count: int) -> None:
    """Check that there is a GPU for each process. Without any GPU, all run on the CPU.

    Raises:
        ConfigError: there are fewer GPUs than processes, but at least one.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if 0 < gpus < count:
        raise ConfigError(f"--num-gpus {count}: PyTorch finds {gpus} here.")
