"""The comparison of trained models from end to end, at a tiny size."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from detectron2.config import CfgNode
from PIL import Image
from torch import nn

from rpanoptic.benchmarks import comparison, training_worker
from rpanoptic.benchmarks.panoptic import PANOPTIC
from rpanoptic.benchmarks.training_worker import TrainingTask
from rpanoptic.errors import UserError
from tests.benchmarks.runs import one_process, read
from tests.data.helpers import load_script
from tests.engine.tiny import TINY_CONFIG, tiny_data, tiny_datasets, tiny_options

__all__ = ["one_process", "tiny_data", "tiny_datasets"]

benchmark = load_script("tools/benchmark.py")


def command(folder: Path, *flags: str, **changes: object) -> list[str]:
    argv = ["panoptic", "--runs", str(folder / "runs"), "--output", str(folder / "results")]
    argv += ["--methods", "feedforward", "rbp", "--sweep-methods", "feedforward", "rbp"]
    argv += ["--configs", str(folder / "{method}.yaml"), "--threads", "1", "--iterations", "1"]
    options = tiny_options(RPANOPTIC__PICTURES=0, **changes)
    # The mask head is what the methods differ in.
    at = options.index("MODEL.ROI_MASK_HEAD.NAME")
    del options[at : at + 2]
    return [*argv, "--rounds", "1", "--steps", "1-2", *flags, "--opts", *options]


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    for method, head in (
        ("feedforward", "MaskRCNNConvUpsampleHead"),
        ("rbp", "RecurrentMaskRCNNHead"),
    ):
        (tmp_path / f"{method}.yaml").write_text(
            f"_BASE_: {TINY_CONFIG}\n"
            f"MODEL:\n  ROI_MASK_HEAD:\n    NAME: {head}\n"
            "  RECURRENT:\n    MASK_HEAD:\n      GRADIENT: rbp\n"
        )
    return tmp_path


def test_trains_measures_and_sweeps(
    folder: Path, tiny_data: Path, one_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(command(folder, "--seeds", "1")) == 0
    written = folder / "results"
    assert sorted(path.name for path in written.iterdir()) == [
        "panoptic.csv",
        "panoptic.md",
        "panoptic_cost.csv",
        "panoptic_steps.csv",
        "panoptic_steps.png",
    ]
    last = (folder / "runs" / "rbp_1" / "metrics.json").read_text().splitlines()[-1]
    rows = {row["method"]: row for row in read(written / "panoptic.csv")}
    assert float(rows["rbp"]["PQ"]) == pytest.approx(json.loads(last)["panoptic_seg/PQ"])
    costs = {row["method"]: row for row in read(written / "panoptic_cost.csv")}
    assert list(rows) == list(costs) == ["feedforward", "rbp"]
    for row in costs.values():
        # Of the resident memory nothing can be told here, in a process that has freed much.
        for name in ("parameters", "tensors_mib", "saved_mib", "seconds"):
            assert float(row[name]) > 0, name
    assert int(costs["rbp"]["parameters"]) != int(costs["feedforward"]["parameters"])
    swept = [(row["label"], row["test_steps"]) for row in read(written / "panoptic_steps.csv")]
    assert swept == [("feedforward", ""), ("rbp", "1"), ("rbp", "2")]
    with Image.open(written / "panoptic_steps.png") as picture:
        assert min(picture.size) > 300
    capsys.readouterr()

    # A finished run is not trained again; one that is not is left out of the table.
    before = (folder / "runs" / "rbp_1" / "model_final.pth").stat().st_mtime_ns
    flags = ["--seeds", "1", "2", "--only", "table"]
    assert benchmark.main(command(folder, *flags)) == 0
    said = capsys.readouterr()
    assert "left out, as it is not finished" in said.err and "rbp_2" in said.err
    assert "seed 1" in said.out and "seed 2" not in said.out
    assert benchmark.main(command(folder, "--seeds", "1", "--only", "train")) == 0
    assert "2 of 2 runs are there already" in capsys.readouterr().err
    assert (folder / "runs" / "rbp_1" / "model_final.pth").stat().st_mtime_ns == before


def test_bad_input_is_one_message_and_status_2(
    folder: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = ["--only", "table"]
    cases = [
        (command(folder, *table), "no run is finished"),
        (command(folder, *table, "--sweep-methods", "bptt"), "--sweep-methods bptt: not among"),
        (
            command(folder, *table, "--methods", "absent", "--sweep-methods", "absent"),
            "absent.yaml does not exist",
        ),
    ]
    for argv, message in cases:
        assert benchmark.main(argv) == 2, message
        assert message in capsys.readouterr().err
    assert list((folder / "results").iterdir()) == []


def test_a_process_of_its_own_says_what_is_wrong(folder: Path, tiny_data: Path) -> None:
    (run,) = PANOPTIC.plan(
        folder / "runs",
        methods=["rbp"],
        seeds=[1],
        configs=str(folder / "{method}.yaml"),
        opts=tiny_options(DATASETS__TRAIN=("absent_set",)),
    )
    with pytest.raises(UserError, match=r"training .*rbp_1 failed: .*absent_set"):
        comparison.train([run], threads=1, log=lambda _: None)
    assert not run.weights.exists()


def test_an_error_without_a_message_is_reported_by_its_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(task: TrainingTask) -> None:
        raise NotImplementedError

    monkeypatch.setattr(training_worker, "work", fail)
    monkeypatch.setattr("sys.stdin", io.StringIO(TrainingTask("train", "a.yaml", ()).dump()))
    training_worker.main()
    assert json.loads(capsys.readouterr().out) == {"error": "NotImplementedError"}


def test_equal_batches_for_every_method(
    folder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[float]] = []
    plain = training_worker.build_model

    def recording(cfg: CfgNode) -> nn.Module:
        model = plain(cfg)
        seen.append([])
        model.register_forward_pre_hook(
            lambda _, args: seen[-1].append(sum(x["image"].float().sum().item() for x in args[0]))
        )
        return model

    monkeypatch.setattr(training_worker, "build_model", recording)
    for method in ("feedforward", "rbp"):
        options = command(folder)[command(folder).index("--opts") + 1 :]
        task = TrainingTask("speed", str(folder / f"{method}.yaml"), tuple(options), iterations=3)
        result = training_worker.work(TrainingTask.load(task.dump()))
        assert 0 < result["least_seconds"] <= result["seconds"]
    assert seen[0] == seen[1] and len(seen[0]) == 4 and len(set(seen[0][1:])) > 1
