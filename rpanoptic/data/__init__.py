"""Datasets: the synthetic panoptic set, COCO panoptic preparation, checks, mapper, loader.

Importing this registers ``synthetic_panoptic_train`` and ``synthetic_panoptic_val``, which are
built when they are first used, and ``coco_2017_train_panoptic_separated_reduce_{1,10,25,50}``.
"""

from rpanoptic.data.builtin import (
    SYNTHETIC_DATASETS,
    ensure_synthetic_panoptic,
    register_synthetic_panoptic,
)
from rpanoptic.data.check import check_dataset
from rpanoptic.data.coco_panoptic import PreparationReport, prepare_coco_panoptic
from rpanoptic.data.coco_splits import register_coco_splits, write_coco_splits
from rpanoptic.data.loaders import build_mapper, build_test_loader
from rpanoptic.data.mapper import PanopticDatasetMapper
from rpanoptic.data.panoptic_dataset import register_panoptic
from rpanoptic.data.paths import DATASETS_VARIABLE, datasets_root
from rpanoptic.data.train_loader import TrainLoader, build_train_loader

register_synthetic_panoptic()
register_coco_splits()

__all__ = [
    "DATASETS_VARIABLE",
    "SYNTHETIC_DATASETS",
    "PanopticDatasetMapper",
    "PreparationReport",
    "TrainLoader",
    "build_mapper",
    "build_test_loader",
    "build_train_loader",
    "check_dataset",
    "datasets_root",
    "ensure_synthetic_panoptic",
    "prepare_coco_panoptic",
    "register_coco_splits",
    "register_panoptic",
    "register_synthetic_panoptic",
    "write_coco_splits",
]
