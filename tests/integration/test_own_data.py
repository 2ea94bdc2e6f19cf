"""The README's commands for data of one's own, on a small set in another layout than COCO's.

To the training's command only overrides are added, that make the model tiny.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from rpanoptic.engine import setup_config
from tests.conftest import load_script
from tests.data.foreign import ForeignSet, write_foreign_set
from tests.engine.tiny import tiny_options
from tests.paths import ROOT

# What the synthetic base config has besides; the tiny model is made for it.
BASE = {
    "MODEL__WEIGHTS": "",
    "MODEL__BACKBONE__FREEZE_AT": 0,
    "MODEL__RESNETS__NORM": "BN",
    "MODEL__ANCHOR_GENERATOR__SIZES": [[8], [16], [32], [64], [128]],
    "MODEL__PANOPTIC_FPN__COMBINE__INSTANCES_CONFIDENCE_THRESH": 0.0,
    "INPUT__MAX_SIZE_TRAIN": 64,
    "INPUT__MAX_SIZE_TEST": 64,
    "SOLVER__STEPS": "()",
}


def commands() -> dict[str, list[str]]:
    """The words of the README's commands for data of one's own, by the script that they call."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("\n## Your own data\n", 1)[1].split("\n## ", 1)[0]
    (block,) = re.findall(r"^```\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    found = {}
    for line in block.replace("\\\n", " ").strip().splitlines():
        python, script, *words = shlex.split(line)
        assert python == ".venv/bin/python"
        found[script] = words
    return found


def put(found: ForeignSet, places: list[str]) -> None:
    """Move a set to where a command looks for it."""
    for path, place in zip(found, map(Path, places), strict=True):
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, place)


@pytest.fixture
def names_before() -> Iterator[set[str]]:
    """The datasets that are registered without the test."""
    before = set(DatasetCatalog)
    yield before
    forget(before)


def forget(before: set[str]) -> None:
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_trains_and_draws_by_the_commands_of_the_readme(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    names_before: set[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = commands()
    train = words["tools/train_net.py"]
    for place, seed in (("--train-data", 0), ("--test-data", 1)):
        at = train.index(place) + 1
        made = write_foreign_set(tmp_path / f"made{seed}", pictures=2, side=64, seed=seed)
        put(made, train[at : at + 3])
    at = train.index("--config-file") + 1
    train[at] = str(ROOT / train[at])
    options = tiny_options(**BASE)
    for key in ("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.SEM_SEG_HEAD.NUM_CLASSES"):
        at = options.index(key)
        del options[at : at + 2]
    assert load_script("tools/train_net.py").main([*train, *options]) == 0

    output = Path("output/mine")
    results = json.loads((output / "metrics.json").read_text().splitlines()[-1])
    assert 0 <= results["panoptic_seg/PQ"] <= 100
    assert {"sem_seg/mIoU", "segm/AP"} <= set(results)
    checkpoint = torch.load(output / "model_final.pth", weights_only=True)
    named = [(one["name"], bool(one["isthing"])) for one in checkpoint["classes"]["classes"]]
    assert named == [("car", True), ("road", False), ("class 12", False), ("walker", True)]

    shutil.rmtree("my_data")
    forget(names_before)
    draw = words["tools/demo.py"]
    photos = Path(draw[draw.index("--input") + 1])
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photos / "one.png")
    assert load_script("tools/demo.py").main([*draw, "--confidence-threshold", "0"]) == 0
    drawn = Path(draw[draw.index("--output") + 1])
    assert sorted(file.name for file in drawn.iterdir()) == ["one_panoptic.png", "one_steps.png"]

    # The run's own config says all that it needs to be repeated.
    cfg = setup_config(output / "config.yaml", splits=())
    assert [Path(entry["JSON"]) for entry in cfg.DATASETS.PANOPTIC] == [
        tmp_path / "my_data" / split / "panoptic.json" for split in ("train", "val")
    ]
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 3
