"""What all tests share: a thread, data."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from tests.data.helpers import load_script
from tests.paths import ROOT


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors are slower on several threads, and far slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def unregistered() -> Iterator[None]:
    """No dataset that the test registers is left for the next one."""
    before = set(DatasetCatalog), set(MetadataCatalog)
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), before, strict=True):
        for name in set(catalog) - names:
            catalog.remove(name)


@pytest.fixture(scope="session")
def coco_sample() -> Path:
    """Folder of panopticapi's two sample pictures of COCO; skips where it is absent.

    It is not part of the repository: the photos may not be passed on under its licence.
    """
    named = os.environ.get("RPANOPTIC_COCO_SAMPLE")
    folder = Path(named) if named else ROOT.parent / "shared" / "data" / "coco_sample"
    if not (folder / "panoptic_examples.json").is_file():
        pytest.skip(
            f"no COCO sample at {folder}: set RPANOPTIC_COCO_SAMPLE to the sample_data folder of "
            "cocodataset/panopticapi"
        )
    return folder


@pytest.fixture(scope="session")
def coco_layout(coco_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``DETECTRON2_DATASETS`` folder whose coco/val2017 is the sample, prepared by the script."""
    root = tmp_path_factory.mktemp("datasets")
    coco = root / "coco"
    for source, target in (("input_images", "val2017"), ("panoptic_examples", "panoptic_val2017")):
        (coco / target).mkdir(parents=True)
        for file in (coco_sample / source).iterdir():
            shutil.copyfile(file, coco / target / file.name)
    (coco / "annotations").mkdir()
    shutil.copyfile(
        coco_sample / "panoptic_examples.json", coco / "annotations" / "panoptic_val2017.json"
    )
    script = load_script("datasets/prepare_coco_panoptic.py")
    assert script.main(["--root", str(coco), "--splits", "val2017", "--workers", "2"]) == 0
    return root


@pytest.fixture(scope="session")
def synthetic_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``DETECTRON2_DATASETS`` folder with a small synthetic set: 24 + 8 pictures of 96 x 96."""
    root = tmp_path_factory.mktemp("synthetic")
    script = load_script("datasets/prepare_synthetic_panoptic.py")
    options = ["--train", "24", "--val", "8", "--size", "96", "--seed", "5", "--workers", "1"]
    assert script.main(["--output", str(root / "synthetic_panoptic"), *options]) == 0
    return root
