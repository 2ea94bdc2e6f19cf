"""The mapper that a dataset asks for, and the pictures of an evaluation in batches."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from torch.utils.data import DataLoader

from rpanoptic.data.mapper import PanopticDatasetMapper
from rpanoptic.data.train_loader import Mapper
from rpanoptic.errors import ConfigError, naming


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


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """The pictures of a dataset in its order, in batches of ``RPANOPTIC.TEST_BATCH``.

    Of several processes each has a part of the dataset, those of Detectron2's ``InferenceSampler``:
    contiguous and as equal as can be. The last batch of a process may be smaller.

    Args:
        cfg: a config; ``INPUT``, ``DATALOADER.NUM_WORKERS`` and ``RPANOPTIC.TEST_BATCH`` count.
        dataset_name: a registered dataset.

    Raises:
        ConfigError: ``RPANOPTIC.TEST_BATCH`` is below 1, or see :func:`build_mapper`.
        DatasetError: the dataset is missing or damaged.
    """
    mapper = build_mapper(cfg, [dataset_name], is_train=False)
    one_by_one = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
    with naming("RPANOPTIC.TEST_BATCH"):
        return DataLoader(
            one_by_one.dataset,
            batch_size=cfg.RPANOPTIC.TEST_BATCH,
            sampler=one_by_one.sampler,
            num_workers=one_by_one.num_workers,
            collate_fn=one_by_one.collate_fn,
        )


def _mapper_of(name: str) -> type:
    return MetadataCatalog.get(name).get("mapper", PanopticDatasetMapper)
