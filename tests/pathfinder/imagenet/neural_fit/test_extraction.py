from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rpanoptic.errors import ConfigError, DatasetError
from rpanoptic.pathfinder.imagenet.neural_fit import FeatureFile, extract_features
from rpanoptic.pathfinder.imagenet.neural_fit.times import step_bins
from tests.pathfinder.imagenet.models.tiny import CONVRNN, RESNET, SIDE, tiny_model

IMAGES = torch.randn(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
IDS = tuple("abcde")
BOTH = {f"{CONVRNN}OUT_FEATURES": ["conv1", "conv3"], f"{CONVRNN}IMAGE_STEPS": 2}


def batches(images: Tensor = IMAGES) -> Iterator[Tensor]:
    yield from images.split(2)


def test_features_of_each_layer_at_each_step(tmp_path: Path) -> None:
    backbone = tiny_model(**BOTH).eval().backbone
    files = {name: tmp_path / f"{name}.nc" for name in ("conv1", "conv3")}
    extract_features(backbone, batches(), IDS, files, origin={"conv3": "x"})
    with torch.no_grad():
        by_step = backbone.unrolled(IMAGES, range(1, 6))
    last, first = FeatureFile(files["conv3"]), FeatureFile(files["conv1"])
    assert (last.header.origin, first.header.origin) == ("x", "")
    # conv3 answers from 20 ms on, in step 2 of the loop; conv1 at once, in step 1 from 10 ms on.
    expected = torch.stack([by_step[step]["conv3"] for step in range(2, 6)], -1).flatten(1, 3)
    # Convolutions of other batches may sum in another order.
    np.testing.assert_allclose(last.at(step_bins(2, 4)), expected, atol=1e-5)
    steps = [1, 1, 2, 3, 4, 5]
    expected = torch.stack([by_step[step]["conv1"] for step in steps], -1).flatten(1, 3)
    np.testing.assert_allclose(first.at(step_bins(0, 6)), expected, atol=1e-5)
    # Six channels of 4 x 4 pixels, channel by channel.
    assert last.header.channels.tolist() == np.repeat(range(6), 16).tolist()
    assert last.header.stimuli == IDS


def test_features_of_a_feed_forward_network(tmp_path: Path) -> None:
    backbone = tiny_model(**RESNET).eval().backbone
    files = {"res2": tmp_path / "res2.nc"}
    extract_features(backbone, batches(), IDS, files)
    with torch.no_grad():
        expected = backbone(IMAGES)["res2"].flatten(1)
    found = FeatureFile(files["res2"]).at(step_bins(7, 19))
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-4)
    assert found.shape[-1] == 1


def test_random_mixtures_keep_distances(tmp_path: Path) -> None:
    backbone = tiny_model(**BOTH).eval().backbone
    found = {}
    for name, size, seed in (
        ("whole", 0, 0),
        ("first", 80, 0),
        ("second", 80, 0),
        ("other", 80, 1),
    ):
        path = tmp_path / f"{name}.nc"
        extract_features(backbone, batches(), IDS, {"conv1": path}, projection=size, seed=seed)
        found[name] = FeatureFile(path)
    assert set(found["first"].header.channels) == {-1}
    values = {name: file.at(step_bins(0, 1))[..., 0] for name, file in found.items()}
    # 4 channels of 8 x 8 pixels.
    assert values["whole"].shape == (5, 256) and values["first"].shape == (5, 80)
    np.testing.assert_array_equal(values["first"], values["second"])
    assert np.abs(values["first"] - values["other"]).max() > 0.1
    distances = [
        np.linalg.norm(x[:, None] - x, axis=-1)[np.triu_indices(5, 1)]
        for x in (values["whole"], values["first"])
    ]
    # By Johnson and Lindenstrauss each to about 1 / sqrt(2 * 80) = 0.08; of ten the worst.
    np.testing.assert_allclose(distances[1] / distances[0], 1, atol=0.3)


def test_unknown_layers_and_broken_features_leave_nothing(tmp_path: Path) -> None:
    backbone = tiny_model(**BOTH).eval().backbone
    with pytest.raises(ConfigError, match="layer conv9 is no output of the model: conv1, conv3"):
        extract_features(backbone, batches(), IDS, {"conv9": tmp_path / "conv9.nc"})
    files = {name: tmp_path / f"{name}.nc" for name in ("conv1", "conv3")}
    images = IMAGES.clone()
    images[4] = torch.nan
    with pytest.raises(DatasetError, match="are not finite for the stimuli 4 to 4"):
        extract_features(backbone, batches(images), IDS, files)
    with pytest.raises(DatasetError, match="features of 5 stimuli were given, expected 6"):
        extract_features(backbone, batches(), [*IDS, "f"], files)
    assert list(tmp_path.iterdir()) == []
    stuck = tiny_model(**{f"{CONVRNN}GRADIENT": "crbp"}).eval().backbone
    with pytest.raises(ConfigError, match="layer conv3: a fit over time needs"):
        extract_features(stuck, batches(), IDS, {"conv3": tmp_path / "conv3.nc"})
