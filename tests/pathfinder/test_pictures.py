from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from rpanoptic.engine import setup_config
from rpanoptic.engine.pictures import dataset_grid, draw_predictions
from rpanoptic.pathfinder import register_pathfinder_on_the_fly
from rpanoptic.pathfinder.mapper import PathfinderMapper
from rpanoptic.pathfinder.pictures import class_grid, contour_grid
from rpanoptic.pathfinder.settings import small_32_settings
from rpanoptic.visualization.contours import draw_contour, draw_prediction

NAMES = {form: f"pathfinder_of_test_pictures_{form}" for form in ("segmentation", "classification")}
# Of a grid: between pictures, and of the headings with the gap below them; pixels.
GAP, HEADINGS, CELL = 8, 42, 440


class Shifted(nn.Module):
    """Finds each contour a pixel to the right of where it is; "one contour" wherever it looks."""

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        assert not self.training and not torch.is_grad_enabled()
        outputs = []
        for sample in inputs:
            output = {"classification": torch.tensor([0.0, 1.0])}
            if "sem_seg" in sample:
                found = sample["sem_seg"].roll(1, dims=1)
                output["sem_seg"] = torch.stack([1 - found, found]).half()
            outputs.append(output)
        return outputs


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    for form, name in NAMES.items():
        settings = small_32_settings(length=4, distractors=1, form=form)
        register_pathfinder_on_the_fly(name, settings, 5, 5)
    yield
    for name in NAMES.values():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def cfg(output: Path, form: str = "segmentation", side: int = 0) -> CfgNode:
    options = ["INPUT.MIN_SIZE_TEST", str(side), "DATASETS.TEST", repr((NAMES[form],))]
    return setup_config(None, [*options, "RPANOPTIC.PICTURES", "2"], output_dir=output)


def cell(grid: np.ndarray, row: int, column: int) -> np.ndarray:
    top, left = HEADINGS + row * (CELL + GAP), GAP + column * (CELL + GAP)
    return grid[top : top + CELL, left : left + CELL]


def test_contours_are_drawn_as_input_truth_and_prediction(tmp_path: Path) -> None:
    side = 44  # a tenth of a cell: shown as it is, each pixel as 10 x 10
    config = cfg(tmp_path, side=side)
    model = Shifted().train()
    grid = contour_grid(config, model, NAMES["segmentation"], limit=2)
    assert model.training
    assert grid.shape == (HEADINGS + 2 * (CELL + GAP), 3 * (CELL + GAP) + GAP, 3)
    mapper = PathfinderMapper(config, is_train=False)
    for row, record in enumerate(DatasetCatalog.get(NAMES["segmentation"])[:2]):
        sample = mapper(record)
        image = sample["image"][0].numpy().astype(np.uint8)
        truth = sample["sem_seg"].numpy()
        expected = [
            image[:, :, None].repeat(3, axis=2),
            draw_contour(image, truth),
            draw_prediction(image, truth, np.roll(truth, 1, axis=1)),
        ]
        for column, picture in enumerate(expected):
            shown = cell(grid, row, column)
            assert (shown[5::10, 5::10] == picture).all(), (row, column)
            assert (shown == picture.repeat(10, axis=0).repeat(10, axis=1)).all()


def test_classes_are_drawn_three_a_row(tmp_path: Path) -> None:
    config = cfg(tmp_path, "classification")
    one, three, five = (
        class_grid(config, Shifted(), NAMES["classification"], limit=limit) for limit in (1, 3, 5)
    )
    assert one.shape[0] == three.shape[0] and five.shape[0] > 1.9 * three.shape[0]
    assert one.shape[1] < 0.4 * three.shape[1] and five.shape[1] == three.shape[1]
    assert (five[-one.shape[0] // 2 :, -one.shape[1] :] == 255).all()  # the sixth place
    # Above pictures of one class stand the same words.
    labels = [
        PathfinderMapper(config, is_train=False)(record)["label"]
        for record in DatasetCatalog.get(NAMES["classification"])[:3]
    ]
    assert len(set(labels)) == 2
    starts = [GAP + place * (CELL + 3 * GAP) for place in range(3)]
    texts = [three[GAP : GAP + 34, start : start + CELL + 2 * GAP] for start in starts]
    for i in range(3):
        for j in range(i):
            assert (labels[i] == labels[j]) == np.array_equal(texts[i], texts[j])


@pytest.mark.parametrize("form", list(NAMES))
def test_a_run_draws_by_the_type_of_its_test_set(form: str, tmp_path: Path) -> None:
    config = cfg(tmp_path, form)
    draw = {"segmentation": contour_grid, "classification": class_grid}[form]
    expected = draw(config, Shifted(), NAMES[form], limit=2)
    assert np.array_equal(dataset_grid(config, Shifted(), NAMES[form], limit=2), expected)
    file = draw_predictions(config, Shifted())
    assert file == tmp_path / "predictions.png" and file.is_file()
