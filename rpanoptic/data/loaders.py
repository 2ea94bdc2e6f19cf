"""The mapper that a dataset asks for, and the pictures of an evaluation in batches."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, MetadataCatalog, build_detection_test_loader
from detectron2.utils import comm
from torch.utils.data import DataLoader

from rpanoptic.data.mapper import PanopticDatasetMapper
from rpanoptic.data.train_loader import Mapper, Record
from rpanoptic.data.unusable import Unusable, UnusableLog
from rpanoptic.data.worker_errors import ErrorsAsItems, raise_first
from rpanoptic.errors import ConfigError, DatasetError, naming

logger = logging.getLogger(__name__)


def build_mapper(cfg: CfgNode, dataset_names: Sequence[str], *, is_train: bool) -> Mapper:
    """What turns the records of datasets into a model's inputs.

    A dataset names it in its metadata: ``mapper``, a class that can be built as Detectron2's
    ``DatasetMapper`` is, from a config and ``is_train``. Without it,
    :class:`rpanoptic.data.PanopticDatasetMapper` reads the records.

    Args:
        cfg: a config; ``INPUT`` counts.
        dataset_names: registered datasets, at least one; several are trained on together.
        is_train: whether to augment.

    Raises:
        ConfigError: the datasets ask for different mappers, or the mapper refuses its settings.
    """
    first, *others = dataset_names
    mapper = _mapper_of(first)
    for name in others:
        if _mapper_of(name) is not mapper:
            raise ConfigError(
                f"DATASETS.TRAIN: {first} and {name} cannot be trained on together: "
                f"{mapper.__name__} reads the one, {_mapper_of(name).__name__} the other."
            )
    return mapper(cfg, is_train=is_train)


class EvaluationLoader(DataLoader):
    """The pictures of an evaluation in batches, without those that the mapper cannot use.

    These are named in the log, once each, and counted at the end of a pass. A batch of which
    nothing is left is left out; the length counts it.

    Built with a map-style dataset and the options of PyTorch's loader. Iterating raises what the
    mapper raises, and a DatasetError if there is no usable picture at all.
    """

    def __init__(self, dataset: Any, **options: Any) -> None:
        super().__init__(ErrorsAsItems(dataset), **options)
        self._unusable = UnusableLog("It is left out of the evaluation.")

    def __iter__(self) -> Iterator[list[Record]]:  # type: ignore[override]
        left_out = kept = 0
        for batch in super().__iter__():
            raise_first(batch)
            unusable = [one for one in batch if isinstance(one, Unusable)]
            self._unusable.note(unusable)
            usable = [one for one in batch if not isinstance(one, Unusable)]
            left_out, kept = left_out + len(unusable), kept + len(usable)
            if usable:
                yield usable
        # One of several processes may well have a share of few pictures.
        if left_out and not kept and comm.get_world_size() == 1:
            raise DatasetError(f"the mapper can use none of the {left_out} pictures.")
        if left_out:
            logger.warning(
                "Evaluated on %d pictures; %d more are left out, as they cannot be used.",
                kept,
                left_out,
            )


class _Explicit:
    """A mapper that returns Unusable, never None, which Detectron2 would replace at random."""

    def __init__(self, mapper: Mapper) -> None:
        self._mapper = mapper

    def __call__(self, record: Record) -> Record | Unusable:
        mapped = self._mapper(record)
        return Unusable.of(record) if mapped is None else mapped


def build_test_loader(cfg: CfgNode, dataset_name: str) -> EvaluationLoader:
    """The pictures of a dataset in its order, in batches of ``RPANOPTIC.TEST_BATCH``.

    Of several processes each has a part of the dataset, those of Detectron2's ``InferenceSampler``:
    contiguous and as equal as can be. The last batch of a process may be smaller, and so is any
    with a picture that the mapper cannot use: see :class:`EvaluationLoader`.

    With ``TEST.AUG.ENABLED`` pictures that one of Detectron2's mappers reads, or ours of panoptic
    datasets, come in their own size, for what augments them resizes them.

    Args:
        cfg: a config; ``INPUT``, ``TEST.AUG.ENABLED``, ``DATALOADER.NUM_WORKERS`` and
            ``RPANOPTIC.TEST_BATCH`` count.
        dataset_name: a registered dataset.

    Raises:
        ConfigError: ``RPANOPTIC.TEST_BATCH`` is below 1, or see :func:`build_mapper`.
        DatasetError: the dataset is missing or damaged.
    """
    if cfg.TEST.AUG.ENABLED and issubclass(_mapper_of(dataset_name), DatasetMapper):
        cfg = _without_resizing(cfg)
    mapper = build_mapper(cfg, [dataset_name], is_train=False)
    one_by_one = build_detection_test_loader(cfg, dataset_name, mapper=_Explicit(mapper))
    with naming("RPANOPTIC.TEST_BATCH"):
        return EvaluationLoader(
            one_by_one.dataset,
            batch_size=cfg.RPANOPTIC.TEST_BATCH,
            sampler=one_by_one.sampler,
            num_workers=one_by_one.num_workers,
            collate_fn=one_by_one.collate_fn,
        )


def _without_resizing(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    # To ResizeShortestEdge 0 means no change.
    cfg.INPUT.MIN_SIZE_TEST = 0
    return cfg


def _mapper_of(name: str) -> type:
    return MetadataCatalog.get(name).get("mapper", PanopticDatasetMapper)
