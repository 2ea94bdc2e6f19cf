"""The comparison of trained models, up to the trainings themselves: see test_panoptic_runs.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rpanoptic.benchmarks import panoptic
from rpanoptic.benchmarks.panoptic import METRICS, Run, plan, results, tabulated
from rpanoptic.errors import ConfigError, UserError
from tests.paths import CONFIGS

PATTERN = str(CONFIGS / "synthetic_panoptic_{method}.yaml")


def runs_in(folder: Path, **options: Any) -> list[Run]:
    return plan(folder, methods=("baseline", "crbp20"), seeds=(1, 2), configs=PATTERN, **options)


def finish(run: Run, *, quality: float = 50.0, evaluated: bool = True) -> None:
    """What a training leaves behind, as far as the comparison looks at it."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "config.yaml").write_text(run.cfg().dump())
    run.weights.touch()
    lines = [{"iteration": 19, "total_loss": 1.0}]
    if evaluated:
        # Detectron2 records the last evaluation at MAX_ITER, one past the last iteration.
        end = run.cfg().SOLVER.MAX_ITER
        lines.append({"iteration": 19, **dict.fromkeys(METRICS.values(), 1.0)})
        values = dict.fromkeys(METRICS.values(), quality) | {"segm/AP": float("nan")}
        lines.append({"iteration": end, **values})
    text = "\n".join(json.dumps(line) for line in lines)
    (run.folder / "metrics.json").write_text(f"{text}\n")


def test_every_method_and_seed_has_a_folder_of_its_own(tmp_path: Path) -> None:
    runs = runs_in(tmp_path, opts=["SOLVER.MAX_ITER", "3"])
    names = [run.folder.name for run in runs]
    assert names == ["baseline_1", "crbp20_1", "baseline_2", "crbp20_2"]
    cfg = runs[3].cfg()
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER) == (2, 3)
    assert str(tmp_path / "crbp20_2") == cfg.OUTPUT_DIR
    assert cfg.MODEL.ROI_MASK_HEAD.NAME == "RecurrentMaskRCNNHead"


def test_all_shipped_configs_of_the_comparison_load(tmp_path: Path) -> None:
    cfgs = {run.method: run.cfg() for run in plan(tmp_path, seeds=[1], configs=PATTERN)}
    assert list(cfgs) == list(panoptic.METHODS)
    blocks = [cfgs[name].MODEL.RECURRENT.MASK_HEAD for name in ("bptt3", "rbp20", "crbp20")]
    assert [(block.GRADIENT, block.STEPS) for block in blocks] == [
        ("bptt", 3),
        ("rbp", 20),
        ("crbp", 20),
    ]
    # One schedule and one set of pictures for all.
    assert len({str((cfg.SOLVER, cfg.DATASETS, cfg.INPUT)) for cfg in cfgs.values()}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"configs": "config.yaml"}, r"--configs config.yaml: expected \{method\}"),
        ({"configs": PATTERN, "methods": ("rbp21",)}, "synthetic_panoptic_rbp21.yaml does not"),
        ({"configs": PATTERN, "opts": ["SOLVER.MAX_ITRE", "3"]}, "SOLVER.MAX_ITER"),
    ],
)
def test_bad_plans(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(tmp_path, **options)


def test_finished_runs_are_read_and_others_named(tmp_path: Path) -> None:
    runs = runs_in(tmp_path)
    finish(runs[0], quality=40.0)
    finish(runs[2], quality=50.0)
    finish(runs[3], evaluated=False)
    said: list[str] = []
    rows = results(runs, log=said.append)
    assert [(row["method"], row["seed"], row["PQ"]) for row in rows] == [
        ("baseline", 1, 40.0),
        ("baseline", 2, 50.0),
    ]
    assert rows[0]["mask AP"] is None and list(rows[0]) == ["method", "seed", *METRICS]
    assert [Path(text).name for text in said] == ["crbp20_1", "crbp20_2"]


def test_a_run_with_another_config_is_no_run_of_ours(tmp_path: Path) -> None:
    (run, *_) = runs_in(tmp_path)
    finish(run)
    # What concerns the machine or the records, and keys that are younger than the run.
    longer = runs_in(tmp_path, opts=["DATALOADER.NUM_WORKERS", "3", "RPANOPTIC.PICTURES", "0"])
    assert longer[0].finished()
    text = (run.folder / "config.yaml").read_text()
    lines = [line for line in text.splitlines() if "HALT_TOL" not in line]
    assert len(lines) < len(text.splitlines())
    (run.folder / "config.yaml").write_text("\n".join(lines))
    assert run.finished()
    other = runs_in(tmp_path, opts=["SOLVER.MAX_ITER", "3", "SOLVER.BASE_LR", "0.5"])[0]
    with pytest.raises(ConfigError, match=r"baseline_1 holds a run with another config: SOLVER\."):
        other.finished()


def test_an_evaluation_before_the_end_does_not_finish_a_run(tmp_path: Path) -> None:
    (run, *_) = runs_in(tmp_path)
    finish(run, evaluated=False)
    end = run.cfg().SOLVER.MAX_ITER
    for iteration, finished in ((None, False), (end // 2 - 1, False), (end, True)):
        line = dict.fromkeys(METRICS.values(), 40.0)
        place = {} if iteration is None else {"iteration": iteration}
        with (run.folder / "metrics.json").open("a") as file:
            file.write(f"{json.dumps(place | line)}\n")
        assert run.finished() is finished
        assert (run.metrics() is not None) is finished


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run is finished"):
        results(runs_in(tmp_path), log=lambda _: None)


def test_damaged_records(tmp_path: Path) -> None:
    (run, *_) = runs_in(tmp_path)
    finish(run)
    (run.folder / "metrics.json").write_text('{"panoptic_seg/PQ": 1')
    with pytest.raises(UserError, match=r"metrics\.json cannot be read"):
        run.finished()
    (run.folder / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"config\.yaml cannot be read"):
        run.finished()


def test_table_of_means_and_of_seeds() -> None:
    rows = [
        {"method": "bptt3", "seed": 1, **dict.fromkeys(METRICS, 50.0), "mIoU": None},
        {"method": "bptt3", "seed": 2, **dict.fromkeys(METRICS, 52.0), "mIoU": 60.0},
        {"method": "crbp20", "seed": 1, **dict.fromkeys(METRICS, 51.0)},
    ]
    costs = [{"method": "bptt3", "parameters": 1234, "peak_mib": 99.6, "seconds": 1.234}]
    summary, seeds = tabulated(rows, costs, markdown=True).split("\n\n")
    header, _, bptt, crbp = (line.split("|")[1:-1] for line in summary.splitlines())
    cells = dict(zip(map(str.strip, header), map(str.strip, bptt), strict=True))
    # Sample deviation of 50 and 52.
    assert cells["PQ"] == "51.0 ± 1.4" and cells["mIoU"] == "60.0" and cells["seeds"] == "2"
    assert (cells["parameters"], cells["peak MiB"], cells["s a step"]) == ("1,234", "100", "1.23")
    assert cells["saved MiB"] == "-"
    assert [cell.strip() for cell in crbp[:3]] == ["crbp20", "1", "51.0"]
    assert [cell.strip() for cell in seeds.splitlines()[-1].split("|")[1:-1]] == [
        "crbp20",
        "51.0",
        "-",
    ]
