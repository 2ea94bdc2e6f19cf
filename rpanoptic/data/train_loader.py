"""Training data in an order that neither workers nor interruptions change.

Detectron2's loader groups pictures after its workers have read them, and every worker draws the
random numbers of its augmentations from a generator of its own. So its batches depend on the
number of workers, and no batch can be had without reading all that come before it. Here the
batches are made of indices, in the main process, and every place in the stream of indices has
random numbers of its own. Which pictures are drawn, and what is grouped with what, remains as in
Detectron2.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.build import (
    _train_loader_from_config,
    trivial_batch_collator,
    worker_init_reset_seed,
)
from detectron2.data.common import AspectRatioGroupedDataset, DatasetFromList
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch.utils.data import DataLoader, Dataset

from rpanoptic.data.unusable import Unusable, UnusableLog
from rpanoptic.data.worker_errors import ErrorsAsItems, raise_first
from rpanoptic.errors import ConfigError, DatasetError
from rpanoptic.random_state import seeded

logger = logging.getLogger(__name__)

Record = dict[str, Any]
# From a record to the model's input; Unusable, or None, where the record cannot be used.
Mapper = Callable[[Record], Record | Unusable | None]
# Place in the stream of all processes, and index in the dataset.
Draw = tuple[int, int]
# Draws that find no usable record before each further one is worth a warning.
_QUIET_RETRIES = 3


class Drawn(NamedTuple):
    """The input for one place of the stream, and the records that another one had to replace."""

    mapped: Record
    unusable: tuple[Unusable, ...]


class SeededDataset(Dataset[Drawn]):
    """Maps records with random numbers that follow from a seed and the place in the stream.

    Args:
        records: the dataset.
        mapper: from a record to the model's input; :class:`rpanoptic.data.unusable.Unusable`, or
            None, where a record cannot be used, which another one, drawn at random, then replaces.
        seed: of the stream.
    """

    def __init__(self, records: Sequence[Record], mapper: Mapper, seed: int) -> None:
        self._records = records
        self._mapper = mapper
        self._seed = seed

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, draw: Draw) -> Drawn:
        """The input for one place of the stream.

        Raises:
            DatasetError: the mapper can use no record at all.
        """
        place, index = draw
        unusable: list[Unusable] = []
        with seeded(self._seed, place):
            mapped = self._mapped(index, unusable)
            if mapped is not None:
                return Drawn(mapped, ())
            for count, other in enumerate(np.random.permutation(len(self)), start=1):
                if count > _QUIET_RETRIES:
                    logger.warning("Record %d and %d others cannot be used.", index, count - 1)
                mapped = self._mapped(int(other), unusable)
                if mapped is not None:
                    return Drawn(mapped, tuple(unusable))
        last = f" The last one: {unusable[-1].reason}" if unusable else ""
        raise DatasetError(f"the mapper can use none of the dataset's records.{last}")

    def _mapped(self, index: int, unusable: list[Unusable]) -> Record | None:
        record = self._records[index]
        mapped = self._mapper(record)
        if mapped is None or isinstance(mapped, Unusable):
            unusable.append(mapped or Unusable.of(record))
            return None
        return mapped


class TrainLoader:
    """An endless stream of batches that can be continued anywhere.

    The batches are a function of the seed and of their number in the stream. Iterating goes on
    where the last iteration ended; what the workers have fetched ahead does not count. Passing
    over batches reads no picture. Unusable pictures are named in the log, once each; their number
    in this process is recorded as "data/unusable_pictures" from the first one on.

    Args:
        records: the dataset, map-style.
        mapper: see :class:`SeededDataset`.
        make_sampler: from a seed to this process's part of an endless stream of indices, as
            Detectron2's samplers divide it: every ``world_size``-th, from the rank on.
        seed: of order and augmentations; at least 0 and the same in all processes.
        total_batch_size: pictures of a batch over all processes.
        wide: ``(len(records),)`` bool, the pictures that are wider than high, which are then
            grouped apart from the others. None groups nothing.
        num_workers: processes that read.
    """

    def __init__(
        self,
        *,
        records: Sequence[Record],
        mapper: Mapper,
        make_sampler: Callable[[int], Iterable[int]],
        seed: int,
        total_batch_size: int,
        wide: np.ndarray | None = None,
        num_workers: int = 0,
    ) -> None:
        self._records = records
        self._mapper = mapper
        self._make_sampler = make_sampler
        self._sampler = make_sampler(seed)
        self._seed = seed
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()
        if total_batch_size < 1 or total_batch_size % self._world_size:
            raise ConfigError(
                f"SOLVER.IMS_PER_BATCH is {total_batch_size}, expected a multiple of the number "
                f"of processes, {self._world_size}."
            )
        self._total_batch_size = total_batch_size
        self._wide = wide
        self._num_workers = num_workers
        self._passed = 0
        self._unusable = UnusableLog("Another picture takes its place.")

    @property
    def seed(self) -> int:
        """Seed of the stream."""
        return self._seed

    def __iter__(self) -> Iterator[list[Record]]:
        loader = DataLoader(
            ErrorsAsItems(SeededDataset(self._records, self._mapper, self._seed)),
            batch_sampler=itertools.islice(self.draws(), self._passed, None),
            num_workers=self._num_workers,
            collate_fn=trivial_batch_collator,
            worker_init_fn=worker_init_reset_seed,
            # Else starting the workers would draw from the generator that the model uses.
            generator=torch.Generator().manual_seed(self._seed),
        )
        for batch in loader:
            raise_first(batch)
            self._passed += 1
            self._note([one for drawn in batch for one in drawn.unusable])
            yield [drawn.mapped for drawn in batch]

    def _note(self, unusable: list[Unusable]) -> None:
        self._unusable.note(unusable)
        if self._unusable.times:
            # Outside of a training there is nowhere to record it.
            with contextlib.suppress(AssertionError):
                get_event_storage().put_scalar(
                    "data/unusable_pictures", self._unusable.pictures, smoothing_hint=False
                )

    def draws(self) -> Iterator[list[Draw]]:
        """This process's batches from the beginning, as places and indices."""
        size = self._total_batch_size // self._world_size
        places = itertools.count(self._rank, self._world_size)
        stream = zip(places, self._sampler, strict=False)
        if self._wide is None:
            while True:
                yield list(itertools.islice(stream, size))
        else:
            wide = self._wide
            shapes = (
                {"width": int(wide[index]), "height": 0, "draw": (place, index)}
                for place, index in stream
            )
            for group in AspectRatioGroupedDataset(shapes, size):
                yield [shape["draw"] for shape in group]

    def state_dict(self) -> dict[str, int]:
        """Where the stream is, the same in all processes."""
        return {
            "seed": self._seed,
            "batches": self._passed,
            "total_batch_size": self._total_batch_size,
            "world_size": self._world_size,
            "records": len(self._records),
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue a stream, as exactly as what has changed since permits; say if it does not.

        Args:
            state: from :meth:`state_dict`.
        """
        now = self.state_dict()
        for key, what in (
            ("records", "The training set has {1} records, and had {0} before"),
            ("total_batch_size", "SOLVER.IMS_PER_BATCH is {1}, and was {0} before"),
            ("world_size", "There are {1} processes, and were {0} before"),
        ):
            if state[key] != now[key]:
                logger.warning(
                    "%s: the order of data continues at about the same place, but not exactly.",
                    what.format(state[key], now[key]),
                )
        if state["seed"] != self._seed:
            logger.info("The order of data goes on with the checkpoint's seed %d.", state["seed"])
            self._seed = state["seed"]
            self._sampler = self._make_sampler(self._seed)
        pictures = state["batches"] * state["total_batch_size"]
        self._passed = pictures // self._total_batch_size


def build_train_loader(cfg: CfgNode, mapper: Mapper) -> TrainLoader:
    """The training data of a config, chosen and filtered as Detectron2 does it.

    A panoptic picture that is void everywhere is left out too: it teaches a detector alone, that
    there is nothing, which nobody has said.

    With ``SEED`` below 0 a seed is drawn, the same for all processes, and logged.

    Args:
        cfg: a config; ``DATASETS``, ``DATALOADER``, ``SOLVER.IMS_PER_BATCH`` and ``SEED`` count.
        mapper: see :class:`SeededDataset`.

    Raises:
        ConfigError: the sampler is unknown, or needs what the records lack; the batch cannot be
            divided among the processes; or pictures shall be grouped by shape in a dataset that
            does not tell their sizes.
        DatasetError: all pictures are void, or left out since they have no annotation.
    """
    seed = int(cfg.SEED)
    if seed < 0:
        seed = comm.shared_random_seed()
        logger.info("SEED is %d: the order of data follows from the drawn seed %d.", cfg.SEED, seed)
    try:
        options = _train_loader_from_config(cfg, mapper, seed=seed)
    except AssertionError as error:
        if "No valid data" not in str(error):
            raise
        raise DatasetError(
            f"DATASETS.TRAIN: no picture of {', '.join(cfg.DATASETS.TRAIN)} has an annotated "
            "object that is not a crowd. To train on pictures without any, set "
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS to False."
        ) from error
    except ValueError as error:
        if "sampler" not in str(error):
            raise
        raise ConfigError(f"DATALOADER.SAMPLER_TRAIN: {error}.") from error
    except KeyError as error:
        if cfg.DATALOADER.SAMPLER_TRAIN != "RepeatFactorTrainingSampler":
            raise
        raise ConfigError(
            f"DATALOADER.SAMPLER_TRAIN: RepeatFactorTrainingSampler needs the {error.args[0]} of "
            "every picture, which the training sets do not have; take TrainingSampler."
        ) from error
    listed = _without_void(options["dataset"])
    wide = _wide(listed) if options["aspect_ratio_grouping"] else None
    records = DatasetFromList(listed, copy=False) if isinstance(listed, list) else listed

    def make_sampler(seed: int) -> Iterable[int]:
        return _train_loader_from_config(cfg, mapper, dataset=records, seed=seed)["sampler"]

    return TrainLoader(
        records=records,
        mapper=mapper,
        make_sampler=make_sampler,
        seed=seed,
        total_batch_size=options["total_batch_size"],
        wide=wide,
        num_workers=options["num_workers"],
    )


def _without_void(records: Any) -> Any:
    """A list without the records of panoptic pictures in which no segment is labelled."""
    if not isinstance(records, list):
        return records
    kept = [record for record in records if record.get("segments_info") != []]
    if not kept:
        raise DatasetError("no picture of DATASETS.TRAIN has a segment.")
    if len(kept) < len(records):
        logger.info("Pictures without any segment are left out: %d.", len(records) - len(kept))
    return kept


def _wide(records: Sequence[Record]) -> np.ndarray:
    wide = np.empty(len(records), dtype=bool)
    for index in range(len(records)):
        record = records[index]
        if record.get("width") is None or record.get("height") is None:
            raise ConfigError(
                "DATALOADER.ASPECT_RATIO_GROUPING needs the width and height of every picture, "
                f"but the dataset does not tell them for {record.get('file_name')}: set it to "
                "False."
            )
        wide[index] = record["width"] > record["height"]
    return wide
