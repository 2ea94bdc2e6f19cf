from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.engine import launch
from detectron2.utils import comm
from torch import nn

from rpanoptic.engine.checkpoint import PanopticCheckpointer
from rpanoptic.engine.shared_files import _by_process, weights_everywhere
from rpanoptic.errors import CheckpointError


def leave_checkpoint(folder: Path, name: str, value: float) -> None:
    """Save a model whose weight is ``value``, and note it as the last one."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    folder.mkdir(exist_ok=True)
    PanopticCheckpointer(model, str(folder), save_to_disk=True).save(name)


def resume_each(root: str) -> None:
    """In each of two processes: resume from several folders, and note what came of it."""
    rank, path = comm.get_rank(), Path(root)
    cases = {
        "shared": "shared",
        "second_has_none": ("one", "empty")[rank],
        "another_name": ("one", "two")[rank],
        "only_noted": ("one", "noted")[rank],
    }
    said = []
    for case, folder in cases.items():
        model = nn.Linear(1, 1, bias=False)
        try:
            PanopticCheckpointer(model, str(path / folder)).resume_or_load("")
            said.append(f"{case}: {model.weight.item():g}")
        except CheckpointError as error:
            said.append(f"{case}: {error}")
    for name in (("one", "empty")[rank], "empty"):
        try:
            weights_everywhere(str(path / name / "model_1.pth"))
        except CheckpointError as error:
            said.append(f"weights: {error}")
    (path / f"{rank}.txt").write_text("\n".join(said))
    # A process that leaves early may take the connection from one that still reads.
    comm.synchronize()


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, launch would use it")
def test_processes_that_do_not_see_the_same_folder_all_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    leave_checkpoint(tmp_path / "shared", "model_1", 3.0)
    leave_checkpoint(tmp_path / "one", "model_1", 1.0)
    leave_checkpoint(tmp_path / "two", "model_2", 2.0)
    (tmp_path / "empty").mkdir()
    (tmp_path / "noted").mkdir()
    (tmp_path / "noted" / "last_checkpoint").write_text("model_1.pth")
    launch(resume_each, 2, dist_url=f"file://{tmp_path}/meeting", args=(str(tmp_path),))
    first, second = ((tmp_path / f"{rank}.txt").read_text().splitlines() for rank in range(2))
    # Folders differ in name only because both processes are on this machine.
    unnamed = [[line.split("): ")[-1] for line in said] for said in (first, second)]
    assert unnamed[0][:4] == unnamed[1][:4]
    assert first[0] == "shared: 3"
    for line, lacks in zip(
        first[1:4],
        ("no checkpoint", "model_2.pth", "the name model_1.pth but no such file"),
        strict=True,
    ):
        assert "--resume: processes see different last checkpoints in OUTPUT_DIR" in line
        assert "model_1.pth in process 0 (on " in line
        assert f"; {lacks} in process 1 (on " in line
        assert line.endswith("OUTPUT_DIR must be seen by all machines.")
    for said in (first, second):
        assert "weights: not every process can read checkpoint" in said[4]
        assert "found in process 0 (on " in said[4]
        assert "does not exist in process 1 (on " in said[4]
        # What all lack is said once.
        assert said[5].endswith("empty/model_1.pth does not exist.")
        assert said[5].startswith("weights: checkpoint ")


def test_many_processes_are_counted() -> None:
    said = [("none", "a")] * 10 + [("some", "b")]
    text = _by_process(said)
    assert (
        text
        == "none in process 0, 1, 2, 3, 4, 5, 6, 7 and 2 more (on a); some in process 10 (on b)"
    )
