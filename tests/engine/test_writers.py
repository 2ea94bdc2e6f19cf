from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rpanoptic.engine.trainer import Trainer
from rpanoptic.engine.writers import RecurrencePrinter, recurrence_line
from rpanoptic.recurrent import StopReason
from tests.engine.records import metrics
from tests.engine.tiny import tiny_cfg

PREFIX = "recurrence/roi_heads.mask_head.recurrence"
STOPS = {f"{PREFIX}/adjoint_stop/{reason.name.lower()}" for reason in StopReason}
RECORDED = STOPS | {
    f"{PREFIX}/{name}"
    for name in ("steps", "residual", "adjoint_terms", "adjoint_residual", "adjoint_failed")
}


def test_all_writers_have_losses_and_recurrence(
    tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    trainer = Trainer(tiny_cfg(tmp_path, SOLVER__MAX_ITER=3, RPANOPTIC__LOG_PERIOD=2))
    with caplog.at_level(logging.INFO, logger="rpanoptic"):
        trainer.train()

    # A line each period, and one for the end; each with what was recorded then.
    lines = metrics(tmp_path)
    assert list(lines) == [1, 2, 3]
    wanted = RECORDED | {"total_loss", "loss_mask", "loss_lipschitz_mask"}
    for iteration in (1, 2):
        assert wanted <= set(lines[iteration])
        # Shares of all samples, rounded in single precision.
        assert sum(lines[iteration][name] for name in STOPS) == pytest.approx(1, abs=1e-6)

    (file,) = tmp_path.glob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    assert wanted <= set(events.Tags()["scalars"])
    for name in wanted:
        scalar = events.Scalars(name)[-1]
        # The file keeps single precision.
        assert (scalar.step, scalar.value) == (2, pytest.approx(lines[2][name], rel=1e-6))

    printed = [r.getMessage() for r in caplog.records if r.name == "rpanoptic.engine.writers"]
    assert len(printed) == 2
    assert printed[0].startswith(" roi_heads.mask_head.recurrence  steps: 3  residual: ")
    assert "stop: " in printed[0]


def test_line_leaves_out_what_is_absent() -> None:
    values = {
        "steps": 20.0,
        "residual": 0.00123,
        "adjoint_terms": 12.5,
        "adjoint_residual": 1e-7,
        "adjoint_failed": 0.1,
        "adjoint_stop/converged": 0.9,
        "adjoint_stop/diverged": 0.1,
        "adjoint_stop/max_steps": 0.0,
    }
    assert recurrence_line(values) == (
        "steps: 20  residual: 0.0012  adjoint terms: 12.5  adjoint residual: 1e-07  failed: 10%  "
        "stop: converged 90%, diverged 10%"
    )
    assert recurrence_line({"steps": 3.0}) == "steps: 3"


def test_printer_repeats_nothing(caplog: pytest.LogCaptureFixture) -> None:
    printer = RecurrencePrinter()
    with EventStorage() as storage, caplog.at_level(logging.INFO, logger="rpanoptic"):
        storage.put_scalar("loss", 1.0)
        printer.write()
        assert not caplog.records
        for name in ("one", "two"):
            storage.put_scalar(f"recurrence/{name}/steps", 3.0)
        printer.write()
        printer.write()
        storage.iter = 1
        storage.put_scalar("recurrence/two/steps", 4.0)
        printer.write()
    assert [record.getMessage() for record in caplog.records] == [
        " one  steps: 3",
        " two  steps: 3",
        " two  steps: 4",
    ]
