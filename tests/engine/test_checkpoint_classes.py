"""The classes that a checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.engine.checkpoint import PanopticCheckpointer, checkpoint_classes
from rpanoptic.errors import CheckpointError


def classes(*names: str) -> ClassTable:
    """Things, and one kind of stuff."""
    things = [{"id": 2 * place, "name": n, "isthing": True} for place, n in enumerate(names)]
    return ClassTable.from_categories([*things, {"id": 99, "name": "sky", "isthing": False}])


def saved(folder: Path, table: ClassTable | None, **extra: Any) -> str:
    PanopticCheckpointer(nn.Linear(2, 2), str(folder), classes=table).save("model", **extra)
    return str(folder / "model.pth")


def training(folder: Path, table: ClassTable | None) -> PanopticCheckpointer:
    """As the trainer makes it: with things to go on with."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return PanopticCheckpointer(model, str(folder), classes=table, optimizer=optimizer)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_they_are_plain_containers_and_come_back(tmp_path: Path) -> None:
    table = classes("cup", "can")
    file = saved(tmp_path, table, model={"weight": torch.ones(2, 2), "bias": torch.ones(2)})
    assert torch.load(file, weights_only=True)["classes"] == table.to_dict()
    assert checkpoint_classes(file) == table
    extra = PanopticCheckpointer(nn.Linear(2, 2)).load(file)
    assert ClassTable.from_dict(extra["classes"]) == table


def test_files_without_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert checkpoint_classes(saved(tmp_path, None)) is None
    old = tmp_path / "old.pth"
    torch.save({"weight": torch.ones(2)}, old, _use_new_zipfile_serialization=False)
    assert checkpoint_classes(str(old)) is None
    (tmp_path / "zoo.pkl").write_bytes(b"")
    assert checkpoint_classes(str(tmp_path / "zoo.pkl")) is None
    assert warnings(caplog) == []
    assert checkpoint_classes(saved(tmp_path, None, classes=["cup", "can"])) is None
    assert "is passed over: no table of classes" in caplog.text


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.pth does not exist"):
        checkpoint_classes(str(tmp_path / "absent.pth"))
    file = Path(saved(tmp_path, classes("cup")))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=rf"{file} is damaged"):
        checkpoint_classes(str(file))


@pytest.mark.parametrize(
    ("now", "difference"),
    [
        (("cup", "tin"), "thing 1 is 'can' in the one and 'tin' in the other"),
        (("can", "cup"), "thing 0 is 'cup' in the one and 'can' in the other"),
        (("cup",), "2 kinds of things in the one, 1 in the other"),
    ],
)
def test_other_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, now: tuple[str, ...], difference: str
) -> None:
    training(tmp_path, classes("cup", "can")).save("model", iteration=0)
    resumed = training(tmp_path, classes(*now))
    with pytest.raises(CheckpointError, match=f"{difference}.*MODEL.WEIGHTS"):
        resumed.resume_or_load("", resume=True)
    # A new training, and an evaluation, even of the last checkpoint.
    file = str(tmp_path / "model.pth")
    resumed.resume_or_load(file, resume=False)
    assert difference in caplog.text
    caplog.clear()
    judged = PanopticCheckpointer(nn.Linear(2, 2), str(tmp_path), classes=classes(*now))
    judged.resume_or_load("", resume=True, strict=True)
    assert difference in caplog.text


def test_the_same_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Colours and ids in files are not what a label means."""
    training(tmp_path, classes("cup", "can")).save("model", iteration=0)
    table = [
        {**one, "id": one["id"] + 1, "color": [1, 2, 3]}
        for one in classes("cup", "can").categories()
    ]
    training(tmp_path, ClassTable.from_categories(table)).resume_or_load("", resume=True)
    training(tmp_path, None).resume_or_load("", resume=True)
    (tmp_path / "old").mkdir()
    training(tmp_path / "old", None).save("model", iteration=0)
    training(tmp_path / "old", classes("cup")).resume_or_load("", resume=True)
    assert warnings(caplog) == []


def test_a_difference_in_stuff() -> None:
    sky = classes("cup")
    sea = ClassTable.from_categories(
        [{"id": 0, "name": "cup", "isthing": 1}, {"id": 1, "name": "sea", "isthing": 0}]
    )
    assert sky.difference(sea) == "stuff 1 is 'sky' in the one and 'sea' in the other"
    assert sky.difference(ClassTable(sea.things)) == "1 kinds of stuff in the one, 0 in the other"
