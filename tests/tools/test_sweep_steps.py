from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from rpanoptic.engine import step_sweep
from rpanoptic.engine.step_sweep import Checkpoint, read_sweep, sweep
from tests.data.helpers import load_script
from tests.engine.tiny import CONV_RNN, TINY_CONFIG, tiny_cfg, tiny_options

tool = load_script("tools/sweep_steps.py")


def command(output: Path, *flags: object, **changes: object) -> list[str]:
    options = tiny_options(**changes)
    return [*map(str, flags), "--timed-pictures", "0", "--output", str(output), *options]


def single(weights: Path, output: Path, steps: str, **changes: object) -> list[str]:
    flags = ["--config-file", TINY_CONFIG, "--weights", weights, "--steps", steps]
    return command(output, *flags, **changes)


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture()
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The numbers of steps that each evaluation was asked for."""
    asked: list[list[int]] = []
    plain = step_sweep.evaluate_steps

    def recording(cfg, model, dataset, steps, **options):
        asked.append(list(steps))
        return plain(cfg, model, dataset, steps, **options)

    monkeypatch.setattr(step_sweep, "evaluate_steps", recording)
    return asked


def test_table_figure_and_what_a_second_run_adds(
    weights: Path,
    tiny_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    evaluated: list[list[int]],
) -> None:
    output = tmp_path / "o"
    assert tool.main(single(weights, output, "4,1")) == 0
    names = ["panoptic_seg_PQ.md", "panoptic_seg_PQ.png", "steps.csv"]
    assert sorted(path.name for path in output.iterdir()) == names
    rows = read(output / "steps.csv")
    assert [(row["test_steps"], row["trained_steps"], row["gradient"]) for row in rows] == [
        ("1", "3", "crbp"),
        ("4", "3", "crbp"),
    ]
    assert {row["label"] for row in rows} == {TINY_CONFIG.stem}
    assert float(rows[0]["panoptic_seg/PQ"]) >= 0 and rows[0]["pictures"] == "2"
    with Image.open(output / "panoptic_seg_PQ.png") as picture:
        assert min(picture.size) > 300
    assert "│ 4 " in capsys.readouterr().out

    assert tool.main(single(weights, output, "1-2,4")) == 0
    assert evaluated == [[1, 4], [2]]
    assert [row["test_steps"] for row in read(output / "steps.csv")] == ["1", "2", "4"]

    # Weights, or settings, that are not the same: nothing of it counts, and nothing is lost.
    other = tmp_path / "other.pth"
    state = torch.load(weights, weights_only=True)
    torch.save({"model": {k: v * 0.5 for k, v in state["model"].items()}}, other)
    assert tool.main(single(other, output, "1")) == 0
    assert evaluated[2:] == [[1]]
    assert len(read(output / "steps.1.csv")) == 3 and len(read(output / "steps.csv")) == 1
    assert tool.main(single(other, output, "1", TEST__DETECTIONS_PER_IMAGE=4)) == 0
    assert evaluated[3:] == [[1]]


def test_several_checkpoints_and_tables(
    weights: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = []
    for seed in (1, 2):
        copy = tmp_path / f"seed={seed}.pth"
        torch.save({**torch.load(weights, weights_only=True), "iteration": seed}, copy)
        flags += ["--checkpoint", f"recurrent={TINY_CONFIG}:{copy}"]
    assert tool.main(command(tmp_path / "o", *flags, "--steps", "1,2", "--metric", "segm/AP")) == 0
    rows = read(tmp_path / "o" / "steps.csv")
    assert [row["test_steps"] for row in rows] == ["1", "2", "1", "2"]
    assert len({row["weights_sha256"] for row in rows}) == 2

    feed_forward = {"MODEL__ROI_MASK_HEAD__NAME": "MaskRCNNConvUpsampleHead"}
    cfg = tiny_cfg(tmp_path, **feed_forward)
    torch.save(build_model(cfg).state_dict(), tmp_path / "forward.pth")
    argv = single(tmp_path / "forward.pth", tmp_path / "forward", "1-9", **feed_forward)
    for _ in range(2):  # the second finds it done
        assert tool.main(argv) == 0
    (row,) = read(tmp_path / "forward" / "steps.csv")
    assert row["test_steps"] == row["trained_steps"] == ""
    capsys.readouterr()

    tables = [tmp_path / "o" / "steps.csv", tmp_path / "forward" / "steps.csv"]
    drawn = tmp_path / "drawn"
    argv = ["--from-csv", *map(str, tables), "--metric", "segm/AP", "bbox/AP"]
    assert tool.main([*argv, "--output", str(drawn)]) == 0
    names = ["bbox_AP.md", "bbox_AP.png", "segm_AP.md", "segm_AP.png"]
    assert sorted(path.name for path in drawn.iterdir()) == names
    assert "feed-forward" in capsys.readouterr().out


def test_several_datasets(
    weights: Path,
    tiny_data: Path,
    tmp_path: Path,
    evaluated: list[list[int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = "synthetic_panoptic_train", "synthetic_panoptic_val"
    # The name of the set is no part of a sweep's columns.
    change = {"RPANOPTIC__BEST_METRIC": f"{second}/sem_seg/mIoU"}
    flags = ["--dataset", first, second, first, "--output", tmp_path]
    assert tool.main([*map(str, flags), *single(weights, tmp_path, "1,3", **change)]) == 0
    assert evaluated == [[1, 3], [1, 3]]
    rows = read(tmp_path / "steps.csv")
    assert [row["dataset"] for row in rows] == [first, first, second, second]
    assert [row["pictures"] for row in rows] == ["4", "4", "2", "2"]
    text = (tmp_path / "sem_seg_mIoU.md").read_text()
    assert all(f" {name} |" in text for name in (first, second)) and " @ 3 |" in text
    with Image.open(tmp_path / "sem_seg_mIoU.png") as picture:
        assert picture.width == 2 * round(150 * 4.2)  # two panels side by side
    out = capsys.readouterr().out
    assert f"\n{first}\n" in out and f"\n{second}\n" in out

    # Another set more: what is there stays.
    assert tool.main(single(weights, tmp_path, "1,3", **change)) == 0
    assert evaluated[2:] == [] and len(read(tmp_path / "steps.csv")) == 2
    assert len(read(tmp_path / "steps.1.csv")) == 4

    table = str(tmp_path / "steps.1.csv")
    drawn = ["--from-csv", table, "--output", str(tmp_path / "drawn"), "--dataset"]
    assert tool.main([*drawn, second]) == 0
    # Without a config: the result that says most.
    assert first not in (tmp_path / "drawn" / "panoptic_seg_PQ.md").read_text()
    assert tool.main([*drawn, "absent"]) == 2
    message = f"error: --dataset absent: the tables are of {first}, {second}"
    assert message in capsys.readouterr().err


def test_a_model_that_needs_several_steps(tiny_data: Path, tmp_path: Path) -> None:
    file = tmp_path / "conv_rnn.pth"
    torch.save(build_model(tiny_cfg(tmp_path, **CONV_RNN)).state_dict(), file)
    assert tool.main(single(file, tmp_path / "o", "7,8", **CONV_RNN)) == 0
    rows = read(tmp_path / "o" / "steps.csv")
    assert [row["test_steps"] for row in rows] == ["7", "8"]


def test_rows_without_a_time_are_timed_where_it_is_asked_for(
    weights: Path, tiny_data: Path, tmp_path: Path, evaluated: list[list[int]]
) -> None:
    one = Checkpoint("a", tiny_cfg(tmp_path), str(weights))
    file = tmp_path / "steps.csv"
    assert [row["seconds"] for row in sweep([one], [1, 2], file, timed_pictures=0)] == [None] * 2
    rows = sweep([one], [2, 3], file, timed_pictures=1)
    assert [row["test_steps"] for row in rows] == [1, 2, 3]
    assert [row["seconds"] is not None for row in rows] == [False, True, True]
    assert read_sweep(file) == rows
    for pictures in (0, 1):
        sweep([one], [2, 3], file, timed_pictures=pictures)
    assert evaluated == [[1, 2], [2, 3]]


def test_what_is_judged_outlives_an_interruption(
    weights: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = step_sweep.evaluate_steps

    def interrupted(*args, **options):
        yield next(iter(plain(*args, **options)))
        raise KeyboardInterrupt

    monkeypatch.setattr(step_sweep, "evaluate_steps", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tool.main(single(weights, tmp_path, "1-3"))
    assert [row["test_steps"] for row in read(tmp_path / "steps.csv")] == ["1"]


def test_bad_input_is_one_message_and_status_2(
    weights: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    o, table, text = tmp_path / "o", tmp_path / "table.csv", tmp_path / "text.csv"
    table.write_text("a,b\n1,2\n")
    text.write_bytes(b"\xff\xfe\xff")
    both = ["--config-file", TINY_CONFIG, "--checkpoint", f"a={TINY_CONFIG}:{weights}"]
    named = ["--checkpoint", f"a={TINY_CONFIG}:{weights}"]
    cases = [
        (command(o), "give one of --config-file, --checkpoint and --from-csv"),
        (command(o, *both), "give one of"),
        (command(o, *named, "--label", "b"), "--label and --weights belong to --config-file"),
        (command(o, "--checkpoint", f"{TINY_CONFIG}:{weights}"), "expected LABEL=CONFIG:WEIGHTS"),
        (command(o, "--checkpoint", "a=b.yaml"), "--checkpoint a=b.yaml: expected"),
        (command(o, "--checkpoint", "a=b.yaml:c"), "config file b.yaml does not exist"),
        (command(o, "--from-csv", tmp_path / "absent.csv"), "absent.csv cannot be read"),
        (command(o, "--from-csv", table), f"{table} is no table of a sweep: it lacks label"),
        (command(o, "--from-csv", text), f"{text} "),
        (single(tmp_path / "absent.pth", o, "1"), "absent.pth does not exist"),
        (single(weights, o, "1", MODEL__ROI_BOX_HEAD__FC_DIM=8), "another architecture"),
        (single(weights, o, "1", DATASETS__TEST=("absent_set",)), "absent_set"),
        (single(weights, o, "1", DATASETS__TEST=()), "DATASETS.TEST is empty"),
        (["--dataset", "absent_set", *single(weights, o, "1")], "absent_set"),
        (single(weights, o, "1", RPANOPTIC__BEST_METRIC="''"), "say by --metric what to draw"),
        (command(o, "--from-csv", table, *both), "give one of"),
    ]
    cases.append(
        (
            single(weights, o, "6-8", **CONV_RNN),
            f"{TINY_CONFIG.stem}: steps of backbone.bottom_up.recurrence must be at least 7, got 6",
        )
    )
    for argv, message in cases:
        assert tool.main(argv) == 2, message
        error = capsys.readouterr().err
        assert "error: " in error and message in error
    assert not o.exists() or list(o.iterdir()) == []


def test_an_unknown_metric_lists_the_known(
    weights: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(single(weights, tmp_path, "1")) == 0
    argv = ["--from-csv", str(tmp_path / "steps.csv"), "--output", str(tmp_path)]
    assert tool.main([*argv, "--metric", "panoptic_seg/pq"]) == 2
    error = capsys.readouterr().err
    assert "no row has a result 'panoptic_seg/pq'; there are: bbox/AP" in error
