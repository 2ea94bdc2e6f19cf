from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from rpanoptic import model_zoo
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.engine import setup_config
from rpanoptic.engine.weights_file import file_sha256
from rpanoptic.errors import CheckpointError, ConfigError
from tests.markdown import broken_links, python_blocks, run_block
from tests.paths import CONFIGS

OURS = "synthetic_panoptic_crbp.yaml"
DETECTRON2S = "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml"
LAZY = "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the model of ``OURS``."""
    file = tmp_path_factory.mktemp("weights") / "model_final.pth"
    torch.save({"model": model_zoo.get(OURS, device="cpu").state_dict()}, file)
    return file


def test_names_lead_to_files_and_configs() -> None:
    assert model_zoo.list() == model_zoo.list_configs()
    assert OURS in model_zoo.list()
    assert model_zoo.get_config_file(OURS) == str(CONFIGS / OURS)
    assert model_zoo.get_config(OURS) == setup_config(CONFIGS / OURS)


def test_detectron2s_names_have_our_keys_and_its_weights() -> None:
    cfg = model_zoo.get_config(DETECTRON2S, trained=True)
    assert isinstance(cfg, CfgNode) and "RECURRENT" in cfg.MODEL
    url = model_zoo.get_checkpoint_url(DETECTRON2S)
    assert url == cfg.MODEL.WEIGHTS and "139514544/model_final" in url
    assert model_zoo.get_config(DETECTRON2S).MODEL.WEIGHTS.endswith("MSRA/R-50.pkl")


def test_weights_of_a_file_are_loaded(weights: Path) -> None:
    model = model_zoo.get(OURS, device="cpu", weights=weights, sha256=file_sha256(weights))
    assert model.training and model.device.type == "cpu"
    expected = torch.load(weights, weights_only=True)["model"]
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_weights_bring_their_classes(tmp_path: Path) -> None:
    entries = [{"id": number, "isthing": number < 2} for number in range(5)]
    classes = ClassTable.from_categories(entries)
    cfg = setup_config(CONFIGS / OURS, ["MODEL.DEVICE", "cpu"], classes=classes)
    file = tmp_path / "model_final.pth"
    torch.save({"model": build_model(cfg).state_dict(), "classes": classes.to_dict()}, file)
    model = model_zoo.get(OURS, device="cpu", weights=file)
    assert model.roi_heads.num_classes == 2
    assert model.sem_seg_head.predictor.out_channels == 4


def test_other_weights_than_meant_are_refused_before_anything_is_built(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpanoptic.model_zoo.zoo.build_model", lambda cfg: pytest.fail("built"))
    with pytest.raises(CheckpointError, match=rf"{weights} has the SHA-256 {file_sha256(weights)}"):
        model_zoo.get(OURS, weights=weights, sha256="0" * 64)
    with pytest.raises(CheckpointError, match=r"nowhere\.pth does not exist"):
        model_zoo.get(OURS, weights="nowhere.pth")


def test_weights_of_another_model_are_refused(weights: Path) -> None:
    with pytest.raises(CheckpointError, match="another architecture"):
        model_zoo.get("synthetic_panoptic_baseline.yaml", device="cpu", weights=weights)


def test_weights_that_would_run_code_are_refused(tmp_path: Path) -> None:
    torch.save({"model": Path("x")}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match="refused"):
        model_zoo.get(OURS, device="cpu", weights=tmp_path / "code.pth")


def test_published_weights_are_checked_and_loaded(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish(sha256: str) -> None:
        record = model_zoo.PublishedWeights(
            url=str(weights), sha256=sha256, licence="Apache-2.0", metrics={}, config=OURS
        )
        monkeypatch.setitem(model_zoo.PUBLISHED, OURS, record)

    publish(file_sha256(weights))
    assert model_zoo.get_checkpoint_url(OURS) == str(weights)
    assert str(weights) == model_zoo.get_config(OURS, trained=True).MODEL.WEIGHTS
    model = model_zoo.get(OURS, trained=True, device="cpu")
    expected = torch.load(weights, weights_only=True)["model"]
    key = "roi_heads.mask_head.predictor.weight"
    assert torch.equal(model.state_dict()[key], expected[key])
    publish("0" * 64)
    with pytest.raises(CheckpointError, match="has the SHA-256"):
        model_zoo.get(OURS, trained=True, device="cpu")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: model_zoo.get_checkpoint_url(OURS), f"no trained weights of {OURS} are published"),
        (lambda: model_zoo.get_config(OURS, trained=True), "no trained weights"),
        (lambda: model_zoo.get(OURS, trained=True), "no trained weights"),
        (
            lambda: model_zoo.get_checkpoint_url(
                "quick_schedules/panoptic_fpn_R_50_inference_acc_test.yaml"
            ),
            "Detectron2 publishes no weights",
        ),
        (lambda: model_zoo.get(OURS, trained=True, weights="a.pth"), "not both"),
        (
            lambda: model_zoo.get(OURS, trained=True, sha256="0" * 64),
            r"sha256 checks weights of your own; those of trained=True",
        ),
        (lambda: model_zoo.get(OURS, sha256="0" * 64), "no weights that it could check"),
        (lambda: model_zoo.get(OURS, weights="", sha256="0" * 64), "no weights that it could"),
    ],
)
def test_weights_that_there_are_not(ask, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        ask()


@pytest.mark.parametrize(
    "ask",
    [
        model_zoo.get_config_file,
        model_zoo.get_checkpoint_url,
        model_zoo.get_config,
        model_zoo.get,
    ],
)
def test_unknown_names_list_the_closest(ask) -> None:
    with pytest.raises(ConfigError, match=f"'synthetic_panoptic_cbp.yaml'. Close names: {OURS}"):
        ask("synthetic_panoptic_cbp.yaml")


def test_nothing_beside_the_configs_is_run() -> None:
    for ask in (model_zoo.get_config, model_zoo.get):
        with pytest.raises(ConfigError, match="neither rpanoptic nor Detectron2 has a config"):
            ask("../../__init__.py")


def test_lazy_configs_have_names_too() -> None:
    ours = "lazy/panoptic_fpn_crbp_r50.py"
    assert ours in model_zoo.list()
    assert model_zoo.get_config(ours).model.roi_heads.mask_head.recurrence.steps == 20
    with pytest.raises(CheckpointError, match="no trained weights"):
        model_zoo.get_config(ours, trained=True)
    cfg = model_zoo.get_config(LAZY, trained=True)
    assert cfg.train.init_checkpoint == model_zoo.get_checkpoint_url(LAZY)
    assert model_zoo.get_config(LAZY).model.roi_heads.num_classes == 80
    with pytest.raises(ConfigError, match="is a lazy config; this takes YAML"):
        setup_config(LAZY)


def test_a_lazy_config_without_a_model_and_one_that_is_a_model_alone() -> None:
    with pytest.raises(ConfigError, match=r"common/optim\.py describes no model"):
        model_zoo.get("common/optim.py", device="cpu")
    # It names no weights to start from.
    assert model_zoo.get("common/models/retinanet.py", device="cpu").training


@pytest.mark.parametrize("device", ["tpu", "cuda:99", ""])
def test_devices_that_there_are_not(device: str) -> None:
    with pytest.raises(ConfigError, match=f"PyTorch cannot use device '{device}'"):
        model_zoo.get(OURS, device=device)


def test_importing_opens_no_connection() -> None:
    code = (
        "import socket\n"
        "def refuse(*args): raise AssertionError('connects')\n"
        "socket.socket.connect = refuse\n"
        "from rpanoptic import model_zoo\n"
        f"model_zoo.get_config({DETECTRON2S!r}, trained=True)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


README = CONFIGS / "README.md"


def test_the_readmes_example_runs() -> None:
    (source,) = python_blocks(README)
    assert run_block(source, README.name)["cfg"].MODEL.META_ARCHITECTURE == "PanopticFPN"
    assert broken_links(README) == []


def test_the_readmes_config_builds_on_both_zoos(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", README.read_text("utf-8"), re.M | re.S)
    (tmp_path / "c.yaml").write_text(text)
    cfg = setup_config(tmp_path / "c.yaml")
    assert cfg.MODEL.ROI_MASK_HEAD.NAME == "RecurrentMaskRCNNHead"
    assert cfg.SOLVER.MAX_ITER == 270000
