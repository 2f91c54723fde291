from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from momu_dist.errors import DataError
from momu_dist.inference.sheet import draw_sheet

RATE_HZ = 62.5


@pytest.fixture()
def motion() -> np.ndarray:
    """(500, 14, 2): 8 s of a swaying skeleton."""
    rng = np.random.default_rng(0)
    pose = rng.uniform(0, 100, (14, 2))
    return pose + 5 * np.sin(np.arange(500)[:, None, None] / 20 + rng.uniform(0, 6, (14, 2)))


@pytest.fixture()
def mel() -> np.ndarray:
    return np.random.default_rng(1).uniform(-5, 1, (80, 500))


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def near(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(pixels - np.array(colour)) < 12).all(axis=-1)


def test_ticks_stand_at_their_times_on_the_axis_of_the_mel(
    motion: np.ndarray, mel: np.ndarray, tmp_path: Path
) -> None:
    draw_sheet(tmp_path / "a.png", motion, RATE_HZ, mel, [2.0, 4.0], [6.0], "a2m")
    pixels = picture(tmp_path / "a.png")
    assert pixels.shape == (560, 1200, 3)
    left, right = 0.085 * 1200, 0.985 * 1200
    inside = np.arange(1200) > left
    onsets = np.flatnonzero((near(pixels, (204, 95, 160)).sum(axis=0) > 15) & inside)
    beats = np.flatnonzero((near(pixels, (0, 158, 115)).sum(axis=0) > 15) & inside)
    assert sorted({round(s) for s in (onsets - left) / (right - left) * 8}) == [2, 4]
    np.testing.assert_allclose((beats - left) / (right - left) * 8, 6.0, atol=0.03)


def test_nothing_is_clipped_at_the_border(motion: np.ndarray, mel: np.ndarray, tmp_path: Path) -> None:
    draw_sheet(
        tmp_path / "a.png", motion, RATE_HZ, mel, [1.0], [1.0], "motion from music, clip synthetic-00012"
    )
    pixels = picture(tmp_path / "a.png")
    border = np.concatenate(
        [pixels[:3].ravel(), pixels[-3:].ravel(), pixels[:, :3].ravel(), pixels[:, -3:].ravel()]
    )
    assert (border == 255).all()


@pytest.mark.parametrize("seconds", [0.1, 8, 60])
def test_any_length_and_no_events(seconds: float, tmp_path: Path) -> None:
    frames = max(1, round(seconds * RATE_HZ))
    motion = np.random.default_rng(0).uniform(0, 100, (frames, 14, 2))
    draw_sheet(tmp_path / "a.png", motion, RATE_HZ, np.full((80, frames), -5.0), [], [], "")
    assert (picture(tmp_path / "a.png") < 128).any()


def test_missing_joints_leave_gaps_and_a_missing_person_leaves_the_rest(
    mel: np.ndarray, tmp_path: Path
) -> None:
    motion = np.full((500, 14, 2), np.nan)
    draw_sheet(tmp_path / "none.png", motion, RATE_HZ, mel, [1.0], [], "nobody")
    motion[:, :8] = np.random.default_rng(0).uniform(0, 100, (8, 2))
    draw_sheet(tmp_path / "half.png", motion, RATE_HZ, mel, [1.0], [], "no legs")
    assert (
        near(picture(tmp_path / "half.png"), (0, 114, 178)).sum()
        > near(picture(tmp_path / "none.png"), (0, 114, 178)).sum()
    )


def test_wrong_shapes_are_refused(motion: np.ndarray, mel: np.ndarray, tmp_path: Path) -> None:
    for bad_motion, bad_mel in ((motion[:0], mel), (motion[..., :1], mel), (motion, mel[0])):
        with pytest.raises(DataError, match="cannot be drawn"):
            draw_sheet(tmp_path / "a.png", bad_motion, RATE_HZ, bad_mel, [], [], "")


def wide(n_frames: int) -> np.ndarray:
    """(n_frames, 14, 2): arms stretched out to both sides at some moments, at the first and the last too."""
    motion = np.random.default_rng(0).uniform(80, 120, (1, 14, 2)) + np.zeros((n_frames, 1, 1))
    motion[:, 4], motion[:, 7] = (0, 60), (200, 60)  # the wrists
    return motion


@pytest.mark.parametrize("n_frames", [374, 499, 516, 20])
def test_wide_poses_stay_apart_and_inside_and_free_of_the_caption(n_frames: int, tmp_path: Path) -> None:
    mel = np.full((80, n_frames), -5.0)
    draw_sheet(tmp_path / "a.png", wide(n_frames), RATE_HZ, mel, [], [], "wide")
    box = picture(tmp_path / "a.png")[48:190, 104:1181]  # the axes of the poses, without their frame
    drawn = (box < 180).any(axis=(0, 2))
    assert not drawn[:2].any() and not drawn[-2:].any(), "nothing touches the sides"
    parts = np.count_nonzero(np.diff(drawn.astype(int)) == 1)
    assert parts == {374: 12, 499: 16, 516: 16, 20: 1}[n_frames], "between any two poses is white"
