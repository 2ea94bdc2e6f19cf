from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from rpanoptic.visualization.gif import save_gif


def growing_line(steps: int = 12) -> list[np.ndarray]:
    """A line that grows to the right over a picture of many colours."""
    noise = np.random.default_rng(0).integers(0, 200, (60, 90, 3), dtype=np.uint8)
    frames = [cv2.GaussianBlur(noise, (0, 0), 4)]
    for step in range(1, steps):
        frame = frames[-1].copy()
        frame[40:44, : 7 * step] = (86, 180, 233)
        frames.append(frame)
    return frames


def read(file: Path) -> tuple[np.ndarray, list[int]]:
    """``(frames, H, W, 3)`` and the duration of each frame in milliseconds."""
    pictures, durations = [], []
    with Image.open(file) as gif:
        for place in range(gif.n_frames):
            gif.seek(place)
            pictures.append(np.asarray(gif.convert("RGB")))
            durations.append(gif.info["duration"])
    return np.stack(pictures).astype(int), durations


def test_frames_come_back_in_the_colours_of_one_palette(tmp_path: Path) -> None:
    frames = growing_line()
    file = save_gif(tmp_path / "a.gif", frames, frame_ms=50, last_ms=1500)
    shown, durations = read(file)
    assert shown.shape == (12, 60, 90, 3)
    assert durations == [50] * 11 + [1500]
    with Image.open(file) as gif:
        assert gif.info["loop"] == 0  # without end
    # 127 colours for some thousands: each comes near, and the line, of one colour, nearer.
    error = np.abs(shown - np.stack(frames).astype(int))
    assert error.mean() < 4 and error[-1, 40:44, :77].max() <= 4
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) <= 127
    assert list(tmp_path.iterdir()) == [file]


def test_what_stands_still_does_not_flicker(tmp_path: Path) -> None:
    shown, _ = read(save_gif(tmp_path / "a.gif", growing_line()))
    assert (shown[:, :40] == shown[0, :40]).all()
    assert (shown[:, 44:] == shown[0, 44:]).all()


def test_what_stands_still_takes_no_room(tmp_path: Path) -> None:
    few = save_gif(tmp_path / "few.gif", growing_line(2)).stat().st_size
    many = save_gif(tmp_path / "many.gif", growing_line(12)).stat().st_size
    # Ten more frames of a small change; with a table of its own a frame would take 400 bytes more.
    assert many - few < 10 * 200


def test_frames_without_change_are_one_that_is_shown_longer(tmp_path: Path) -> None:
    frames = growing_line(3)
    shown, durations = read(
        save_gif(tmp_path / "a.gif", [*frames, frames[-1]], frame_ms=100, last_ms=900)
    )
    assert len(shown) == 3 and durations == [100, 100, 1000]


def test_one_frame_is_a_picture(tmp_path: Path) -> None:
    picture = np.full((4, 5, 3), (18, 23, 33), dtype=np.uint8)
    with Image.open(save_gif(tmp_path / "a.gif", iter([picture]))) as gif:
        assert getattr(gif, "n_frames", 1) == 1
        assert (np.asarray(gif.convert("RGB")) == picture).all()


def test_impossible_frames_leave_no_file(tmp_path: Path) -> None:
    frame = np.zeros((4, 5, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="at least one frame"):
        save_gif(tmp_path / "a.gif", [])
    with pytest.raises(ValueError, match=r"frame 1 is \(4, 5\) pixels, the first one \(5, 4\)"):
        save_gif(tmp_path / "a.gif", [frame, frame.transpose(1, 0, 2)])
    assert list(tmp_path.iterdir()) == []
