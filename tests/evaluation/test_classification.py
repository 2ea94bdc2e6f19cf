"""The evaluator of pictures with one label against torchmetrics, scikit-learn and small sums."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm
from sklearn.metrics import top_k_accuracy_score
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from rpanoptic.errors import ConfigError, DatasetError, NonFiniteError
from rpanoptic.evaluation.classification import CALIBRATION_BINS, ClassificationEvaluator

CLASSES = 12
STEPS = (3, 5, 9)
Sample = tuple[dict[str, Any], dict[str, Any]]


def drawn(count: int, *, classes: int = CLASSES, steps: Sequence[int] = STEPS) -> list[Sample]:
    """Labels, and logits that come nearer to them from readout to readout."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for index in range(count):
        label = int(torch.randint(classes, (), generator=generator))
        logits = 2 * torch.randn(len(steps), classes, generator=generator)
        logits[:, label] += torch.linspace(0, 3, len(steps))
        output = {"classification": logits.mean(dim=0)}
        output |= {"classification_steps": logits, "readout_steps": tuple(steps)}
        given = {"image_id": index, "file_name": f"{index}.png", "label": label}
        samples.append((given, output))
    return samples


def judged(
    samples: Sequence[Sample], *, batch: int = 4, classes: int = CLASSES, folder: Path | None = None
) -> dict[str, float]:
    evaluator = ClassificationEvaluator(classes, dataset="drawn", folder=folder)
    return _judged(evaluator, samples, batch=batch).get("classification", {})


def _judged(
    evaluator: ClassificationEvaluator, samples: Sequence[Sample], *, batch: int
) -> dict[str, dict[str, float]]:
    for start in range(0, len(samples), batch):
        inputs, outputs = zip(*samples[start : start + batch], strict=True)
        evaluator.process(list(inputs), list(outputs))
    return evaluator.evaluate()


def together(samples: Sequence[Sample], place: int | None = None) -> tuple[Tensor, Tensor]:
    """Logits of the answers, or of a readout, and labels of the whole set."""
    key = "classification" if place is None else "classification_steps"
    logits = torch.stack([output[key] for _, output in samples])
    labels = torch.tensor([given["label"] for given, _ in samples])
    return logits if place is None else logits[:, place], labels


def test_figures_are_those_of_torchmetrics_and_scikit_learn() -> None:
    samples = drawn(200)
    result = judged(samples)
    logits, labels = together(samples)
    for name, k in (("top1", 1), ("top5", 5)):
        accuracy = MulticlassAccuracy(CLASSES, top_k=k, average="micro")(logits, labels)
        # Torchmetrics and PyTorch count in float32.
        assert result[name] == pytest.approx(100 * accuracy.item(), rel=1e-5)
        theirs = top_k_accuracy_score(labels, logits.numpy(), k=k, labels=range(CLASSES))
        assert result[name] == pytest.approx(100 * theirs, rel=1e-12)
    assert result["loss"] == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-5)
    calibration = MulticlassCalibrationError(CLASSES, n_bins=CALIBRATION_BINS, norm="l1")
    error = calibration(logits.softmax(dim=1), labels).item()
    # Some percent, so that a wrong column would show.
    assert error > 0.02
    assert result["calibration_error"] == pytest.approx(100 * error, rel=1e-4)
    for place, step in enumerate(STEPS):
        logits, labels = together(samples, place)
        theirs = top_k_accuracy_score(labels, logits.numpy(), k=1, labels=range(CLASSES))
        assert result[f"top1_step_{step}"] == pytest.approx(100 * theirs, rel=1e-12)
    assert result["top1_step_3"] < result["top1_step_5"] < result["top1_step_9"]


def test_an_example_counted_by_hand() -> None:
    # Probabilities 3/4 and 1/4, right; 1/2 and 1/2, which counts as class 0, wrong.
    logits = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])
    samples = [
        ({"image_id": i, "label": label}, {"classification": logits[i]})
        for i, label in enumerate((0, 1))
    ]
    assert judged(samples, classes=2) == {
        "top1": 50.0,
        "loss": pytest.approx((math.log(4 / 3) + math.log(2)) / 2),
        # Two bins of one sample each: sure by 3/4 and right, by 1/2 and wrong.
        "calibration_error": pytest.approx(100 * (1 / 4 + 1 / 2) / 2),
    }


@pytest.mark.parametrize(("label", "top1", "top5"), [(0, 100, 100), (4, 0, 100), (5, 0, 0)])
def test_of_equal_logits_the_smaller_number_comes_first(label: int, top1: int, top5: int) -> None:
    sample = {"image_id": 0, "label": label}, {"classification": torch.zeros(7)}
    result = judged([sample], classes=7)
    assert (result["top1"], result["top5"]) == (top1, top5)


def test_results_depend_on_no_batches() -> None:
    samples = drawn(9)
    results = [judged(samples, batch=batch) for batch in (1, 4, 9)]
    assert results[0] == results[1] == results[2]


def test_a_single_readout_is_the_answer() -> None:
    samples = drawn(6, steps=(7,))
    assert judged(samples).keys() == {"top1", "top5", "loss", "calibration_error"}


def test_no_samples(tmp_path: Path) -> None:
    evaluator = ClassificationEvaluator(CLASSES, dataset="drawn", folder=tmp_path)
    evaluator.process([], [])
    (found,) = evaluator.evaluate().values()
    assert found.keys() == {"top1", "top5", "loss", "calibration_error"}
    assert all(math.isnan(value) for value in found.values())
    text = json.loads((tmp_path / "drawn_classification.json").read_text())
    assert (text["samples"], text["top1"]) == (0, None)


def test_files(tmp_path: Path) -> None:
    folder = tmp_path / "inference"
    result = judged(drawn(20), folder=folder)
    text = json.loads((folder / "drawn_classification.json").read_text())
    assert text["dataset"] == "drawn" and text["samples"] == 20
    assert text["readout_steps"] == list(STEPS)
    assert {name: text[name] for name in ("top1", "top5", "loss", "calibration_error")} == {
        name: value for name, value in result.items() if "step" not in name
    }
    assert text["by_readout"]["top1"] == [result[f"top1_step_{step}"] for step in STEPS]
    assert set(text["by_readout"]) == {"top1", "top5", "loss", "calibration_error"}
    assert all(len(values) == len(STEPS) for values in text["by_readout"].values())
    picture = cv2.imread(str(folder / "drawn_accuracy_over_steps.png"))
    assert picture is not None and picture.std() > 0
    judged(drawn(3, steps=(1,)), folder=tmp_path / "one")
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["drawn_classification.json"]


def test_little_is_kept_of_a_sample() -> None:
    evaluator = ClassificationEvaluator(CLASSES, dataset="drawn")
    inputs, outputs = zip(*drawn(5), strict=True)
    evaluator.process(inputs, outputs)
    (rows,) = evaluator._rows
    # A label; of the answer and of each readout four numbers, not K.
    assert rows.shape == (5, 1 + 4 * (1 + len(STEPS)))


def test_a_sample_that_comes_twice_counts_once() -> None:
    samples = drawn(5)
    # Computed in another batch, its logits differ in their last digits.
    again = (
        samples[2][0],
        {
            key: value * (1 + 1e-6) if isinstance(value, Tensor) else value
            for key, value in samples[2][1].items()
        },
    )
    assert judged([*samples, again]) == judged(samples)
    other = {**samples[3][0], "image_id": 2}, samples[3][1]
    with pytest.raises(DatasetError, match=r"2\.png and 3\.png both have image_id 2"):
        judged([*samples, other])
    label = (samples[2][0]["label"] + 1) % CLASSES
    with pytest.raises(DatasetError, match="two samples of different results have image_id 2"):
        judged([*samples, ({**samples[2][0], "label": label}, samples[2][1])])


def test_what_cannot_be_judged_is_named() -> None:
    ((given, output),) = drawn(1)
    named = r"0\.png \(image_id 0\)"
    for label in (-1, CLASSES):
        with pytest.raises(
            DatasetError, match=rf"drawn: the label of {named} is {label}.* 0 to 11"
        ):
            judged([({**given, "label": label}, output)])
    with pytest.raises(
        ConfigError, match=rf"{named}: classification is \(12,\).*\(10,\).*NUM_CLAS"
    ):
        judged([(given, output)], classes=10)
    cut = {**output, "classification_steps": output["classification_steps"][:2]}
    with pytest.raises(ConfigError, match=rf"{named}: classification_steps is \(2, 12\)"):
        judged([(given, cut)])
    for key in ("classification", "classification_steps"):
        for value in (math.nan, math.inf):
            bad = output[key].clone()
            bad.view(-1)[-1] = value
            with pytest.raises(NonFiniteError, match=rf"logits of {named} are not finite"):
                judged([(given, {**output, key: bad})])
    first, second = drawn(2)
    second[1]["readout_steps"] = (3, 5, 10)
    with pytest.raises(ConfigError, match=r"1\.png.*\[3, 5, 10\].* after \[3, 5, 9\]"):
        judged([first, second])


def test_reset_forgets() -> None:
    evaluator = ClassificationEvaluator(CLASSES, dataset="drawn")
    _judged(evaluator, drawn(4), batch=2)
    evaluator.reset()
    other = drawn(6, steps=(2, 4))
    assert _judged(evaluator, other, batch=3)["classification"] == judged(other)


# Shares of two processes, by index: uneven, with one that comes twice; and one without any.
SHARES = [([0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 0]), ([0, 1, 2], []), ([], [0, 1, 2])]


def evaluate_a_share(rank: int, folder: Path) -> None:
    """One of two processes: judges its parts of the sets."""
    meeting = (folder / "meeting").as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    samples = drawn(10)
    results = [
        judged([samples[place] for place in shares[rank]], batch=2 + rank) for shares in SHARES
    ]
    (folder / f"{rank}.json").write_text(json.dumps(results))
    comm.synchronize()
    dist.destroy_process_group()


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    # Forked: a process that begins anew imports for seconds.
    mp.start_processes(evaluate_a_share, args=(tmp_path,), nprocs=2, start_method="fork")
    found, none = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    samples = drawn(10)
    assert found == [judged(samples), judged(samples[:3]), judged(samples[:3])]
    assert none == [{}, {}, {}]
