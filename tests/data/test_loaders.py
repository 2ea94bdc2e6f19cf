from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.utils import comm

from rpanoptic import add_rpanoptic_config
from rpanoptic.data import PanopticDatasetMapper, build_mapper, build_test_loader
from rpanoptic.engine import Trainer
from rpanoptic.errors import ConfigError
from rpanoptic.pathfinder import register_pathfinder_on_the_fly
from rpanoptic.pathfinder.mapper import PathfinderMapper
from tests.pathfinder.sets import forget, small_set

PATHFINDER, PLAIN = "rpanoptic_test_loaders", "rpanoptic_test_loaders_plain"
NUMBER = 11


class Passing:
    """A mapper that changes nothing."""

    def __init__(self, cfg: CfgNode, is_train: bool) -> None:
        self.is_train = is_train

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        return {**record, "is_train": self.is_train}


@pytest.fixture
def cfg() -> Iterator[CfgNode]:
    register_pathfinder_on_the_fly(PATHFINDER, small_set().settings, 1, NUMBER)
    DatasetCatalog.register(PLAIN, lambda: [{"image_id": index} for index in range(NUMBER)])
    MetadataCatalog.get(PLAIN).set(mapper=Passing)
    cfg = get_cfg()
    add_rpanoptic_config(cfg)
    cfg.DATASETS.TRAIN = (PATHFINDER,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN = (24,)
    cfg.INPUT.MIN_SIZE_TEST = 24
    cfg.INPUT.RANDOM_FLIP = "both"
    cfg.SOLVER.IMS_PER_BATCH = 3
    cfg.SEED = 2
    yield cfg
    forget(PATHFINDER)
    DatasetCatalog.remove(PLAIN)
    MetadataCatalog.remove(PLAIN)


def ids(loader: Any) -> list[int]:
    return [record["image_id"] for batch in loader for record in batch]


def test_a_dataset_names_its_mapper(cfg: CfgNode) -> None:
    assert isinstance(build_mapper(cfg, [PATHFINDER], is_train=True), PathfinderMapper)
    for is_train in (True, False):
        mapper = build_mapper(cfg, [PLAIN], is_train=is_train)
        assert isinstance(mapper, Passing) and mapper.is_train is is_train
    cfg.INPUT.RANDOM_FLIP = "none"
    known = "synthetic_panoptic_train"
    assert isinstance(build_mapper(cfg, [known], is_train=True), PanopticDatasetMapper)


def test_datasets_of_different_mappers_are_not_mixed(cfg: CfgNode) -> None:
    build_mapper(cfg, [PATHFINDER, "pathfinder_14_train"], is_train=True)
    match = rf"DATASETS\.TRAIN: {PATHFINDER} and {PLAIN} .*PathfinderMapper .* Passing"
    with pytest.raises(ConfigError, match=match):
        build_mapper(cfg, [PATHFINDER, PLAIN], is_train=True)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [1, 4, 20])
def test_an_evaluation_has_all_pictures_in_order(cfg: CfgNode, size: int, workers: int) -> None:
    cfg.RPANOPTIC.TEST_BATCH = size
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_test_loader(cfg, PLAIN)
    sizes = [len(batch) for batch in loader]
    assert len(loader) == len(sizes) == -(-NUMBER // size)
    assert sizes[:-1] == [size] * (len(sizes) - 1)
    assert ids(loader) == list(range(NUMBER))
    assert all(not record["is_train"] for batch in loader for record in batch)


def test_processes_divide_an_evaluation_as_detectron2_does(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg.RPANOPTIC.TEST_BATCH = 2
    seen = []
    for rank in range(3):
        # The sampler looks the functions up in the module.
        monkeypatch.setattr(comm, "get_world_size", lambda: 3)
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        ours = ids(build_test_loader(cfg, PLAIN))
        theirs = build_detection_test_loader(cfg, PLAIN, mapper=Passing(cfg, False))
        assert ours == ids(theirs)
        seen += ours
    assert seen == list(range(NUMBER))


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_nothing_is_refused(cfg: CfgNode, size: int) -> None:
    cfg.RPANOPTIC.TEST_BATCH = size
    with pytest.raises(ConfigError, match=rf"RPANOPTIC\.TEST_BATCH: .*positive.*{size}"):
        build_test_loader(cfg, PLAIN)


def test_the_trainer_reads_as_the_dataset_asks(cfg: CfgNode) -> None:
    cfg.RPANOPTIC.TEST_BATCH = 4
    first = next(iter(Trainer.build_test_loader(cfg, PATHFINDER)))
    assert [record["image_id"] for record in first] == [0, 1, 2, 3]
    assert first[0]["image"].shape == (1, 24, 24)


@pytest.mark.parametrize("grouped", [True, False])
def test_training_on_the_fly_does_not_depend_on_the_workers(cfg: CfgNode, grouped: bool) -> None:
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouped
    batches = []
    for workers in (0, 2):
        cfg.DATALOADER.NUM_WORKERS = workers
        batches.append(list(islice(Trainer.build_train_loader(cfg), 6)))
    for one, other in zip(*batches, strict=True):
        assert [record["image_id"] for record in one] == [record["image_id"] for record in other]
        for first, second in zip(one, other, strict=True):
            assert torch.equal(first["image"], second["image"])
            assert torch.equal(first["sem_seg"], second["sem_seg"])
    pictures = [record["image"].numpy() for batch in batches[0] for record in batch]
    assert len({picture.tobytes() for picture in pictures}) > NUMBER  # some of them turned
    assert np.shape(pictures) == (18, 1, 24, 24)
