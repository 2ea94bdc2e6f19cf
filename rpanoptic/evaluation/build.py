"""Which evaluators judge which type of dataset."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    SemSegEvaluator,
)

from rpanoptic.errors import ConfigError, DatasetError
from rpanoptic.evaluation.classification import ClassificationEvaluator
from rpanoptic.evaluation.contours import ContourClassificationEvaluator, ContourEvaluator
from rpanoptic.evaluation.panoptic import PanopticEvaluator
from rpanoptic.modeling.outputs import outputs_of


def build_evaluators(
    cfg: CfgNode, dataset_name: str, folder: str | Path | None = None
) -> DatasetEvaluators:
    """Build all evaluators that a dataset's ``evaluator_type`` asks for and the model serves.

    The names of our files begin with the dataset's. Those of Detectron2 are the same for each
    dataset, so of several in ``DATASETS.TEST`` each has a folder of its own for them.

    Args:
        cfg: config of the run.
        dataset_name: a registered dataset.
        folder: where their files go; None for ``OUTPUT_DIR/inference``. What Detectron2 writes for
            a dataset that has no ``json_file``, and reads later on, goes there in any case.

    Raises:
        DatasetError: the dataset has no ``evaluator_type``, or one that is unknown; it has labels,
            and names no classes; or its panoptic annotations cannot be read.
        ConfigError: panopticapi is needed and missing; or the model predicts nothing that the
            dataset has ground truth for.
    """
    builders = _builders(cfg, dataset_name)
    lasting = str(Path(cfg.OUTPUT_DIR) / "inference")
    by_instances = folder is not None and _instances in builders
    if by_instances and not hasattr(MetadataCatalog.get(dataset_name), "json_file"):
        _instances(cfg, dataset_name, lasting)
    place = lasting if folder is None else str(folder)
    return DatasetEvaluators([build(cfg, dataset_name, place) for build in builders])


def check_evaluators(cfg: CfgNode, dataset_name: str) -> None:
    """Check that :func:`build_evaluators` has something to build; raises as it does."""
    _builders(cfg, dataset_name)


def check_learnable(cfg: CfgNode, dataset_name: str) -> None:
    """Check that a training set has something that the model predicts, by what would be judged.

    A set whose ``evaluator_type`` is none of :data:`EVALUATORS` passes.

    Raises:
        ConfigError: it has not.
    """
    known = EVALUATORS.get(MetadataCatalog.get(dataset_name).get("evaluator_type"))
    predicted = outputs_of(cfg)
    if known is not None and predicted.isdisjoint(known):
        raise ConfigError(
            f"DATASETS.TRAIN: {dataset_name} has {', '.join(known)}, but a "
            f"{cfg.MODEL.META_ARCHITECTURE} predicts {', '.join(sorted(predicted))}."
        )


def _builders(cfg: CfgNode, dataset_name: str) -> list[Builder]:
    known = EVALUATORS[check_evaluator_type(dataset_name)]
    predicted = outputs_of(cfg)
    builders = [build for judged, build in known.items() if judged in predicted]
    if not builders:
        raise ConfigError(
            f"DATASETS.TEST: {dataset_name} judges {', '.join(known)}, but a "
            f"{cfg.MODEL.META_ARCHITECTURE} predicts {', '.join(sorted(predicted))}."
        )
    return builders


def check_evaluator_type(dataset_name: str) -> str:
    """The ``evaluator_type`` of a registered dataset, one of :data:`EVALUATORS`.

    Raises:
        DatasetError: the dataset has none, or one that is unknown.
        ConfigError: it is panoptic, and the module panopticapi is missing.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in EVALUATORS:
        raise DatasetError(
            f"dataset {dataset_name}: its evaluator_type is {kind!r}; "
            f"known: {', '.join(sorted(EVALUATORS))}."
        )
    if kind == "coco_panoptic_seg" and importlib.util.find_spec("panopticapi") is None:
        raise ConfigError(
            f"evaluating the panoptic dataset {dataset_name} needs the module panopticapi, which "
            'is missing: pip install -e ".[panoptic]"'
        )
    return kind


def has_fast_coco_evaluation() -> bool:
    """Whether Detectron2's compiled COCO evaluation is there."""
    try:
        from detectron2 import _C

        return hasattr(_C, "COCOevalEvaluateImages")
    except ImportError:
        return False


def _instances(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    # Named, not inferred: without a single detection the mask AP would be left out, not zero.
    tasks = ("bbox", "segm") if "masks" in outputs_of(cfg) else ("bbox",)
    return COCOEvaluator(
        dataset_name,
        tasks,
        distributed=True,
        output_dir=_folder_of(cfg, dataset_name, folder),
        use_fast_impl=has_fast_coco_evaluation(),
    )


def _folder_of(cfg: CfgNode, dataset_name: str, folder: str) -> str:
    """Where Detectron2's evaluators of a dataset write."""
    if len(set(cfg.DATASETS.TEST)) < 2:
        return folder
    return str(Path(folder) / dataset_name.replace("/", "_"))


def _semantic(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    folder = _folder_of(cfg, dataset_name, folder)
    return SemSegEvaluator(dataset_name, distributed=True, output_dir=folder)


def _panoptic(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    keep = cfg.RPANOPTIC.KEEP_PREDICTIONS
    return PanopticEvaluator(dataset_name, folder, keep_predictions=keep)


def _contours(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    return ContourEvaluator()


def _contour_classes(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    return ContourClassificationEvaluator()


def _classes(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    names = MetadataCatalog.get(dataset_name).get("classes")
    if not names:
        raise DatasetError(f"dataset {dataset_name}: its metadata names no classes.")
    return ClassificationEvaluator(len(names), dataset=dataset_name, folder=Path(folder))


Builder = Callable[[CfgNode, str, str], DatasetEvaluator]

# evaluator_type of a dataset -> what judges which output of a model, in this order.
EVALUATORS: dict[str, dict[str, Builder]] = {
    "coco": {"instances": _instances},
    "sem_seg": {"sem_seg": _semantic},
    "coco_panoptic_seg": {
        "sem_seg": _semantic,
        "instances": _instances,
        "panoptic_seg": _panoptic,
    },
    "pathfinder_segmentation": {"sem_seg": _contours},
    "pathfinder_classification": {"classification": _contour_classes},
    "image_classification": {"classification": _classes},
}
