from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rpanoptic.engine.contour_trace import (
    ContourTracer,
    dataset_pictures,
    own_pictures,
    read_grey,
    save_traces,
    save_trajectories,
)
from rpanoptic.engine.inputs import PictureError
from rpanoptic.errors import CheckpointError, ConfigError, DatasetError
from tests.pathfinder.models.tiny import FEEDFORWARD, TINY, UNET, config, picture, tiny_model

TRAINED = TINY["MODEL.RECURRENT.PATHFINDER.STEPS"]
DATASET = "pathfinder_tiny_test_on_the_fly"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": tiny_model().state_dict()}, file)
    return str(file)


def test_trace_is_the_readout_of_the_model_after_every_step(weights: str) -> None:
    tracer = ContourTracer(config(TINY), weights)
    inputs = picture(0)
    trace, trajectory = tracer.trace(inputs)
    assert trajectory is None
    assert (tracer.trained_steps, tracer.steps) == (TRAINED, 2 * TRAINED)
    assert trace.probability.shape == (2 * TRAINED, 16, 16)
    model = tiny_model().eval()
    for steps in (1, TRAINED, 2 * TRAINED):
        (output,) = model([inputs], steps=steps)
        expected = output["sem_seg"].softmax(dim=0)[1].detach().numpy()
        # Half precision has eleven bits.
        np.testing.assert_allclose(trace.probability[steps - 1], expected, rtol=1e-3, atol=1e-6)
    assert (trace.image == inputs["image"][0].numpy()).all() and trace.image.dtype == np.uint8
    assert trace.target is not None and (trace.target == inputs["sem_seg"].numpy()).all()
    del inputs["sem_seg"]
    assert tracer.trace(inputs)[0].target is None


def test_components_of_the_states(weights: str) -> None:
    tracer = ContourTracer(config(TINY), weights, steps=5)
    _, found = tracer.trace(picture(0), trajectory=True)
    assert found is not None
    assert found.projections.shape == (5, 1, 2) and found.explained.shape == (1, 2)
    states = torch.stack(list(tiny_model().eval().states([picture(0)], 5))).flatten(1).double()
    # Distances in the plane are at most those of the states, and here nearly they.
    planar, whole = (torch.pdist(x) for x in (found.projections[:, 0], states))
    assert (planar <= whole * (1 + 1e-6)).all()
    assert found.explained.sum() > 0.9 and (planar > 0.5 * whole).any()


def test_what_cannot_be_traced_is_refused(weights: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"MODEL\.META_ARCHITECTURE ContourClassifier: it traces"):
        ContourTracer(config(TINY, MODEL__META_ARCHITECTURE="ContourClassifier"), weights)
    for backbone in (FEEDFORWARD, UNET):
        with pytest.raises(ConfigError, match=f"MODEL.BACKBONE.NAME {backbone}: .* no recurrence"):
            ContourTracer(config(TINY, MODEL__BACKBONE__NAME=backbone), weights)
    with pytest.raises(ConfigError, match="--steps: steps must be an integer of at least 1, got 0"):
        ContourTracer(config(TINY), weights, steps=0)
    with pytest.raises(CheckpointError, match="does not exist"):
        ContourTracer(config(TINY), str(tmp_path / "absent.pth"))
    with pytest.raises(CheckpointError, match="another architecture"):
        ContourTracer(config(TINY, CHANNELS=4), weights)


def test_pictures_of_a_set_with_their_truth() -> None:
    cfg = config(TINY)
    cfg.DATASETS.TEST = (DATASET, "absent")
    cfg.INPUT.MIN_SIZE_TEST = 24
    pictures = dataset_pictures(cfg, None, first=3, samples=2)
    assert [name for name, _ in pictures] == [f"{DATASET}_000003", f"{DATASET}_000004"]
    first, second = (read() for _, read in pictures)
    assert first["image"].shape == (1, 24, 24) and first["sem_seg"].shape == (24, 24)
    assert not torch.equal(first["image"], second["image"])
    ((_, again),) = dataset_pictures(cfg, DATASET, first=4, samples=1)
    assert torch.equal(again()["image"], second["image"])


def test_sets_without_contours_to_trace_are_refused() -> None:
    cfg = config(TINY)
    cfg.DATASETS.TEST = ()
    with pytest.raises(ConfigError, match=r"DATASETS\.TEST is empty"):
        dataset_pictures(cfg, None, first=0, samples=1)
    with pytest.raises(DatasetError, match="pathfinder_99_test"):
        dataset_pictures(cfg, "pathfinder_99_test", first=0, samples=1)
    with pytest.raises(ConfigError, match=r"expected contours .* pathfinder_classification"):
        name = "pathfinder_14_classification_test_on_the_fly"
        dataset_pictures(cfg, name, first=0, samples=1)
    with pytest.raises(ConfigError, match=f"last picture of dataset {DATASET} is 999"):
        dataset_pictures(cfg, DATASET, first=998, samples=3)


def test_own_pictures_are_grey_and_of_the_size_of_evaluation(tmp_path: Path) -> None:
    cfg = config(TINY)
    cfg.INPUT.MIN_SIZE_TEST = 20
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[10:20] = 255
    file = tmp_path / "all.png"
    Image.fromarray(pixels).save(file)
    ((name, read),) = own_pictures(cfg, [file], taken=["all"])
    inputs = read()
    assert name == "all_2" and "sem_seg" not in inputs
    assert inputs["image"].shape == (1, 20, 30) and inputs["image"].dtype == torch.float32
    assert (inputs["image"][0, 6:9] == 255).all() and (inputs["image"][0, 13:] == 0).all()
    cfg.INPUT.MIN_SIZE_TEST = 0
    assert torch.equal(read_grey(cfg, file)["image"][0], torch.tensor(pixels[:, :, 0]).float())


def test_own_pictures_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    cfg = config(TINY)
    line, damaged = tmp_path / "line.png", tmp_path / "damaged.png"
    Image.new("L", (5000, 1)).save(line)
    damaged.write_bytes(line.read_bytes()[:40])
    with pytest.raises(PictureError, match=f"{line}: 5000 x 1 pixels are too narrow"):
        read_grey(cfg, line)
    with pytest.raises(PictureError, match=f"{damaged} cannot be read"):
        read_grey(cfg, damaged)


def test_files_of_a_trace(weights: str, tmp_path: Path) -> None:
    tracer = ContourTracer(config(TINY), weights)
    inputs = [picture(number, height=32, width=32) for number in range(3)]
    traces, components = zip(*(tracer.trace(one, trajectory=True) for one in inputs), strict=True)
    strip, gif = save_traces(tmp_path, "all", traces, TRAINED, columns=2, cell_width=60)
    assert (strip.name, gif.name) == ("all.png", "all.gif")
    with Image.open(strip) as shown:
        # Picture, truth, steps 1, 2, 4 (the trained ones), 5, 8 (the last).
        assert shown.width == 7 * (220 + 8) + 8
    with Image.open(gif) as moving:
        assert moving.n_frames == 2 * TRAINED and moving.width == 6 * (60 + 8) + 8
    file = save_trajectories(tmp_path / "course.png", components, TRAINED)
    with Image.open(file) as shown:
        assert shown.width > 600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.gif", "all.png", "course.png"]
