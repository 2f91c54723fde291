"""Dance with Melody (Tang et al. 2018): mocap of ballroom dances with their songs, seen from several sides.

Source of the layout: github.com/mhy12345/Music-to-Dance-Motion-Synthesis. 23 joints in 3-D, y upwards,
nominally 25 fps.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from momu_dist.core.motion.skeleton import N_JOINTS
from momu_dist.data.audio_io import read_audio
from momu_dist.data.record import ClipRef, Record, cut
from momu_dist.data.sources import Missing
from momu_dist.errors import ClipError, DataError

_log = logging.getLogger(__name__)

NOMINAL_FPS = 25.0
SAMPLE_RATE = 16000
PERSON_PX = 200.0
FRAME_PX = (500.0, 400.0)
N_UPSTREAM = 61
FILES = ("skeletons.json", "config.json", "audio.mp3")
WHERE = (
    "clone https://github.com/mhy12345/Music-to-Dance-Motion-Synthesis (218 MB) "
    "and give the folder that holds DANCE_W_1, DANCE_C_1, ... as root"
)

# Which of the 23 joints make each of the 14 (a mean where there are two); left and right are inferred from
# the data.
JOINTS_OF_14: tuple[tuple[int, ...], ...] = (
    (0, 1), (3, 12),
    (3,), (4,), (6,), (12,), (13,), (15,),
    (7,), (8,), (9,), (16,), (17,), (18,),
)  # fmt: skip


@dataclass(frozen=True)
class Dance:
    """One recording: joints (L,14,3), y upwards, in its own unit; frame i is at start_s + i / fps of the song."""

    joints: np.ndarray
    fps: float
    start_s: float


class DanceWithMelody:
    """The dances under `root`, each projected from every azimuth of `azimuths` (degrees about the vertical).

    All views of all dances to the same song form one group (dance type + hash of the song's file): a view of
    a test dance is never trained on. Folders that lack a file are skipped, and a warning names them. A dance
    with a damaged file is listed, and `load` refuses it. A person is about 200 px tall.
    """

    name = "dance_with_melody"

    def __init__(self, root: Path | None, azimuths: Sequence[float] = (0.0, 45.0, 90.0, 135.0)) -> None:
        if not azimuths:
            raise DataError(
                "dance_with_melody: azimuths is empty; give at least one angle in degrees, such as [0]."
            )
        self.root = None if root is None else Path(root)
        self.azimuths = [float(angle) for angle in azimuths]
        if not all(map(math.isfinite, self.azimuths)):
            raise DataError(f"dance_with_melody: azimuths are {azimuths}, expected finite angles in degrees.")
        self.options: dict[str, Any] = {"azimuths": self.azimuths}

    def refs(self) -> list[ClipRef]:
        """One ref a dance and azimuth, over the whole dance, sorted by name.

        The end of a dance whose config.json cannot be read is not known; one whose song cannot be read is a group of
        its own.
        """
        folders, complete = self._folders()
        skipped = [path.name for path in folders if path not in complete]
        if skipped:
            _log.warning(
                "dance_with_melody: %d of %d folders skipped, since they lack one of %s: %s",
                len(skipped), len(folders), ", ".join(FILES), ", ".join(skipped),
            )  # fmt: skip
        refs = []
        for path in complete:
            kind, song, length_s = path.name.split("_")[1], _song_id(path), _length_s(path)
            for angle in self.azimuths:
                locator = {"folder": path.name, "azimuth": repr(angle)}
                refs.append(ClipRef(f"{path.name}_az{angle:g}", f"{kind}_{song}", 0.0, length_s, locator))
        return refs

    def missing(self) -> list[Missing]:
        """Folders that lack a file, those whose config.json cannot be read, and how many upstream dances are not there."""
        folders, _ = self._folders()
        found = []
        for path in folders:
            lacking = [name for name in FILES if not (path / name).is_file()]
            if lacking:
                found.append(Missing(path.name, f"lacks {', '.join(lacking)}"))
                continue
            try:
                _span_frames(path)
            except ClipError as error:
                found.append(Missing(path.name, str(error)))
        if len(folders) < N_UPSTREAM:
            n = N_UPSTREAM - len(folders)
            found.append(Missing(f"{n} of {N_UPSTREAM} dances", f"are not under {self.root}; {WHERE}"))
        return found

    def _folders(self) -> tuple[list[Path], list[Path]]:
        """All DANCE_* folders and those with all files; DataError if there is none of the latter."""
        if self.root is None:
            raise DataError(
                f"dance_with_melody: no root was given; give --root, and if need be first {WHERE}."
            )
        if not self.root.is_dir():
            raise DataError(f"dance_with_melody: no folder {self.root}; {WHERE}.")
        folders = sorted(path for path in self.root.glob("DANCE_*") if path.is_dir())
        complete = [path for path in folders if all((path / name).is_file() for name in FILES)]
        if not complete:
            raise DataError(
                f"dance_with_melody: {self.root} has {len(folders)} DANCE_* folders and none with all of "
                f"{', '.join(FILES)}; {WHERE}."
            )
        return folders, complete

    def load(self, ref: ClipRef) -> Record:
        """The part of the dance that `ref` names, seen from its azimuth, with its part of the song.

        Raises ClipError if one of its files cannot be read or holds something else.
        """
        assert self.root is not None, "refs come from refs(), which checks the root"
        path = self.root / ref.locator["folder"]
        dance = _read_dance(path)
        song = _read_song(path / "audio.mp3")
        motion_px = project(dance.joints, float(ref.locator["azimuth"]))
        first = round(dance.start_s * SAMPLE_RATE)
        last = first + round(len(dance.joints) / dance.fps * SAMPLE_RATE)
        conf = np.isfinite(motion_px).all(axis=-1).astype(np.float32)
        whole = Record(ref.clip_id, ref.group_id, motion_px, conf, dance.fps, song[first:last])
        return cut(whole, ref.start_s, ref.end_s, ref.clip_id)


def project(joints: np.ndarray, azimuth_deg: float) -> np.ndarray:
    """Pixels (T,14,2), y downwards, of joints (T,14,3), y upwards, by a distant camera at `azimuth_deg`.

    Scale: the median height from nose to the lower ankle becomes 0.87 of 200 px (a nose is not the top of a
    head). The mean place of the dance is put in the middle of a frame of 500 x 400 px; a dancer who travels
    may leave it.
    """
    angle = np.deg2rad(azimuth_deg)
    across = np.cos(angle) * joints[..., 0] + np.sin(angle) * joints[..., 2]
    px = np.stack([across, -joints[..., 1]], axis=-1)
    height = float(np.nanmedian(np.nanmax(px[:, [10, 13], 1], axis=1) - px[:, 0, 1]))
    if not height > 0:
        raise ClipError(
            f"the dancer's nose is {height:.3g} above the ankles, expected more than 0; joints are misread"
        )
    px = px * (0.87 * PERSON_PX / height)
    px = px - np.nanmean(px, axis=(0, 1)) + np.array(FRAME_PX) / 2
    return np.asarray(px, dtype=np.float32)


def _span_frames(path: Path) -> tuple[float, float]:
    """start_position and end_position of config.json, frames at 25 a second of the song; the end comes later."""
    try:
        config = json.loads((path / "config.json").read_text())
        start, end = float(config["start_position"]), float(config["end_position"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClipError(
            f"config.json cannot be read: no start_position and end_position ({error!r})"
        ) from error
    if not (math.isfinite(start) and math.isfinite(end) and end > start >= 0):
        raise ClipError(
            f"config.json: the dance lasts from frame {start:g} to {end:g}, expected 0 <= start < end"
        )
    return start, end


def _length_s(path: Path) -> float | None:
    """The length of a folder's dance, None where config.json does not tell it."""
    try:
        start, end = _span_frames(path)
    except ClipError:
        return None
    return (end - start) / NOMINAL_FPS


def _song_id(path: Path) -> str:
    """A hash of a folder's song, the folder's name where the song cannot be read."""
    try:
        return hashlib.blake2b((path / "audio.mp3").read_bytes(), digest_size=4).hexdigest()
    except OSError:
        return path.name


@lru_cache(maxsize=2)
def _read_dance(path: Path) -> Dance:
    """The dance of a folder; the last two are kept, since the views of a dance follow each other."""
    try:
        content = json.loads((path / "skeletons.json").read_text())
        skeletons = np.asarray(content["skeletons"], dtype=np.float64)
        centre = np.asarray(content["center"], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClipError(f"skeletons.json cannot be read ({error})") from error
    if skeletons.ndim != 3 or skeletons.shape[1:] != (23, 3) or centre.shape != (len(skeletons), 3):
        raise ClipError(
            f"skeletons.json holds shapes {skeletons.shape}, {centre.shape}; expected (T,23,3), (T,3)"
        )
    start, end = _span_frames(path)
    if len(skeletons) == 0:
        raise ClipError("zero length: skeletons.json holds no frames")
    world = skeletons + centre[:, None]
    joints = np.stack([world[:, list(parts)].mean(axis=1) for parts in JOINTS_OF_14], axis=1)
    assert joints.shape[1] == N_JOINTS
    # Frame i of L lies at (start + i (end - start) / L) / 25 s: measured, the plain 25 fps drifts against
    # the beat.
    return Dance(joints, NOMINAL_FPS * len(skeletons) / (end - start), start / NOMINAL_FPS)


@lru_cache(maxsize=2)
def _read_song(path: Path) -> np.ndarray:
    """The whole song (n,) at 16 kHz; decoded once for all views and windows of a dance."""
    try:
        return read_audio(path, SAMPLE_RATE)
    except (OSError, DataError) as error:
        raise ClipError(f"the song cannot be read ({error})") from error
