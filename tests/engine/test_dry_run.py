"""The evaluation of one picture before a training: what it finds, and that it leaves no trace."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, SemSegEvaluator, coco_evaluation
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import nn

from rpanoptic.engine import Trainer, setup_config
from rpanoptic.engine.dry_run import dry_run
from rpanoptic.engine.run import run
from rpanoptic.errors import ConfigError, EvaluationError
from rpanoptic.evaluation.panoptic import PanopticEvaluator
from tests.engine.tiny import tiny_cfg

VAL = "synthetic_panoptic_val"
ARGUMENTS = argparse.Namespace(config_file="", resume=False, eval_only=False)
# A tiny set with labels, of which a stub of a model knows the answers.
LABELS = "labels_of_test_dry_run"


def tiny_model(cfg: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(cfg)


def test_a_training_is_the_same_with_and_without(tiny_data: Path, tmp_path: Path) -> None:
    losses, weights = [], []
    for switch in (True, False):
        folder = tmp_path / str(switch)
        run(tiny_cfg(folder, RPANOPTIC__DRY_RUN=switch, RPANOPTIC__PICTURES=0), ARGUMENTS)
        log = (folder / "log.txt").read_text()
        told = f"Dry run of {VAL}: a picture passes SemSegEvaluator, COCOEvaluator, PanopticEv"
        assert (told in log) == switch
        lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
        losses.append([{k: v for k, v in line.items() if "time" not in k} for line in lines])
        weights.append(torch.load(folder / "model_final.pth", weights_only=True)["model"])
    assert "total_loss" in losses[0][0] and "panoptic_seg/PQ" in losses[0][-1]
    # As text: NaN is not equal to itself.
    assert json.dumps(losses[0]) == json.dumps(losses[1])
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_it_leaves_no_trace(tiny_data: Path, tmp_path: Path, capfd: Any) -> None:
    cfg = tiny_cfg(tmp_path / "output", MODEL__RESNETS__NORM="BN")
    model = tiny_model(cfg).train()
    # A part that is frozen stays in its mode.
    model.backbone.bottom_up.stem.eval()
    modes = {name: part.training for name, part in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    calls: list[int] = []
    handle = model.register_forward_hook(lambda module, given, _: calls.append(len(given[0])))
    dry_run(cfg, model)
    handle.remove()
    assert calls == [1]
    assert {name: part.training for name, part in model.named_modules()} == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert after == drawn
    assert not (tmp_path / "output" / "inference").exists()
    assert capfd.readouterr().out == ""


def test_only_the_picture_is_judged(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    judged: list[Any] = []
    evaluate = coco_evaluation._evaluate_predictions_on_coco

    def note(*args: Any, img_ids: Any, **options: Any) -> Any:
        judged.append(img_ids)
        return evaluate(*args, img_ids=img_ids, **options)

    monkeypatch.setattr(coco_evaluation, "_evaluate_predictions_on_coco", note)
    cfg = tiny_cfg(tmp_path)
    dry_run(cfg, tiny_model(cfg))
    first = DatasetCatalog.get(VAL)[0]["image_id"]
    assert judged == [[first], [first]]  # boxes and masks
    # Nor are the other pictures counted as missed.
    assert "no prediction" not in caplog.text


def fail(error: Exception) -> Callable[..., None]:
    def raise_it(*_: Any, **__: Any) -> None:
        raise error

    return raise_it


@pytest.mark.parametrize(
    ("kind", "method", "error", "expected", "text"),
    [
        (SemSegEvaluator, "process", KeyError("grass"), EvaluationError, "KeyError: 'grass'"),
        (COCOEvaluator, "evaluate", AssertionError("no"), EvaluationError, "AssertionError: no"),
        (PanopticEvaluator, "evaluate", ConfigError("class 7?"), ConfigError, "class 7?"),
    ],
)
def test_what_fails_is_named(
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[DatasetEvaluator],
    method: str,
    error: Exception,
    expected: type[Exception],
    text: str,
) -> None:
    monkeypatch.setattr(kind, method, fail(error))
    cfg = tiny_cfg(tmp_path)
    model = tiny_model(cfg)
    with pytest.raises(expected) as caught:
        dry_run(cfg, model)
    message = str(caught.value)
    assert type(caught.value) is expected
    assert message.startswith(text)
    file = DatasetCatalog.get(VAL)[0]["file_name"]
    assert f"dataset {VAL}, {file}, {kind.__name__}, tried before the training" in message


def test_a_fault_of_the_loader_or_the_model_is_named(tiny_data: Path, tmp_path: Path) -> None:
    cfg = tiny_cfg(tmp_path)
    with pytest.raises(EvaluationError, match=rf"TypeError: .*\n.*dataset {VAL}, .*, the model"):
        dry_run(cfg, Stub(None))
    cfg.INPUT.FORMAT = "NONE"
    with pytest.raises(EvaluationError, match=rf"this is dataset {VAL}, tried"):
        dry_run(cfg, Stub(None))


def test_a_broken_evaluation_ends_a_run_before_its_first_iteration(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SemSegEvaluator, "process", fail(KeyError("grass")))
    monkeypatch.setattr(Trainer, "train", lambda *_: {"trained": {}})
    with pytest.raises(EvaluationError, match="KeyError: 'grass'"):
        run(tiny_cfg(tmp_path, RPANOPTIC__PICTURES=0), ARGUMENTS)
    # The log says whence it came.
    assert "Traceback" in (tmp_path / "log.txt").read_text()
    cfg = tiny_cfg(tmp_path, RPANOPTIC__PICTURES=0, RPANOPTIC__DRY_RUN=False)
    assert run(cfg, ARGUMENTS) == {"trained": {}}


def test_augmented_pictures_are_tried_as_they_are_judged(tiny_data: Path, tmp_path: Path) -> None:
    cfg = tiny_cfg(
        tmp_path, TEST__AUG__ENABLED=True, TEST__AUG__MIN_SIZES=(64,), TEST__AUG__FLIP=True
    )
    model = tiny_model(cfg)
    views: list[int] = []
    model.backbone.register_forward_hook(lambda *_: views.append(1))
    dry_run(cfg, model)
    # Of a single view there is one.
    assert len(views) > 1


def test_coco_sets_without_a_json_keep_the_one_that_is_written(
    tiny_data: Path, tmp_path: Path
) -> None:
    name = "records_of_test_dry_run"
    DatasetCatalog.register(name, lambda: DatasetCatalog.get(VAL))
    metadata = MetadataCatalog.get(name)
    metadata.set(evaluator_type="coco", thing_classes=MetadataCatalog.get(VAL).thing_classes)
    try:
        cfg = tiny_cfg(tmp_path, DATASETS__TEST=(name,))
        dry_run(cfg, tiny_model(cfg))
        assert Path(metadata.json_file).is_file()
        assert Path(metadata.json_file).parent == tmp_path / "inference"
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


class Mapper:
    """Gives the records themselves."""

    def __init__(self, cfg: Any, *, is_train: bool) -> None:
        pass

    def __call__(self, given: dict[str, Any]) -> dict[str, Any]:
        return given


class Stub(nn.Module):
    """A model that answers by a function of a picture."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [self.answer(sample) for sample in inputs]


def knows(sample: dict[str, Any]) -> dict[str, Any]:
    return {"classification": nn.functional.one_hot(torch.tensor(sample["label"]), 3).float()}


@pytest.fixture()
def labels() -> Iterator[Callable[[int], None]]:
    """Registers LABELS with so many pictures."""

    def register(count: int) -> None:
        records = [{"image_id": i, "file_name": f"{i}.png", "label": i % 3} for i in range(count)]
        DatasetCatalog.register(LABELS, lambda: records)
        MetadataCatalog.get(LABELS).set(
            evaluator_type="image_classification", classes=["cat", "dog", "owl"], mapper=Mapper
        )

    yield register
    DatasetCatalog.remove(LABELS)
    MetadataCatalog.remove(LABELS)


def labels_cfg(folder: Path) -> Any:
    options = ["MODEL.META_ARCHITECTURE", "ImageClassifier", "MODEL.DEVICE", "cpu"]
    return setup_config(None, [*options, "DATASETS.TEST", f"('{LABELS}',)"], output_dir=folder)


def test_predictions_that_are_not_finite_yet_stop_nothing(
    labels: Callable[[int], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels(4)
    caplog.set_level("INFO", "rpanoptic")
    dry_run(labels_cfg(tmp_path), Stub(lambda _: {"classification": torch.full((3,), torch.inf)}))
    assert "the logits of 0.png (image_id 0) are not finite" in caplog.text
    assert f"{LABELS}: a picture passes no evaluator" in caplog.text
    dry_run(labels_cfg(tmp_path), Stub(knows))
    assert f"{LABELS}: a picture passes ClassificationEvaluator" in caplog.text


def test_a_set_without_pictures_is_told(labels: Callable[[int], None], tmp_path: Path) -> None:
    labels(0)
    with pytest.raises(EvaluationError, match=f"'{LABELS}' is empty"):
        dry_run(labels_cfg(tmp_path), Stub(knows))


def fails_at_the_second(sample: dict[str, Any]) -> dict[str, Any]:
    if sample["image_id"]:
        raise KeyError("second")
    return knows(sample)


def try_in_two(rank: int, folder: Path) -> None:
    """One of two processes; of the set of one picture the second has none."""
    meeting = (folder / "meeting").as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    outcomes = []
    for answer in (knows, fails_at_the_second):
        try:
            dry_run(labels_cfg(folder), Stub(answer))
            outcomes.append("passes")
        except EvaluationError as error:
            outcomes.append(str(error))
    (folder / f"{rank}.json").write_text(json.dumps(outcomes))
    comm.synchronize()
    dist.destroy_process_group()


@pytest.mark.parametrize("count", [1, 4])
def test_what_one_of_two_processes_meets_both_raise(
    labels: Callable[[int], None], tmp_path: Path, count: int
) -> None:
    labels(count)
    # Forked: a process that begins anew imports for seconds.
    mp.start_processes(try_in_two, args=(tmp_path,), nprocs=2, start_method="fork")
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first[0] == "passes"
    if count == 1:
        assert first[1] == "passes"
    else:
        assert first[1].startswith("KeyError: 'second'")
        assert f"dataset {LABELS}, 2.png, the model" in first[1]
