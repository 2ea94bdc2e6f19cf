from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances
from PIL import Image

from rpanoptic.visualization import draw_steps, picture_grid, save_png


def plain(height: int, width: int, value: int) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


def test_grid_places_pictures_in_rows_and_columns() -> None:
    rows = [[plain(50, 100, 10), plain(50, 100, 20)], [plain(200, 100, 30), plain(20, 50, 40)]]
    grid = picture_grid(rows, cell_width=100)
    # Gaps of 8 around and between; heights 50 and 200.
    assert grid.shape == (8 + 50 + 8 + 200 + 8, 3 * 8 + 2 * 100, 3)
    assert grid[8 + 25, 8 + 50, 0] == 10
    assert grid[8 + 25, 8 + 100 + 8 + 50, 0] == 20
    assert grid[8 + 50 + 8 + 150, 8 + 50, 0] == 30
    # The last one is enlarged to 100 x 40 and leaves the rest of its cell white.
    assert grid[8 + 50 + 8 + 39, 8 + 100 + 8 + 50, 0] == 40
    assert grid[8 + 50 + 8 + 45, 8 + 100 + 8 + 50, 0] == 255
    assert (grid[:8] == 255).all()


def test_headings_are_written_above_their_columns() -> None:
    row = [plain(10, 200, 128), plain(10, 200, 128)]
    bare = picture_grid([row], headings=["", ""], cell_width=200)
    grid = picture_grid([row], headings=["input", ""], cell_width=200)
    changed = np.argwhere((grid != bare).any(axis=2))
    assert len(changed) > 20
    assert changed[:, 0].max() < 34
    assert changed[:, 1].max() < 8 + 200
    assert abs(changed[:, 1].mean() - (8 + 100)) < 10


@pytest.mark.parametrize(
    ("rows", "headings"),
    [
        ([], []),
        ([[]], []),
        ([[plain(1, 1, 0)], [plain(1, 1, 0)] * 2], []),
        ([[plain(1, 1, 0)]], ["a", "b"]),
    ],
)
def test_impossible_grids(rows: list, headings: list[str]) -> None:
    with pytest.raises(ValueError, match=r"rows|headings"):
        picture_grid(rows, headings=headings)


def test_png_is_written_whole(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    file = save_png(tmp_path / "a.png", picture)
    assert np.array_equal(np.asarray(Image.open(file)), picture)
    assert list(tmp_path.iterdir()) == [file]


def test_very_high_picture_is_shown_narrow() -> None:
    grid = picture_grid([[plain(5000, 2, 7), plain(40, 40, 9)]], cell_width=40)
    assert grid.shape == (8 * 40 + 16, 2 * 40 + 24, 3)
    assert (grid[8:-8, 8] == 7).all()
    assert (grid[8:-8, 9:48] == 255).all()
    assert (grid[8:48, 56:96] == 9).all()


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save_png(tmp_path / "a.png", plain(2, 2, 9))

    def fail(self: Path, target: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        save_png(file, plain(2, 2, 1))
    assert list(tmp_path.iterdir()) == [file]
    assert (np.asarray(Image.open(file)) == 9).all()


def test_strip_has_a_picture_for_each_number_of_steps() -> None:
    metadata = Metadata(name="test_strip", thing_classes=["cat"])
    image = plain(100, 100, 128)

    def seen(rows: int) -> Instances:
        masks = torch.zeros(1, 100, 100, dtype=torch.bool)
        masks[0, :rows] = True
        return Instances(
            (100, 100),
            pred_boxes=Boxes(torch.tensor([[0.0, 0, 100, 100]])),
            pred_classes=torch.tensor([0]),
            scores=torch.tensor([0.5]),
            pred_masks=masks,
        )

    strip = draw_steps(image, {1: seen(20), 5: seen(80)}, metadata, cell_width=100)
    assert strip.shape[1] == 3 * 8 + 2 * 100
    first, second = strip[34:134, 8:108], strip[34:134, 116:216]
    # Row 60 lies inside the mask after 5 steps only.
    assert np.abs(first[60, 5].astype(int) - 128).max() <= 2
    assert np.abs(second[60, 5].astype(int) - 128).max() > 20
