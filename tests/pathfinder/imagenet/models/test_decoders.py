"""Decoders of logits over time, on logits made by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rpanoptic.pathfinder.imagenet.models import DECODERS, decode


def logits_of(probabilities: list[float]) -> Tensor:
    """``(R, 1, 2)``: two classes, of which the first has these probabilities by readout."""
    return torch.tensor([[[math.log(p), math.log(1 - p)]] for p in probabilities])


def index_of(name: str, probabilities: list[float], threshold: float = 0.9) -> int:
    logits = logits_of(probabilities)
    answer, index = decode(name, logits, threshold)
    if name in ("last", "max_confidence", "threshold"):
        torch.testing.assert_close(answer[0], logits[int(index), 0])
    return int(index)


@pytest.mark.parametrize(
    ("name", "probabilities", "index"),
    [
        ("last", [0.9, 0.6, 0.7], 2),
        ("mean", [0.9, 0.6, 0.7], 2),
        ("sum", [0.9, 0.6, 0.7], 2),
        ("max_confidence", [0.6, 0.8, 0.7], 1),
        # Sure that it is the other class.
        ("max_confidence", [0.6, 0.8, 0.1], 2),
        # Of several as sure, the first.
        ("max_confidence", [0.6, 0.8, 0.8], 1),
        ("max_confidence", [0.5, 0.5, 0.5], 0),
        ("threshold", [0.6, 0.95, 0.99], 1),
        ("threshold", [0.6, 0.01, 0.99], 1),
        ("threshold", [0.95, 0.95], 0),
        # Nothing is sure enough: the surest, of several the first.
        ("threshold", [0.6, 0.8, 0.7], 1),
        ("threshold", [0.6, 0.8, 0.8], 1),
    ],
)
def test_which_readout_answers(name: str, probabilities: list[float], index: int) -> None:
    assert index_of(name, probabilities) == index


def test_the_threshold_itself_counts_as_reached() -> None:
    # softmax of (0, 0) is a half exactly.
    assert index_of("threshold", [0.5, 0.9], threshold=0.5) == 0
    assert index_of("threshold", [0.5, 0.9], threshold=0.500001) == 1


def test_mean_and_sum() -> None:
    logits = torch.tensor([[[1.0, 2.0]], [[3.0, -2.0]]])
    assert decode("mean", logits)[0].tolist() == [[2.0, 0.0]]
    assert decode("sum", logits)[0].tolist() == [[4.0, 0.0]]


@pytest.mark.parametrize("name", DECODERS)
def test_each_picture_is_decoded_by_itself_and_has_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(4, 5, 3)).requires_grad_()
    answer, index = decode(name, logits)
    assert answer.shape == (5, 3)
    assert index.shape == (5,) and index.dtype == torch.int64
    for place in range(5):
        alone, when = decode(name, logits[:, place : place + 1])
        assert torch.equal(alone[0], answer[place]) and int(when) == int(index[place])
    answer.sum().backward()
    assert logits.grad is not None and logits.grad.any(dim=2).any(dim=0).all()


@pytest.mark.parametrize("name", DECODERS)
def test_one_readout_is_the_answer(name: str) -> None:
    logits = torch.randn(1, 2, 3)
    answer, index = decode(name, logits)
    assert torch.equal(answer, logits[0])
    assert index.tolist() == [0, 0]
