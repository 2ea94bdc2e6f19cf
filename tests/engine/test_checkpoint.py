from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rpanoptic.engine.checkpoint import PanopticCheckpointer
from rpanoptic.errors import CheckpointError


def make_model(width: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = {"body": nn.Linear(2, 3), "head": nn.Linear(3, width)}
    return nn.Sequential(collections.OrderedDict(layers))


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


class Malicious:
    """Makes a folder when it is unpickled without restriction."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_save_and_resume(tmp_path: Path) -> None:
    model, other = make_model(seed=1), make_model(seed=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    PanopticCheckpointer(model, str(tmp_path), optimizer=optimizer).save("model_1", iteration=7)

    restored = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    checkpointer = PanopticCheckpointer(other, str(tmp_path), optimizer=restored)
    extra = checkpointer.resume_or_load("", resume=True)
    assert extra["iteration"] == 7
    assert same_weights(model, other)
    assert restored.param_groups[0]["lr"] == 0.5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_1.pth"]


def test_failed_save_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(seed=1)
    checkpointer = PanopticCheckpointer(model, str(tmp_path))
    checkpointer.save("model")

    def half_written(data: object, stream: Any) -> None:
        stream.write(b"PK")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(OSError, match="no space"):
        checkpointer.save("model")
    monkeypatch.undo()
    other = make_model(seed=2)
    PanopticCheckpointer(other, str(tmp_path)).resume_or_load("", resume=True)
    assert same_weights(model, other)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model.pth"]


def test_missing_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "absent.pth"
    with pytest.raises(CheckpointError, match=rf"{file} does not exist"):
        PanopticCheckpointer(make_model()).load(str(file))


def test_unknown_catalogue_entry_is_named() -> None:
    path = "detectron2://ImageNetPretrained/absent/R-50.pkl"
    path = path.replace("detectron2://", "catalog://")
    with pytest.raises(CheckpointError, match=path):
        PanopticCheckpointer(make_model()).load(path)


def test_directory_given_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        PanopticCheckpointer(make_model()).load(str(tmp_path))


@pytest.mark.parametrize("ending", ["pth", "pkl"])
@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.98])
def test_truncated_file_is_named(tmp_path: Path, ending: str, kept: float) -> None:
    file = tmp_path / f"model.{ending}"
    model = make_model()
    if ending == "pth":
        torch.save({"model": model.state_dict()}, file)
    else:
        arrays = {key: value.numpy() for key, value in model.state_dict().items()}
        file.write_bytes(pickle.dumps({"model": arrays, "__author__": "me"}))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept if kept >= 1 else kept * len(whole))])
    with pytest.raises(CheckpointError, match=rf"{file} is damaged"):
        PanopticCheckpointer(model).load(str(file))


@pytest.mark.parametrize("ending", ["pth", "pkl", "pyth"])
def test_malicious_file_is_refused_and_not_run(tmp_path: Path, ending: str) -> None:
    trace = tmp_path / "ran"
    data = {"model": make_model().state_dict(), "model_state": {}, "extra": Malicious(trace)}
    file = tmp_path / f"model.{ending}"
    if ending == "pkl":
        file.write_bytes(pickle.dumps({"model": {}, "__author__": Malicious(trace)}))
    else:
        torch.save(data, file)
    with pytest.raises(CheckpointError, match=r"refused.*mkdir") as error:
        PanopticCheckpointer(make_model()).load(str(file))
    assert str(file) in str(error.value)
    assert not trace.exists()


def test_pickle_codec_trick_is_refused(tmp_path: Path) -> None:
    # Python 3 writes bytes for Python 2 through _codecs.encode; only latin1 has business there.
    file = tmp_path / "model.pkl"
    file.write_bytes(b"c_codecs\nencode\n(Vx\nVpunycode\ntR.")
    with pytest.raises(CheckpointError, match="refused"):
        PanopticCheckpointer(make_model()).load(str(file))


@pytest.mark.parametrize("protocol", [2, 4])
def test_zoo_pickle_loads(tmp_path: Path, protocol: int) -> None:
    model, other = make_model(seed=1), make_model(seed=2)
    arrays = {key: value.numpy() for key, value in model.state_dict().items()}
    data = {"model": arrays, "__author__": "zoo", "scale": np.float32(2), "raw": b"\xff"}
    file = tmp_path / "model.pkl"
    file.write_bytes(pickle.dumps(data, protocol=protocol))
    PanopticCheckpointer(other).resume_or_load(str(file), strict=True)
    assert same_weights(model, other)


def test_caffe2_style_pickle_matches_by_suffix(tmp_path: Path) -> None:
    model = make_model(seed=1)
    file = tmp_path / "R.pkl"
    arrays = {"body.weight": np.full((3, 2), 5, np.float32), "body.weight_momentum": np.ones(1)}
    file.write_bytes(pickle.dumps(arrays))
    PanopticCheckpointer(model).load(str(file))
    assert torch.equal(model.body.weight.detach(), torch.full((3, 2), 5.0))


def test_strict_loading_lists_what_differs(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    state = make_model(width=4).state_dict()
    state["neck.weight"] = torch.zeros(1)
    del state["body.bias"]
    torch.save({"model": state}, file)
    with pytest.raises(CheckpointError) as error:
        PanopticCheckpointer(make_model(width=3)).resume_or_load(str(file), strict=True)
    message = str(error.value)
    assert str(file) in message
    assert "that it lacks: body.bias" in message
    assert "that the model lacks: neck.weight" in message
    assert "head.weight (here (4, 3), in the model (3, 3))" in message


def test_long_lists_are_cut(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    extra = {f"more.{i}": torch.zeros(1) for i in range(9)}
    torch.save({"model": make_model().state_dict() | extra}, file)
    with pytest.raises(CheckpointError, match=r"more\.3 and 5 more"):
        PanopticCheckpointer(make_model()).resume_or_load(str(file), strict=True)


def make_detector(
    classes: int = 3, width: int = 4, *, head: str = "mask_fcn1", depth: int = 2
) -> nn.Module:
    """Layers under the names that Detectron2 gives them."""
    blocks = [nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width)) for _ in range(depth)]
    mask_head = nn.ModuleDict({head: nn.Linear(4, 4), "predictor": nn.Linear(4, classes)})
    return nn.ModuleDict(
        {
            "backbone": nn.Sequential(*blocks),
            "roi_heads": nn.ModuleDict(
                {"box_predictor": nn.Linear(4, classes + 1), "mask_head": mask_head}
            ),
            "sem_seg_head": nn.ModuleDict({"predictor": nn.Linear(4, classes)}),
        }
    )


def start_from(file: Path, weights: nn.Module, model: nn.Module) -> None:
    torch.save({"model": weights.state_dict()}, file)
    PanopticCheckpointer(model).resume_or_load(str(file), resume=False)


def test_training_starts_from_a_model_of_other_classes(tmp_path: Path) -> None:
    source, model = make_detector(classes=80), make_detector(classes=3)
    before = model["roi_heads"]["box_predictor"].weight.clone()
    start_from(tmp_path / "model.pth", source, model)
    assert same_weights(source["backbone"], model["backbone"])
    assert torch.equal(before, model["roi_heads"]["box_predictor"].weight)


def test_training_starts_from_a_model_with_another_head(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, model = make_detector(), make_detector(head="recurrence")
    start_from(tmp_path / "model.pth", source, model)
    assert same_weights(source["backbone"], model["backbone"])
    (warning,) = [r.getMessage() for r in caplog.records if "start untrained" in r.getMessage()]
    assert warning.endswith(": roi_heads.mask_head.recurrence")


def test_training_from_weights_of_another_shape_is_refused(tmp_path: Path) -> None:
    # A head of the same width, so that much of the file would fit.
    with pytest.raises(CheckpointError, match="another architecture") as error:
        start_from(tmp_path / "model.pth", make_detector(width=8), make_detector())
    assert "backbone.0.0.weight (here (8, 8), in the model (4, 4))" in str(error.value)


def test_training_from_a_backbone_of_another_depth_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    with pytest.raises(CheckpointError, match=r"4 of the backbone's 12 weights") as error:
        start_from(file, make_detector(depth=1), make_detector(depth=3))
    assert "backbone.1.0.weight" in str(error.value)
    start_from(file, make_detector(depth=2), make_detector(depth=3))


def test_training_starts_from_a_backbone_without_statistics(tmp_path: Path) -> None:
    # As the ImageNet files of Detectron2's model zoo are: names by suffix, no running means.
    source, model = make_detector(), make_detector()
    state = {
        name: value.numpy()
        for name, value in source["backbone"].state_dict().items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    file = tmp_path / "R-50.pkl"
    data = {"model": state, "__author__": "MSRA", "matching_heuristics": True}
    file.write_bytes(pickle.dumps(data))
    PanopticCheckpointer(model).resume_or_load(str(file), resume=False)
    assert same_weights(source["backbone"], model["backbone"])


def test_file_of_which_nothing_fits(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    torch.save({"model": {"other.weight": torch.zeros(2)}}, file)
    with pytest.raises(CheckpointError, match=rf"nothing in checkpoint {file} fits"):
        PanopticCheckpointer(make_model()).resume_or_load(str(file))


def test_resuming_is_strict(tmp_path: Path) -> None:
    PanopticCheckpointer(make_model(width=4), str(tmp_path)).save("model")
    with pytest.raises(CheckpointError, match="another architecture"):
        PanopticCheckpointer(make_model(width=3), str(tmp_path)).resume_or_load("", resume=True)


@pytest.mark.parametrize("content", [[1, 2], {"model": {"body.weight": "text"}}, {"model": 3}])
def test_file_without_weights(tmp_path: Path, content: object) -> None:
    file = tmp_path / "model.pth"
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=str(file)):
        PanopticCheckpointer(make_model()).load(str(file))
