from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor, nn

from rpanoptic.engine.dynamics import (
    DynamicsProbe,
    dataset_pictures,
    recorded_inputs,
    save_dynamics,
)
from rpanoptic.errors import CheckpointError, ConfigError, DatasetError, UserError
from rpanoptic.evaluation.dynamics import BlockInput, dynamics_table, measure_dynamics
from rpanoptic.modeling.backbone import Hierarchy
from rpanoptic.recurrent import RecurrentBlock, build_cell, recurrent_blocks
from tests.engine.tiny import tiny_cfg

NAME = "roi_heads.mask_head.recurrence"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    torch.save(build_model(tiny_cfg(folder)).state_dict(), folder / "model.pth")
    return folder / "model.pth"


@pytest.fixture()
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (80, 96, 3), dtype=np.uint8)


def make_block(seed: int = 0, steps: int = 3) -> RecurrentBlock:
    torch.manual_seed(seed)
    return RecurrentBlock(build_cell("hgru", 4, max_steps=steps), steps=steps).eval()


class TwoLevels(nn.Module):
    """A block that is run on two maps of different size, and one that goes on from a state."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.second = make_block(0), make_block(1)

    def forward(self, drive: Tensor) -> None:
        first = self.shared(drive).state
        self.shared(drive[:, :, ::2, ::2])
        self.second(drive, state=first)


def test_recorded_inputs_are_copies_of_the_first_samples_of_each_block() -> None:
    model, drive = TwoLevels(), torch.rand(3, 4, 6, 6)
    blocks = recurrent_blocks(model)
    assert list(blocks) == ["shared", "second"]
    with recorded_inputs(blocks, limit=4) as inputs, torch.no_grad():
        model(drive)
    with torch.no_grad():
        model(drive)  # nothing is kept outside the context
    shared, second = inputs["shared"], inputs["second"]
    assert [tuple(one.drive.shape) for one in shared] == [(1, 4, 6, 6)] * 3 + [(1, 4, 3, 3)]
    assert [torch.equal(one.drive[0], drive[n]) for n, one in enumerate(shared[:3])] == [True] * 3
    assert all(one.state is None for one in shared)
    assert len(second) == 3
    torch.testing.assert_close(second[1].state[0], model.shared(drive).state[1])
    drive.zero_()
    assert (shared[0].drive > 0).any()
    assert shared[0].drive.untyped_storage().nbytes() == 4 * 4 * 6 * 6


def test_a_model_that_is_a_block_has_a_name() -> None:
    assert list(recurrent_blocks(make_block())) == ["model"]


def test_samples_of_several_shapes_are_measured_as_each_alone() -> None:
    block = make_block()
    torch.manual_seed(1)
    inputs = [BlockInput(torch.rand(1, 4, size, size)) for size in (3, 5, 3)]
    together = measure_dynamics("b", block, inputs, steps=6, iterations=5)
    # Those of equal shape come together: 3, 3, 5.
    for place, number in enumerate([0, 2, 1]):
        alone = measure_dynamics("b", block, [inputs[number]], steps=6, iterations=5)
        for key, value in alone.numbers().items():
            if isinstance(value, list):
                expected = torch.tensor(value)
                actual = torch.tensor(together.numbers()[key][place : place + 1])
                # Single precision, and convolutions that sum in another order in a batch. What
                # the second component of a nearly straight path is, rounding decides.
                torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
    assert together.numbers()["samples"] == 3


def test_a_given_first_state_is_gone_on_from() -> None:
    block, drive = make_block(), torch.rand(1, 4, 3, 3)
    states = block.iterate(drive)
    third = [next(states) for _ in range(3)][-1]
    later = measure_dynamics("b", block, [BlockInput(drive, third)], steps=3, iterations=2)
    whole = measure_dynamics("b", block, [BlockInput(drive)], steps=6, iterations=2)
    torch.testing.assert_close(later.residual, whole.residual[3:])


def test_measuring_needs_a_sample_and_enough_steps() -> None:
    block, inputs = make_block(steps=1), [BlockInput(torch.rand(1, 4, 3, 3))]
    with pytest.raises(ValueError, match="no sample to look at block b with"):
        measure_dynamics("b", block, [], steps=3)
    with pytest.raises(ValueError, match="steps must be at least 3, got 2"):
        measure_dynamics("b", block, inputs, steps=2)
    with pytest.raises(ValueError, match="steps must be an integer of at least 4, got 3"):
        measure_dynamics("b", make_block(steps=4), inputs, steps=3)


def test_numbers_that_are_not_finite_are_none_in_json_and_dashes_in_the_table(
    tmp_path: Path,
) -> None:
    block, drive = make_block(), torch.rand(1, 4, 3, 3)
    inputs = [BlockInput(drive), BlockInput(torch.full_like(drive, torch.nan))]
    result = measure_dynamics("b", block, inputs, steps=6, iterations=2)
    save_dynamics(tmp_path, [result])
    (numbers,) = json.loads((tmp_path / "dynamics.json").read_text())
    assert numbers["spectral_radius"][1] is None and numbers["residual"][1] == [None] * 6
    assert numbers["spectral_radius"][0] > 0 and numbers["explained_variance"][0][0] > 0
    assert " - " in dynamics_table([result])


def test_table_has_median_and_largest_of_each_number_a_block() -> None:
    torch.manual_seed(0)
    inputs = [BlockInput(torch.rand(1, 4, 3, 3)) for _ in range(3)]
    results = [
        measure_dynamics(name, make_block(), inputs, steps=6, iterations=2) for name in ("a", "b")
    ]
    first, second = dynamics_table(results).split("\n\n")
    assert first.startswith("a: HGRU, 3 steps in training, 3 samples\n")
    assert second.startswith("b: HGRU")
    rows = [line.strip("│").split("│") for line in first.splitlines() if "step " in line]
    found = {label.strip(): (float(median), float(most)) for label, median, most in rows}
    distances = sorted(results[0].past.distance[5].tolist())
    expected = pytest.approx((distances[1], distances[2]), rel=5e-4)  # four digits are shown
    assert found["relative distance of step 6 to step 3"] == expected
    assert len(found) == 5


def test_probe_of_a_model(weights: Path, image: np.ndarray, tmp_path: Path) -> None:
    probe = DynamicsProbe(tiny_cfg(tmp_path), str(weights), samples=3, pictures=2)
    with pytest.raises(UserError, match=f"no sample reached the recurrent blocks \\({NAME}\\)"):
        probe.measure()
    probe.look(image)
    probe.look(image[::-1].copy())
    (result,) = probe.measure(iterations=4)
    assert (result.name, result.cell, result.past.trained_steps) == (NAME, "HGRU", 3)
    # Two of the first picture and one of the second; twice the trained steps.
    assert result.residual.shape == result.past.distance.shape == (6, 3)
    assert result.radius.value.shape == result.singular_value.value.shape == (3,)
    assert result.components.projections.shape == (6, 3, 2)
    assert not torch.equal(result.residual[:, 0], result.residual[:, 2])


def test_probe_refuses_what_it_cannot_measure(weights: Path, tmp_path: Path) -> None:
    cfg = tiny_cfg(tmp_path)
    plain = tiny_cfg(tmp_path, MODEL__ROI_MASK_HEAD__NAME="MaskRCNNConvUpsampleHead")
    with pytest.raises(ConfigError, match="no recurrent block"):
        DynamicsProbe(plain, str(weights))
    with pytest.raises(ConfigError, match=f"--steps 2: block {NAME} is trained for 3 steps"):
        DynamicsProbe(cfg, str(weights), steps=2)
    with pytest.raises(CheckpointError, match="does not exist"):
        DynamicsProbe(cfg, str(tmp_path / "absent.pth"))
    with pytest.raises(CheckpointError, match="another architecture"):
        wider = tiny_cfg(tmp_path, MODEL__ROI_BOX_HEAD__FC_DIM=8)
        DynamicsProbe(wider, str(weights))


def test_pictures_of_the_first_test_set(tiny_data: Path, tmp_path: Path) -> None:
    pictures = dataset_pictures(tiny_cfg(tmp_path), 1)
    assert len(pictures) == 1 and pictures[0].is_file() and tiny_data in pictures[0].parents
    assert len(dataset_pictures(tiny_cfg(tmp_path), 9)) == 2
    with pytest.raises(ConfigError, match=r"DATASETS\.TEST is empty"):
        dataset_pictures(tiny_cfg(tmp_path, DATASETS__TEST=()), 1)
    with pytest.raises(DatasetError, match="absent_set"):
        dataset_pictures(tiny_cfg(tmp_path, DATASETS__TEST=("absent_set",)), 1)


def test_a_joint_equilibrium_of_two_levels_is_recorded_and_measured() -> None:
    torch.manual_seed(0)
    cells = {"p2": build_cell("conv_rnn", 2), "p3": build_cell("conv_rnn", 2)}
    joint = Hierarchy(cells, {"p2": build_cell("top_down", 2, kernel_size=1)})
    block = RecurrentBlock(joint, steps=3).eval()
    drive = (torch.rand(3, 2, 4, 4), torch.rand(3, 2, 2, 2))
    with recorded_inputs({"joint": block}, limit=2) as inputs, torch.no_grad():
        block(drive)
    kept = inputs["joint"]
    assert [[tuple(t.shape) for t in one.drive] for one in kept] == [
        [(1, 2, 4, 4), (1, 2, 2, 2)]
    ] * 2
    assert torch.equal(kept[1].drive[1][0], drive[1][1])
    results = measure_dynamics("joint", block, kept, steps=5, iterations=5)
    assert results.residual.shape == (5, 2)
    assert torch.isfinite(results.radius.value).all()
