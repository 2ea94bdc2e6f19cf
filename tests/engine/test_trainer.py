from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from PIL import Image

from rpanoptic.engine.hooks import RecurrenceLogger
from rpanoptic.engine.pictures import draw_predictions
from rpanoptic.engine.run import run
from rpanoptic.engine.trainer import Trainer
from rpanoptic.errors import CheckpointError, NonFiniteError
from rpanoptic.recurrent import StopReason, recurrent_blocks
from tests.engine.tiny import tiny_cfg

BLOCK = "roi_heads.mask_head.recurrence"


def arguments(*, resume: bool = False, eval_only: bool = False) -> argparse.Namespace:
    return argparse.Namespace(config_file="", resume=resume, eval_only=eval_only)


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(
    tiny_datasets: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """Folder and results of a whole run of two iterations."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(tiny_datasets))
        results = run(tiny_cfg(folder), arguments())
    assert results is not None
    return folder, results


def test_run_returns_all_results(trained: tuple[Path, dict[str, Any]]) -> None:
    _, results = trained
    assert set(results) == {"sem_seg", "bbox", "segm", "panoptic_seg"}
    assert 0 <= results["panoptic_seg"]["PQ"] <= 100
    assert 0 <= results["sem_seg"]["mIoU"] <= 100


def test_final_evaluation_is_in_the_metrics(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, results = trained
    last = metrics(folder)[-1]
    assert last["iteration"] == 2
    assert last["panoptic_seg/PQ"] == pytest.approx(results["panoptic_seg"]["PQ"])
    assert last["sem_seg/mIoU"] == pytest.approx(results["sem_seg"]["mIoU"])


def test_losses_and_penalty_are_in_the_metrics(trained: tuple[Path, dict[str, Any]]) -> None:
    first = metrics(trained[0])[0]
    assert {"loss_mask", "loss_lipschitz_mask", "loss_sem_seg", "total_loss", "lr"} <= set(first)


def test_results_are_in_the_log(trained: tuple[Path, dict[str, Any]]) -> None:
    log = (trained[0] / "log.txt").read_text()
    assert "Things" in log
    assert "mask AP" in log


def test_picture_has_a_row_for_each_picture(trained: tuple[Path, dict[str, Any]]) -> None:
    width, height = Image.open(trained[0] / "predictions.png").size
    # Three columns of the same square picture, and a heading.
    assert 2 < width / height < 3


def test_checkpoints_hold_plain_data(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = trained
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    data = torch.load(folder / "model_0000000.pth", weights_only=True)
    assert data["iteration"] == 0


def test_resume_restores_optimizer_schedule_and_iteration(
    trained: tuple[Path, dict[str, Any]], tiny_data: Path, tmp_path: Path
) -> None:
    folder, _ = trained
    for name in ("model_0000000.pth",):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "last_checkpoint").write_text("model_0000000.pth")
    trainer = Trainer(tiny_cfg(tmp_path))
    assert not trainer.optimizer.state
    trainer.resume_or_load(resume=True)

    saved = torch.load(tmp_path / "model_0000000.pth", weights_only=True)
    optimizer = saved["trainer"]["_trainer"]["optimizer"]
    assert trainer.start_iter == 1
    assert optimizer["state"]
    restored = trainer.optimizer.state_dict()["state"]
    for index, state in optimizer["state"].items():
        assert torch.equal(restored[index]["exp_avg"], state["exp_avg"])
        assert torch.equal(restored[index]["step"], state["step"])
    assert trainer.scheduler.last_epoch == 1
    assert trainer.optimizer.param_groups[0]["lr"] == optimizer["param_groups"][0]["lr"]
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, saved["model"][name])


def test_resumed_run_continues(
    trained: tuple[Path, dict[str, Any]], tiny_data: Path, tmp_path: Path
) -> None:
    folder, _ = trained
    for name in ("model_final.pth", "last_checkpoint"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    run(tiny_cfg(tmp_path, SOLVER__MAX_ITER=3), arguments(resume=True))
    assert [line["iteration"] for line in metrics(tmp_path)] == [2, 3]


def test_resumed_run_with_nothing_left_evaluates_under_its_last_iteration(
    trained: tuple[Path, dict[str, Any]], tiny_data: Path, tmp_path: Path
) -> None:
    # As if it had been killed in its last evaluation.
    folder, results = trained
    for name in ("model_final.pth", "last_checkpoint"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    cfg = tiny_cfg(tmp_path, TEST__EVAL_PERIOD=1)
    run(cfg, arguments(resume=True))
    (line,) = metrics(tmp_path)
    assert line["iteration"] == 2
    assert line["panoptic_seg/PQ"] == pytest.approx(results["panoptic_seg"]["PQ"])
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert best["iteration"] == 1


def test_training_that_fails_in_its_last_iteration_leaves_no_results(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.run_step

    def spoil(trainer: Trainer) -> None:
        if trainer.iter == 1:
            with torch.no_grad():
                trainer.model.backbone.bottom_up.stem.conv1.weight.fill_(torch.inf)
        step(trainer)

    monkeypatch.setattr(Trainer, "run_step", spoil)
    monkeypatch.setattr(Trainer, "test", lambda *_: pytest.fail("it was evaluated"))
    with pytest.raises(NonFiniteError):
        run(tiny_cfg(tmp_path, TEST__EVAL_PERIOD=10), arguments())
    assert [file.name for file in tmp_path.glob("*.pth")] == ["model_0000000.pth"]
    assert not any("panoptic_seg/PQ" in line for line in metrics(tmp_path))


def test_evaluation_alone_gives_the_same_numbers(
    trained: tuple[Path, dict[str, Any]], tiny_data: Path, tmp_path: Path
) -> None:
    folder, results = trained
    cfg = tiny_cfg(tmp_path, MODEL__WEIGHTS=folder / "model_final.pth")
    again = run(cfg, arguments(eval_only=True))
    assert again is not None
    assert again["panoptic_seg"] == pytest.approx(results["panoptic_seg"])
    # A class without a pixel in these two pictures has no IoU.
    assert again["sem_seg"] == pytest.approx(results["sem_seg"], nan_ok=True)
    (line,) = metrics(tmp_path)
    assert line["iteration"] == 2
    assert line["panoptic_seg/PQ"] == pytest.approx(results["panoptic_seg"]["PQ"])
    assert (tmp_path / "predictions.png").is_file()


def test_evaluation_keeps_the_config_of_the_training(
    trained: tuple[Path, dict[str, Any]], tiny_data: Path, tmp_path: Path
) -> None:
    weights = trained[0] / "model_final.pth"
    (tmp_path / "config.yaml").write_bytes((trained[0] / "config.yaml").read_bytes())
    cfg = tiny_cfg(tmp_path, MODEL__WEIGHTS=weights, RPANOPTIC__KEEP_PREDICTIONS=True)
    run(cfg, arguments(eval_only=True))
    assert (tmp_path / "config.yaml").read_bytes() == (trained[0] / "config.yaml").read_bytes()
    assert "KEEP_PREDICTIONS: true" in (tmp_path / "config_evaluation.yaml").read_text()
    assert "is left as it was" in (tmp_path / "log.txt").read_text()


def test_a_training_without_test_data_says_so(tiny_data: Path, tmp_path: Path) -> None:
    run(tiny_cfg(tmp_path, DATASETS__TEST=(), SOLVER__MAX_ITER=1), arguments())
    log = (tmp_path / "log.txt").read_text()
    assert "There is no test data (DATASETS.TEST is empty), so nothing is evaluated." in log
    assert "Results in percent" not in log


def test_evaluation_without_weights_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"--eval-only needs weights.*MODEL\.WEIGHTS"):
        run(tiny_cfg(tmp_path), arguments(eval_only=True))


def test_evaluation_refuses_another_architecture(
    trained: tuple[Path, dict[str, Any]], tiny_data: Path, tmp_path: Path
) -> None:
    weights = trained[0] / "model_final.pth"
    cfg = tiny_cfg(tmp_path, MODEL__WEIGHTS=weights, MODEL__ROI_BOX_HEAD__FC_DIM=8)
    with pytest.raises(CheckpointError, match=r"another architecture.*\n.*box_head"):
        run(cfg, arguments(eval_only=True))


def test_gradient_method_does_not_change_what_loads(
    trained: tuple[Path, dict[str, Any]], tiny_data: Path, tmp_path: Path
) -> None:
    weights = str(trained[0] / "model_final.pth")
    trainer = Trainer(tiny_cfg(tmp_path, MODEL__RECURRENT__MASK_HEAD__GRADIENT="bptt"))
    trainer.checkpointer.resume_or_load(weights, resume=False, strict=True)


def test_baseline_starts_a_recurrent_training(
    tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = build_model(tiny_cfg(tmp_path, MODEL__ROI_MASK_HEAD__NAME="MaskRCNNConvUpsampleHead"))
    torch.save({"model": plain.state_dict()}, tmp_path / "plain.pth")
    trainer = Trainer(tiny_cfg(tmp_path, MODEL__WEIGHTS=tmp_path / "plain.pth"))
    trainer.resume_or_load(resume=False)
    assert torch.equal(
        trainer.model.roi_heads.mask_head.deconv.weight, plain.roi_heads.mask_head.deconv.weight
    )
    (warning,) = [r.getMessage() for r in caplog.records if "start untrained" in r.getMessage()]
    assert f": {BLOCK}, roi_heads.mask_head.output_norm" in warning


def test_wider_model_starts_no_training(tiny_data: Path, tmp_path: Path) -> None:
    wide = build_model(tiny_cfg(tmp_path, MODEL__RESNETS__RES2_OUT_CHANNELS=16))
    torch.save({"model": wide.state_dict()}, tmp_path / "wide.pth")
    trainer = Trainer(tiny_cfg(tmp_path, MODEL__WEIGHTS=tmp_path / "wide.pth"))
    with pytest.raises(CheckpointError, match=r"another architecture.*\n.*backbone"):
        trainer.resume_or_load(resume=False)


class OneStep:
    """What :class:`RecurrenceLogger` needs of a trainer."""

    def __init__(self, model: torch.nn.Module, storage: EventStorage) -> None:
        self.model, self.storage, self.iter, self.max_iter = model, storage, 19, 100


def test_recurrence_is_logged(tiny_data: Path, tmp_path: Path) -> None:
    trainer = Trainer(tiny_cfg(tmp_path))
    assert list(recurrent_blocks(trainer.model)) == [BLOCK]
    with EventStorage() as storage:
        hook = RecurrenceLogger(period=20)
        hook.trainer = OneStep(trainer.model, storage)
        hook.after_step()
        assert not storage.latest()  # nothing has run yet
        losses = trainer.model(next(iter(trainer.data_loader)))
        sum(losses.values()).backward()
        before = set(storage.latest())
        hook.after_step()
        logged = {key: value for key, (value, _) in storage.latest().items() if key not in before}
    names = ("steps", "residual", "adjoint_terms", "adjoint_residual", "adjoint_failed")
    stops = tuple(f"adjoint_stop/{reason.name.lower()}" for reason in StopReason)
    assert set(logged) == {f"recurrence/{BLOCK}/{name}" for name in names + stops}
    assert logged[f"recurrence/{BLOCK}/steps"] == trainer.cfg.MODEL.RECURRENT.MASK_HEAD.STEPS
    assert logged[f"recurrence/{BLOCK}/residual"] > 0
    assert 0 <= logged[f"recurrence/{BLOCK}/adjoint_failed"] <= 1
    assert 0 <= logged[f"recurrence/{BLOCK}/adjoint_terms"] <= 15


def test_recurrence_is_logged_before_an_evaluation_runs_the_blocks(
    tiny_data: Path, tmp_path: Path
) -> None:
    order = [type(hook).__name__ for hook in Trainer(tiny_cfg(tmp_path)).build_hooks()]
    assert (
        order.index("RecurrenceLogger") < order.index("Evaluation") < order.index("PeriodicWriter")
    )


def test_what_is_not_finite_is_left_out_of_the_mean() -> None:
    with EventStorage() as storage:
        hook = RecurrenceLogger()
        hook.trainer = argparse.Namespace(storage=storage)
        hook._put("some", torch.tensor([1.0, float("inf"), 3.0]))
        hook._put("none", torch.tensor([float("nan")]))
        assert {key: value for key, (value, _) in storage.latest().items()} == {"some": 2.0}


def test_recurrence_is_logged_in_its_period_only(tiny_data: Path, tmp_path: Path) -> None:
    hook = RecurrenceLogger(period=20)
    hook.trainer = argparse.Namespace(iter=20, max_iter=100, model=None)
    hook.after_step()  # would fail on the model of None


def test_second_run_in_the_same_folder_starts_anew(
    trained: tuple[Path, dict[str, Any]], tiny_data: Path, tmp_path: Path
) -> None:
    for name in ("metrics.json", "last_checkpoint", "model_final.pth"):
        (tmp_path / name).write_bytes((trained[0] / name).read_bytes())
    run(tiny_cfg(tmp_path, SOLVER__MAX_ITER=1), arguments())
    assert [line["iteration"] for line in metrics(tmp_path)][-1] == 1
    assert (tmp_path / "metrics.1.json").read_text() == (trained[0] / "metrics.json").read_text()
    assert "without --resume this one starts anew" in (tmp_path / "log.txt").read_text()


def test_picture_that_cannot_be_drawn_loses_no_results(
    trained: tuple[Path, dict[str, Any]],
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("rpanoptic.engine.run.draw_predictions", fail)
    cfg = tiny_cfg(tmp_path, MODEL__WEIGHTS=trained[0] / "model_final.pth")
    results = run(cfg, arguments(eval_only=True))
    assert results is not None
    log = (tmp_path / "log.txt").read_text()
    assert log.index("mask AP") < log.index("could not be drawn")


def test_pictures_of_a_model_without_masks(tiny_data: Path, tmp_path: Path) -> None:
    cfg = tiny_cfg(tmp_path, MODEL__META_ARCHITECTURE="GeneralizedRCNN", MODEL__MASK_ON=False)
    torch.manual_seed(0)
    file = draw_predictions(cfg, build_model(cfg))
    assert file is not None
    width, height = Image.open(file).size
    assert 2 < width / height < 3


def test_metadata_of_the_tiny_set_matches_the_model() -> None:
    metadata = MetadataCatalog.get("synthetic_panoptic_train")
    assert len(metadata.thing_classes) == 4
    assert len(metadata.stuff_classes) == 5


def test_batches_that_are_void_everywhere_do_not_end_a_training(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = tiny_cfg(tmp_path, MODEL__META_ARCHITECTURE="PanopticFPN")
    trainer = Trainer(cfg)
    step = trainer._trainer
    first, *_ = next(iter(step.data_loader))
    first["sem_seg"] = torch.full_like(first["sem_seg"], 255)
    monkeypatch.setattr(type(step), "_data_loader_iter", itertools.repeat([first]))
    with EventStorage() as storage:
        trainer.run_step()
        assert storage.latest()["loss_sem_seg"][0] == 0
        assert storage.latest()["loss_cls"][0] > 0
