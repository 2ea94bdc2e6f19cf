"""The evaluators of Pathfinder: an example counted by hand, and scikit-learn's figures."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data.samplers import InferenceSampler
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from sklearn import metrics
from torch import Tensor

from rpanoptic.errors import ConfigError, DatasetError
from rpanoptic.evaluation.contours import ContourClassificationEvaluator, ContourEvaluator

NAMES = ["F1", "IoU", "precision", "recall", "balanced_accuracy"]
# What scikit-learn gives where a figure is 0/0.
UNDEFINED = {"zero_division": np.nan}


def sample(image_id: int, truth: Tensor, predicted: Tensor) -> tuple[dict, dict]:
    """Input and output of a model whose scores are the predicted class."""
    predicted = predicted.float()
    scores = torch.stack([1 - predicted, predicted])
    return {"image_id": image_id, "sem_seg": truth.long()}, {"sem_seg": scores}


def drawn(count: int, seed: int = 0, side: int = 6) -> list[tuple[dict, dict]]:
    """Samples whose pixels are drawn; truths and predictions agree in most."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for image_id in range(count):
        truth = torch.rand(side, side, generator=generator) < 0.3
        flipped = torch.rand(side, side, generator=generator) < 0.1 + 0.02 * (image_id % 10)
        samples.append(sample(image_id, truth, truth ^ flipped))
    return samples


def judged(
    evaluator: DatasetEvaluator, samples: Sequence[tuple[dict, dict]], *, batch: int = 3
) -> Any:
    for start in range(0, len(samples), batch):
        inputs, outputs = zip(*samples[start : start + batch], strict=True)
        evaluator.process(list(inputs), list(outputs))
    return evaluator.evaluate()


def flat(samples: Sequence[tuple[dict, dict]]) -> tuple[np.ndarray, np.ndarray]:
    """All pixels of ground truths and predictions."""
    truth = torch.cat([one["sem_seg"].flatten() for one, _ in samples])
    predicted = torch.cat([one["sem_seg"].argmax(0).flatten() for _, one in samples])
    return truth.numpy(), predicted.numpy()


def of_scikit_learn(samples: Sequence[tuple[dict, dict]]) -> dict[str, float]:
    truth, predicted = flat(samples)
    return {
        "F1": 100 * metrics.f1_score(truth, predicted, **UNDEFINED),
        "IoU": 100 * metrics.jaccard_score(truth, predicted, zero_division=0),
        "precision": 100 * metrics.precision_score(truth, predicted, **UNDEFINED),
        "recall": 100 * metrics.recall_score(truth, predicted, **UNDEFINED),
        "balanced_accuracy": 100 * metrics.balanced_accuracy_score(truth, predicted),
    }


def test_an_example_counted_by_hand() -> None:
    truth = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0]])
    found = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]])  # 2 found, 1 missed, 1 too many
    other = torch.tensor([[1, 0], [0, 0]])
    samples = [sample(1, truth, found), sample(2, other, other)]  # of two sizes
    result = judged(ContourEvaluator(batch_size=1), samples)
    # In all: 3 true and 1 false positive, 1 false and 7 true negatives.
    expected = {
        "F1": 6 / 8,
        "IoU": 3 / 5,
        "precision": 3 / 4,
        "recall": 3 / 4,
        "balanced_accuracy": (3 / 4 + 7 / 8) / 2,
        "batch_F1": (4 / 6 + 1) / 2,
        "batch_IoU": (2 / 4 + 1) / 2,
        "batch_precision": (2 / 3 + 1) / 2,
        "batch_recall": (2 / 3 + 1) / 2,
        "batch_balanced_accuracy": ((2 / 3 + 4 / 5) / 2 + 1) / 2,
    }
    assert result.keys() == {"contour"} and result["contour"].keys() == expected.keys()
    for name, value in expected.items():
        assert result["contour"][name] == pytest.approx(100 * value, rel=1e-12), name


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_masks_give_scikit_learns_figures(seed: int) -> None:
    samples = drawn(7, seed)
    result = judged(ContourEvaluator(batch_size=3), samples)["contour"]
    parts = [of_scikit_learn(samples[start : start + 3]) for start in (0, 3, 6)]
    for name, value in of_scikit_learn(samples).items():
        assert result[name] == pytest.approx(value, rel=1e-12), name
        mean = np.mean([part[name] for part in parts])
        assert result[f"batch_{name}"] == pytest.approx(mean, rel=1e-12), name
        assert abs(result[f"batch_{name}"] - result[name]) > 1e-3  # they are two things
    ious = [part["F1"] / (200 - part["F1"]) for part in parts]  # as the paper has it
    assert result["batch_IoU"] == pytest.approx(100 * np.mean(ious), rel=1e-12)


def test_the_papers_batches_are_of_128() -> None:
    samples = drawn(130, side=2)
    ours, papers = (
        judged(e, samples) for e in (ContourEvaluator(), ContourEvaluator(batch_size=128))
    )
    assert ours == papers
    parts = [of_scikit_learn(samples[:128])["F1"], of_scikit_learn(samples[128:])["F1"]]
    assert ours["contour"]["batch_F1"] == pytest.approx(np.mean(parts), rel=1e-12)


def test_results_depend_on_no_batches_of_the_model() -> None:
    samples = drawn(8)
    results = [judged(ContourEvaluator(batch_size=4), samples, batch=batch) for batch in (1, 3, 8)]
    assert results[0] == results[1] == results[2]


def test_the_order_of_the_samples_makes_the_batches() -> None:
    samples = drawn(4)
    one = judged(ContourEvaluator(batch_size=2), samples)["contour"]
    other = judged(ContourEvaluator(batch_size=2), [samples[i] for i in (0, 2, 1, 3)])["contour"]
    assert one["F1"] == other["F1"] and one["batch_F1"] != other["batch_F1"]


NOTHING, ALL = torch.zeros(3, 3), torch.ones(3, 3)


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [
        (NOTHING, NOTHING, [math.nan] * 5),
        (NOTHING, ALL, [0.0, 0.0, 0.0, math.nan, math.nan]),
        (ALL, NOTHING, [0.0, 0.0, math.nan, 0.0, math.nan]),
        (ALL, ALL, [100.0, 100.0, 100.0, 100.0, math.nan]),
    ],
)
def test_empty_and_full_masks(truth: Tensor, predicted: Tensor, expected: list[float]) -> None:
    samples = [sample(0, truth, predicted)]
    result = judged(ContourEvaluator(), samples)["contour"]
    assert [result[name] for name in NAMES] == pytest.approx(expected, nan_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of a class that is absent
        theirs = of_scikit_learn(samples)
    for name in ("F1", "precision", "recall"):
        assert result[name] == pytest.approx(theirs[name], nan_ok=True), name


def test_batches_without_a_figure_are_left_out_of_the_mean() -> None:
    (one,) = drawn(1)
    empty = sample(1, NOTHING, NOTHING)
    result = judged(ContourEvaluator(batch_size=1), [one, empty])["contour"]
    for name in NAMES:
        assert result[f"batch_{name}"] == judged(ContourEvaluator(), [one])["contour"][name]


def test_no_samples() -> None:
    for evaluator in (ContourEvaluator(), ContourClassificationEvaluator()):
        for figures in evaluator.evaluate().values():
            assert all(math.isnan(value) for value in figures.values())


def test_ties_and_scores_that_are_no_numbers_are_background() -> None:
    output = {"sem_seg": torch.tensor([[[0.5, 0.0, math.nan]], [[0.5, 0.1, 1.0]]])}
    truth = {"image_id": 0, "sem_seg": torch.tensor([[1, 1, 1]])}
    assert judged(ContourEvaluator(), [(truth, output)])["contour"]["recall"] == pytest.approx(
        100 / 3
    )


def test_pixels_of_other_values_count_nowhere() -> None:
    truth, output = sample(0, torch.tensor([[1, 0, 255, 255]]), torch.tensor([[1, 0, 1, 0]]))
    result = judged(ContourEvaluator(), [(truth, output)])["contour"]
    assert [result[name] for name in NAMES] == [100.0] * 5


@pytest.mark.parametrize("shape", [(2, 4, 5), (3, 4, 4), (4, 4), (1, 2, 4, 4)])
def test_predictions_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    given = {"image_id": 7, "file_name": "set/000007", "sem_seg": torch.zeros(4, 4)}
    with pytest.raises(ConfigError) as raised:
        ContourEvaluator().process([given], [{"sem_seg": torch.zeros(shape)}])
    for part in ("set/000007", "image_id 7", str(shape), "(2, 4, 4)"):
        assert part in str(raised.value)


def test_a_batch_size_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        ContourEvaluator(batch_size=0)


def test_reset_makes_anew_what_is_gathered() -> None:
    first = ContourEvaluator()
    expected = judged(first, drawn(3))
    second = copy.copy(first)
    second.reset()
    assert judged(second, drawn(3, seed=1)) != expected
    assert first.evaluate() == expected
    first.reset()
    assert judged(first, drawn(3)) == expected


def test_a_sample_that_comes_twice_counts_once() -> None:
    samples = drawn(3)
    twice = judged(ContourEvaluator(), [*samples, samples[0]])
    assert twice == judged(ContourEvaluator(), samples)
    other = ({**samples[1][0], "image_id": 0}, samples[1][1])
    with pytest.raises(DatasetError, match="two samples of different results have image_id 0"):
        judged(ContourEvaluator(), [*samples, other])


def classified(count: int) -> list[tuple[dict, dict]]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (count,), generator=generator).tolist()
    scores = torch.randn(count, 2, generator=generator)
    return [
        ({"image_id": i, "label": label}, {"classification": scores[i]})
        for i, label in enumerate(labels)
    ]


def test_accuracy() -> None:
    samples = classified(11)
    labels = [one["label"] for one, _ in samples]
    predicted = [int(one["classification"].argmax()) for _, one in samples]
    result = judged(ContourClassificationEvaluator(), samples)
    accuracy = 100 * metrics.accuracy_score(labels, predicted)
    assert 0 < accuracy < 100
    assert result == {"classification": {"accuracy": pytest.approx(accuracy, rel=1e-12)}}
    with pytest.raises(ConfigError, match=r"image_id 0.*is \(3,\) in the prediction"):
        ContourClassificationEvaluator().process(
            [samples[0][0]], [{"classification": torch.ones(3)}]
        )


def evaluators() -> list[DatasetEvaluator]:
    return [ContourEvaluator(batch_size=4), ContourClassificationEvaluator()]


# Not divisible by the number of processes, nor by the batches.
SAMPLES = 11


def evaluate_a_share(rank: int, folder: Path) -> None:
    """One of two processes: judges its part of the set."""
    meeting = (folder / "meeting").as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    results = []
    for evaluator, samples in zip(evaluators(), (drawn(SAMPLES), classified(SAMPLES)), strict=True):
        mine = [samples[place] for place in InferenceSampler(len(samples))]
        results.append(judged(evaluator, mine, batch=2 + rank))
    (folder / f"{rank}.json").write_text(json.dumps(results))
    comm.synchronize()
    dist.destroy_process_group()


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    # Forked: a process that begins anew imports for seconds.
    mp.start_processes(evaluate_a_share, args=(tmp_path,), nprocs=2, start_method="fork")
    found, none = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    samples = (drawn(SAMPLES), classified(SAMPLES))
    assert found == [judged(e, part) for e, part in zip(evaluators(), samples, strict=True)]
    assert none == [{}, {}]
