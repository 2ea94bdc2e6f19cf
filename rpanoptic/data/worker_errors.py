"""Errors of a user's data, from a worker process to the one that takes the batches, as they are.

PyTorch raises a worker's error again with the worker's traceback in its message. What names a
broken file shall read the same however many workers there are.
"""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from rpanoptic.errors import UserError


class ErrorsAsItems(Dataset[Any]):
    """A map-style dataset that returns a UserError in place of the item whose reading raised it.

    Args:
        dataset: map-style.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        """The item, or the error."""
        try:
            return self._dataset[index]
        except UserError as error:
            return error


def raise_first(batch: list[Any]) -> None:
    """Raise the first error of a batch from :class:`ErrorsAsItems`, if there is one."""
    for item in batch:
        if isinstance(item, UserError):
            raise item
