"""What evaluators share that judge each sample for itself: rows of numbers, put together once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from rpanoptic.errors import DatasetError

Samples = Sequence[Mapping[str, Any]]


class SampleEvaluator(DatasetEvaluator):
    """Keeps a row of numbers for each sample until all processes put theirs together.

    Figures are then taken from the rows of the whole set, so they depend neither on batches nor on
    how many processes shared the set, and evenly or not. Samples are told apart by
    ``inputs[i]["image_id"]``; one that comes twice counts once.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all samples; copies that were made before keep theirs."""
        self._ids: list[tuple[Any, str | None]] = []
        self._rows: list[Tensor] = []

    def process(self, inputs: Samples, outputs: Samples) -> None:
        """Judge a batch; the class says what is read.

        Raises:
            ConfigError: a prediction has another shape than its ground truth asks for.
        """
        self._rows.append(self._judged(inputs, outputs))
        self._ids += [(sample["image_id"], sample.get("file_name")) for sample in inputs]

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The figures in the main process; ``{}`` in others.

        Raises:
            DatasetError: two samples have one ``image_id`` and are not the same.
        """
        rows = [part.cpu() for part in self._rows]
        comm.synchronize()
        gathered = comm.gather((self._ids, rows))
        if not comm.is_main_process():
            return {}
        ids = [one for part, _ in gathered for one in part]
        parts = [part for _, parts in gathered for part in parts]
        return self._figures(self._once(ids, torch.cat(parts) if parts else torch.empty(0, 0)))

    def _once(self, ids: Sequence[tuple[Any, str | None]], rows: Tensor) -> Tensor:
        """The rows without those of samples that came before."""
        # Detectron2 gives each process a run of the set, the first to the first. A sampler that
        # fills up its processes' shares gives some a second time.
        found: dict[Any, int] = {}
        for place, (image_id, file) in enumerate(ids):
            first = found.setdefault(image_id, place)
            if file != ids[first][1]:
                raise DatasetError(f"{ids[first][1]} and {file} both have image_id {image_id!r}")
            if first != place and not self._same(rows[first], rows[place]):
                raise DatasetError(f"two samples of different results have image_id {image_id!r}")
        return rows if len(found) == len(rows) else rows[list(found.values())]

    def _same(self, row: Tensor, other: Tensor) -> bool:
        """Whether two rows of one ``image_id`` may be those of one sample."""
        return torch.equal(row, other)

    @abstractmethod
    def _judged(self, inputs: Samples, outputs: Samples) -> Tensor:
        """``(N, K)`` numbers, a row for each sample, K the same in all batches."""

    @abstractmethod
    def _figures(self, rows: Tensor) -> dict[str, dict[str, float]]:
        """Results from the rows of all samples, in the order of the set; ``(0, 0)`` of none."""


def sample_name(sample: Mapping[str, Any]) -> str:
    """File and ``image_id`` of a sample, for a message."""
    return f"{sample.get('file_name', 'a sample')} (image_id {sample['image_id']!r})"
