"""From the logits of a network at several steps to one answer (Nayebi et al., 2018 and 2022)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Decoded = tuple[Tensor, Tensor]


def last(logits: Tensor, threshold: float = 0.9) -> Decoded:
    """The logits of the last readout; see :func:`decode`."""
    return logits[-1], _index(logits, len(logits) - 1)


def mean(logits: Tensor, threshold: float = 0.9) -> Decoded:
    """Their mean over the readouts. It takes them all: the index is that of the last."""
    return logits.mean(dim=0), _index(logits, len(logits) - 1)


def total(logits: Tensor, threshold: float = 0.9) -> Decoded:
    """Their sum over the readouts: as :func:`mean`, and surer of it."""
    return logits.sum(dim=0), _index(logits, len(logits) - 1)


def max_confidence(logits: Tensor, threshold: float = 0.9) -> Decoded:
    """Those of the readout whose largest probability is largest; the first of several such."""
    return _taken(logits, _confidence(logits).argmax(dim=0))


def first_above_threshold(logits: Tensor, threshold: float = 0.9) -> Decoded:
    """Those of the first readout whose largest probability is ``threshold`` or more.

    Where none is, those of :func:`max_confidence`. The index is when a network that may stop would.
    """
    confidence = _confidence(logits)
    reached = confidence >= threshold
    # The first of several largest values is what argmax gives.
    index = torch.where(reached.any(dim=0), reached.int().argmax(dim=0), confidence.argmax(dim=0))
    return _taken(logits, index)


#: By the names that MODEL.CLASSIFIER.DECODER takes.
DECODERS: dict[str, Callable[[Tensor, float], Decoded]] = {
    "last": last,
    "mean": mean,
    "sum": total,
    "max_confidence": max_confidence,
    "threshold": first_above_threshold,
}


def decode(name: str, logits: Tensor, threshold: float = 0.9) -> Decoded:
    """Decode logits by the decoder of a name.

    Args:
        name: a name of :data:`DECODERS`.
        logits: ``(R, N, K)``, of R readouts in the order of their steps, N pictures, K classes.
        threshold: a probability, for "threshold" alone.

    Returns:
        the answer's logits ``(N, K)``, and the index ``(N,)`` int64 of the readout at which it is
        known, 0 to R - 1.
    """
    return DECODERS[name](logits, threshold)


def _index(logits: Tensor, value: int) -> Tensor:
    return torch.full(logits.shape[1:2], value, device=logits.device)


def _confidence(logits: Tensor) -> Tensor:
    """The largest probability ``(R, N)`` of each readout."""
    return logits.detach().float().softmax(dim=2).amax(dim=2)


def _taken(logits: Tensor, index: Tensor) -> Decoded:
    """Of each picture the logits of one readout."""
    return logits[index, torch.arange(logits.shape[1], device=logits.device)], index
