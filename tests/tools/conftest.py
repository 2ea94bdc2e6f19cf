"""Fixtures of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from tests.engine.tiny import tiny_cfg, tiny_data, tiny_datasets

__all__ = ["tiny_data", "tiny_datasets"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the untrained tiny model."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    torch.save({"model": build_model(tiny_cfg(folder)).state_dict()}, folder / "model.pth")
    return folder / "model.pth"


@pytest.fixture()
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in ("one.png", "two.jpg"):
        pixels = generator.integers(0, 255, (60, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder
