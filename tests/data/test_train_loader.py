from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from detectron2.utils import comm

from rpanoptic.data.train_loader import SeededDataset, TrainLoader, build_train_loader
from rpanoptic.errors import ConfigError, DatasetError

NAME = "rpanoptic_test_shapes"


def shapes() -> list[dict[str, Any]]:
    """Seven records, some wide and some high, of two classes with different frequencies."""
    sizes = [(4, 3), (3, 4), (5, 3), (3, 5), (6, 3), (3, 3), (7, 3)]
    return [
        {
            "file_name": f"{index}.png",
            "width": width,
            "height": height,
            "annotations": [{"iscrowd": 0, "category_id": int(index == 0)}],
        }
        for index, (width, height) in enumerate(sizes)
    ]


def with_random_numbers(record: dict[str, Any]) -> dict[str, Any]:
    """A mapper that draws from all generators that augmentations may draw from."""
    drawn = [random.random(), float(np.random.uniform()), float(torch.rand(()))]
    return {**record, "drawn": drawn}


@pytest.fixture
def cfg() -> Iterator[CfgNode]:
    DatasetCatalog.register(NAME, shapes)
    MetadataCatalog.get(NAME)
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (NAME,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.9
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SEED = 3
    yield cfg
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def take(loader: Iterable[list[dict[str, Any]]], count: int) -> list[list[dict[str, Any]]]:
    return list(itertools.islice(loader, count))


def names(batches: list[list[dict[str, Any]]]) -> list[list[str]]:
    return [[record["file_name"] for record in batch] for batch in batches]


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize(
    "sampler", ["TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"]
)
def test_pictures_come_as_detectron2_draws_and_groups_them(
    cfg: CfgNode, sampler: str, grouped: bool
) -> None:
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouped
    theirs = build_detection_train_loader(cfg, mapper=with_random_numbers, seed=cfg.SEED)
    assert names(take(build_train_loader(cfg, with_random_numbers), 20)) == names(take(theirs, 20))


@pytest.mark.parametrize("grouped", [True, False])
def test_neither_workers_nor_interruptions_change_the_data(cfg: CfgNode, grouped: bool) -> None:
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouped
    whole = take(build_train_loader(cfg, with_random_numbers), 12)
    for workers, before in ((2, 0), (0, 5), (2, 5)):
        cfg.DATALOADER.NUM_WORKERS = workers
        first = build_train_loader(cfg, with_random_numbers)
        assert take(first, before) == whole[:before]
        second = build_train_loader(cfg, with_random_numbers)
        second.load_state_dict(first.state_dict())
        assert take(second, 12 - before) == whole[before:]


def test_each_place_has_its_own_random_numbers(cfg: CfgNode) -> None:
    batches = take(build_train_loader(cfg, with_random_numbers), 14)
    numbers = [number for batch in batches for record in batch for number in record["drawn"]]
    assert len(set(numbers)) == len(numbers)


def test_passing_over_batches_reads_nothing(cfg: CfgNode) -> None:
    seen = []

    def mapper(record: dict[str, Any]) -> dict[str, Any]:
        seen.append(record["file_name"])
        return record

    loader = build_train_loader(cfg, mapper)
    loader.load_state_dict({**loader.state_dict(), "batches": 1000})
    (batch,) = take(loader, 1)
    assert seen == [record["file_name"] for record in batch]


def test_loading_leaves_the_random_numbers_of_the_model_alone(cfg: CfgNode) -> None:
    expected = []
    for count in (0, 3):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        take(build_train_loader(cfg, with_random_numbers), count)
        expected.append([random.random(), np.random.uniform(), float(torch.rand(()))])
    assert expected[0] == expected[1]


def test_processes_share_one_stream(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    alone = take(build_train_loader(cfg, with_random_numbers), 6)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        part = take(build_train_loader(cfg, with_random_numbers), 6)
        assert part == [[batch[rank]] for batch in alone]


def test_batch_must_be_divisible(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    with pytest.raises(ConfigError, match=r"IMS_PER_BATCH is 2, expected a multiple of .* 3"):
        build_train_loader(cfg, with_random_numbers)


def test_drawn_seed_is_logged_and_goes_on(cfg: CfgNode, caplog: pytest.LogCaptureFixture) -> None:
    cfg.SEED = -1
    with caplog.at_level("INFO"):
        first = build_train_loader(cfg, with_random_numbers)
    assert f"the drawn seed {first.seed}" in caplog.text
    whole = take(first, 6)
    second = build_train_loader(cfg, with_random_numbers)
    assert second.seed != first.seed
    second.load_state_dict({**first.state_dict(), "batches": 2})
    assert take(second, 4) == whole[2:]
    assert second.state_dict() == first.state_dict()


@pytest.mark.parametrize(
    ("key", "before", "message", "passed"),
    [
        ("total_batch_size", 4, "IMS_PER_BATCH is 2, and was 4 before", 10),
        ("world_size", 2, "There are 1 processes, and were 2 before", 5),
        ("records", 9, "has 7 records, and had 9 before", 5),
    ],
)
def test_what_has_changed_is_said(
    cfg: CfgNode,
    caplog: pytest.LogCaptureFixture,
    key: str,
    before: int,
    message: str,
    passed: int,
) -> None:
    loader = build_train_loader(cfg, with_random_numbers)
    loader.load_state_dict({**loader.state_dict(), "batches": 5, key: before})
    assert message in caplog.text
    assert loader.state_dict()["batches"] == passed


@pytest.mark.parametrize("workers", [0, 2])
def test_replacement_of_an_unusable_record_depends_on_its_place_alone(workers: int) -> None:
    def mapper(record: dict[str, Any]) -> dict[str, Any] | None:
        return None if record["file_name"] in ("1.png", "4.png") else with_random_numbers(record)

    def load(passed: int, count: int) -> list[list[dict[str, Any]]]:
        loader = TrainLoader(
            records=shapes(),
            mapper=mapper,
            make_sampler=lambda seed: itertools.cycle(range(7)),
            seed=1,
            total_batch_size=1,
            num_workers=workers,
        )
        loader.load_state_dict({**loader.state_dict(), "batches": passed})
        return take(loader, count)

    whole = load(0, 14)
    assert all(record["file_name"] not in ("1.png", "4.png") for (record,) in whole)
    assert load(8, 6) == whole[8:]


def test_no_usable_record_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DatasetError, match="none of the dataset's records"):
        SeededDataset(shapes(), lambda record: None, seed=0)[(0, 1)]
    assert "Record 1 and 6 others cannot be used" in caplog.text


def test_grouping_needs_sizes(cfg: CfgNode) -> None:
    for record in (records := shapes()):
        del record["height"]
    DatasetCatalog.remove(NAME)
    DatasetCatalog.register(NAME, lambda: records)
    with pytest.raises(ConfigError, match=r"ASPECT_RATIO_GROUPING needs .* 0\.png"):
        build_train_loader(cfg, with_random_numbers)
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    assert len(take(build_train_loader(cfg, with_random_numbers), 1)[0]) == 2


def test_a_sampler_that_needs_annotations_is_refused_without_them(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    bare = [{key: record[key] for key in ("width", "height")} for record in shapes()]
    monkeypatch.setattr(DatasetCatalog, "get", lambda _: bare)
    with pytest.raises(ConfigError, match="RepeatFactorTrainingSampler needs the annotations of"):
        build_train_loader(cfg, with_random_numbers)


@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler"])
def test_void_pictures_are_left_out(
    cfg: CfgNode, caplog: pytest.LogCaptureFixture, sampler: str
) -> None:
    segments = [[], [{"id": 1}], [], [{"id": 2}], [{"id": 3}], [], [{"id": 4}]]
    records = [
        {**record, "segments_info": found} for record, found in zip(shapes(), segments, strict=True)
    ]
    DatasetCatalog[NAME] = lambda: records
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    with caplog.at_level("INFO", logger="rpanoptic"):
        seen = names(take(build_train_loader(cfg, with_random_numbers), 6))
    assert {name for batch in seen for name in batch} == {"1.png", "3.png", "4.png", "6.png"}
    assert "without any segment are left out: 3" in caplog.text
    for record in records:
        record["segments_info"] = []
    with pytest.raises(DatasetError, match=r"no picture of DATASETS\.TRAIN has a segment"):
        build_train_loader(cfg, with_random_numbers)


def test_unknown_sampler_is_refused(cfg: CfgNode) -> None:
    cfg.DATALOADER.SAMPLER_TRAIN = "Sampler"
    with pytest.raises(ConfigError, match=r"SAMPLER_TRAIN: .*Sampler"):
        build_train_loader(cfg, with_random_numbers)


def test_error_of_a_worker_names_the_file(cfg: CfgNode, tmp_path: Path) -> None:
    def mapper(record: dict[str, Any]) -> dict[str, Any]:
        raise DatasetError(f"{tmp_path / record['file_name']} is damaged")

    cfg.DATALOADER.NUM_WORKERS = 1
    with pytest.raises(DatasetError, match=r"\.png is damaged"):
        take(build_train_loader(cfg, mapper), 1)
