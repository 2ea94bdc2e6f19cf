"""How many bytes the tape holds for the backward pass: the same on every machine."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def saved_peak(function: Callable[[], object], besides: Iterable[Tensor] = ()) -> int:
    """Most bytes of tensors that autograd has saved at a time during a call.

    A storage counts once however many views of it are saved, from when it is first saved until
    nothing saved refers to it. Tensors that a custom function keeps as plain attributes are not
    seen, nor, on a GPU, what is saved during the backward pass, which runs in a thread of its own.

    Args:
        function: takes forward and backward pass.
        besides: tensors that are there in any case, such as parameters; they do not count.

    Raises:
        RuntimeError: the call uses ``torch.func``, which knows no hooks on saved tensors.
    """
    count = _Count({tensor.untyped_storage().data_ptr() for tensor in besides})
    with saved_tensors_hooks(count.pack, count.unpack):
        function()
    return count.peak


class _Held:
    """A saved tensor; it is dropped together with the node of the graph that saved it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _Count:
    def __init__(self, ignored: set[int]) -> None:
        self.peak = 0
        self._now = 0
        self._ignored = ignored
        self._users: dict[int, int] = {}

    def pack(self, tensor: Tensor) -> Tensor | _Held:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place in self._ignored:
            return tensor
        self._users[place] = self._users.get(place, 0) + 1
        if self._users[place] == 1:
            self._now += size
            self.peak = max(self.peak, self._now)
        held = _Held(tensor)
        # The holder keeps the storage alive, so that its address stays its own.
        weakref.finalize(held, self._release, place, size)
        return held

    @staticmethod
    def unpack(packed: Tensor | _Held) -> Tensor:
        return packed.tensor if isinstance(packed, _Held) else packed

    def _release(self, place: int, size: int) -> None:
        self._users[place] -= 1
        if not self._users[place]:
            del self._users[place]
            self._now -= size
