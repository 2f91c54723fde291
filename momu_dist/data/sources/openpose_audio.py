"""Folders of OpenPose JSON frames (BODY_25) with the sound beside them: what people track from their own videos.

Layout: every folder directly under the root that holds `<anything><number>_keypoints.json` is one clip. Its sound is
the one media file of the folder's name beside it (`clip/` and `clip.wav`), or the one media file inside it.
"""

from __future__ import annotations

import hashlib
import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from momu_dist.core.motion.skeleton import body25_to_14
from momu_dist.core.motion.tracking import Switch, track_person
from momu_dist.data.audio_io import read_audio, sound_length_s
from momu_dist.data.openpose import people_of, read_json
from momu_dist.data.record import ClipRef, Record, cut
from momu_dist.data.sources import Missing
from momu_dist.errors import ClipError, DataError

SAMPLE_RATE = 16000
MEDIA = frozenset(
    {
        *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".wma", ".aif", ".aiff"),
        *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"),
    }
)
FRAME = re.compile(r"(.*?)(\d+)_keypoints\.json")
# A derived rate outside these is no camera's: then the sound is not that of the frames.
MIN_FPS, MAX_FPS = 5.0, 250.0
MAX_SHARE_MISSING = 0.9
HASHED_BYTES = 1 << 20
MAX_SWITCHES_NAMED = 5
WHERE = (
    "give as root a folder with one folder of OpenPose's *_keypoints.json frames per clip, made with "
    "`openpose --model_pose BODY_25 --write_json root/clip`, and the sound as root/clip.wav (or mp3, mp4, ...)"
)


class _Tracked(NamedTuple):
    """One person's joints (T, 14, 3) at fps, the frames at which another was taken, the first frame's number."""

    joints: NDArray[np.float64]
    switches: tuple[Switch, ...]
    first_number: int


class OpenPoseAudio:
    """The clips under `root`; `fps` is the rate of all frames, None derives each clip's from the length of its sound.

    Clips with the same sound form one group (size and the first and last MiB of its file: other encodings of a song
    are other groups). A folder whose sound is missing or ambiguous, or whose frames cannot be used, is listed, and `load`
    refuses it with the reason.
    """

    name = "openpose_audio"

    def __init__(self, root: Path | None, fps: float | None = None) -> None:
        real = isinstance(fps, int | float) and not isinstance(fps, bool)
        if fps is not None and not (real and 0 < fps < math.inf):
            raise DataError(f"openpose_audio: fps is {fps!r}, expected frames per second, or null.")
        self.root = None if root is None else Path(root)
        self.fps = None if fps is None else float(fps)
        self.options: dict[str, Any] = {"fps": self.fps}

    def refs(self) -> list[ClipRef]:
        """One ref a folder with frames, sorted by name; the end is not known where frames or sound do not tell it."""
        refs = []
        for folder in self._folders():
            try:
                sound: Path | None = sound_of(folder)
            except ClipError:
                sound = None
            group = folder.name if sound is None else _group_of(sound)
            refs.append(
                ClipRef(folder.name, group, 0.0, self._length_s(folder, sound), {"folder": folder.name})
            )
        return refs

    def load(self, ref: ClipRef) -> Record:
        """The part of the clip that `ref` names: one tracked person, and the sound.

        Notes say a derived rate, a numbering that does not begin at 0 and each change of the person. Raises ClipError
        for a missing or ambiguous sound, two series of frames in a folder, a torn frame, another skeleton, nobody in
        any frame.
        """
        assert self.root is not None, "refs come from refs(), which checks the root"
        folder = self.root / ref.locator["folder"]
        sound = sound_of(folder)
        audio = _read_sound(sound)
        tracked = _track(folder, self.fps, len(audio) / SAMPLE_RATE)
        n_frames = len(tracked.joints)
        fps = self.fps if self.fps is not None else _derived_fps(n_frames, len(audio) / SAMPLE_RATE)
        motion_px, conf = tracked.joints[..., :2], tracked.joints[..., 2]
        whole = Record(ref.clip_id, ref.group_id, motion_px, conf, fps, audio)
        part = cut(whole, ref.start_s, ref.end_s, ref.clip_id)
        assert part.motion_px is not None, "a cut keeps the motion"
        notes = [] if self.fps is not None else [_rate_note(n_frames, len(audio) / SAMPLE_RATE, sound.name)]
        if tracked.first_number:
            notes.append(f"frames are numbered from {tracked.first_number}, which is taken for time 0")
        first = round(ref.start_s * fps)
        notes += _switch_notes(tracked, first, first + len(part.motion_px))
        return Record(
            ref.clip_id, ref.group_id, part.motion_px, part.conf, fps, part.audio, notes=tuple(notes)
        )

    def missing(self) -> list[Missing]:
        """What stands against single clips, from names and headers alone; `load` may still find torn files."""
        folders = self._folders()
        found = []
        for folder in folders:
            try:
                numbers = frame_files(folder)
                sound_length_s(sound_of(folder))
            except DataError as error:
                found.append(Missing(folder.name, str(error).rstrip(".")))
                continue
            gaps = max(numbers) - min(numbers) + 1 - len(numbers)
            if gaps:
                found.append(
                    Missing(
                        folder.name,
                        f"{gaps} of {len(numbers) + gaps} frames are missing; they are filled as gaps",
                    )
                )
        assert self.root is not None
        clips = {folder.name for folder in folders}
        for path in sorted(self.root.iterdir()):
            if path.is_dir() and path.name not in clips:
                found.append(Missing(path.name, "the folder holds no *_keypoints.json frames"))
            elif path.suffix.lower() in MEDIA and path.stem not in clips:
                found.append(Missing(path.name, f"no folder {path.stem}/ with frames belongs to this sound"))
        return found

    def _folders(self) -> list[Path]:
        if self.root is None:
            raise DataError(f"openpose_audio: no root was given; {WHERE}.")
        if not self.root.is_dir():
            raise DataError(f"openpose_audio: no folder {self.root}; {WHERE}.")
        folders = [path for path in sorted(self.root.iterdir()) if path.is_dir() and _has_frames(path)]
        if not folders:
            inside = "frames of its own" if _has_frames(self.root) else "no folder with frames"
            raise DataError(f"openpose_audio: {self.root} holds {inside}; {WHERE}.")
        return folders

    def _length_s(self, folder: Path, sound: Path | None) -> float | None:
        """The length of a clip without decoding anything, None where a file stands against it."""
        try:
            if self.fps is not None:
                numbers = frame_files(folder)
                return (max(numbers) - min(numbers) + 1) / self.fps
            return None if sound is None else sound_length_s(sound)
        except DataError:
            return None


def sound_of(folder: Path) -> Path:
    """The one media file that is the clip's sound; ClipError if there is none, or more than one beside and inside."""
    beside = [path for path in folder.parent.iterdir() if path.stem == folder.name]
    found = sorted(
        path for path in [*beside, *folder.iterdir()] if path.suffix.lower() in MEDIA and path.is_file()
    )
    if not found:
        raise ClipError(
            f"no sound: expected {folder.name}.wav (or mp3, mp4, ...) beside the folder, or one media file inside it"
        )
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(folder.parent)) for path in found)
        raise ClipError(f"ambiguous sound: {names}; expected one media file, move the others away")
    return found[0]


def frame_files(folder: Path) -> dict[int, Path]:
    """Frame number -> file of a folder, of which there is at least one, in order.

    Raises ClipError for two series (other beginnings of the name) or the same number twice, and where more than nine
    in ten numbers between the first and the last are missing.
    """
    matched = [(match, path) for path in folder.iterdir() if (match := FRAME.fullmatch(path.name))]
    series = sorted({match[1] for match, _ in matched})
    if len(series) != 1:
        raise ClipError(
            f"ambiguous frames: {len(series)} series of *_keypoints.json ({', '.join(series[:3])}), expected one a folder"
        )
    files = {int(match[2]): path for match, path in matched}
    if len(files) < len(matched):
        raise ClipError("ambiguous frames: a frame's number occurs twice")
    span = max(files) - min(files) + 1
    if len(files) < (1 - MAX_SHARE_MISSING) * span:
        raise ClipError(
            f"{len(files)} frames are numbered from {min(files)} to {max(files)}, expected nearly all of {span}"
        )
    return dict(sorted(files.items()))


def _has_frames(folder: Path) -> bool:
    return any(FRAME.fullmatch(path.name) for path in folder.iterdir())


@lru_cache(maxsize=1)
def _track(folder: Path, fps: float | None, sound_s: float) -> _Tracked:
    """One person through all frames of a folder; the last folder is kept, since its windows follow each other."""
    files = frame_files(folder)
    first, n_frames = min(files), max(files) - min(files) + 1
    frames = [np.zeros((0, 25, 3)) for _ in range(n_frames)]
    try:
        for number, path in files.items():
            frames[number - first] = people_of(read_json(path), path.name)
    except DataError as error:
        raise ClipError(str(error).rstrip(".")) from error
    rate = fps if fps is not None else _derived_fps(n_frames, sound_s)
    track = track_person(frames, rate)
    if not track.keypoints.any():
        raise ClipError(f"there is nobody in any of {len(files)} frames, expected a person")
    return _Tracked(body25_to_14(track.keypoints), track.switches, first)


@lru_cache(maxsize=1)
def _read_sound(path: Path) -> NDArray[np.float32]:
    """The whole sound (n,) at 16 kHz."""
    try:
        return read_audio(path, SAMPLE_RATE)
    except (OSError, DataError) as error:
        raise ClipError(f"the sound cannot be read ({error})") from error


def _derived_fps(n_frames: int, sound_s: float) -> float:
    fps = n_frames / sound_s
    if not MIN_FPS <= fps <= MAX_FPS:
        raise ClipError(
            f"{n_frames} frames over {sound_s:.2f} s of sound would be {fps:.2f} fps, expected {MIN_FPS:g} to {MAX_FPS:g}; "
            "the sound is not that of the frames, or give fps"
        )
    return fps


def _rate_note(n_frames: int, sound_s: float, sound: str) -> str:
    return (
        f"{_derived_fps(n_frames, sound_s):.3f} fps, derived: {n_frames} frames over the {sound_s:.2f} s of {sound}; "
        "give source_options.fps if the camera's rate is known"
    )


def _switch_notes(tracked: _Tracked, first: int, last: int) -> list[str]:
    """The changes of the person within frames first to last, by their numbers in the files' names."""
    inside = [switch for switch in tracked.switches if first <= switch.frame < last]
    named = [
        f"at frame {switch.frame + tracked.first_number} another person or place is taken, {switch.sizes:.1f} body sizes away "
        f"(last seen at {switch.last + tracked.first_number})"
        for switch in inside[:MAX_SWITCHES_NAMED]
    ]
    more = len(inside) - len(named)
    return [*named, f"{more} further changes of the person"] if more else named


def _group_of(sound: Path) -> str:
    """A hash of the sound's size, first and last MiB: a video may be large."""
    try:
        with sound.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            content = file.read(HASHED_BYTES)
            file.seek(max(0, size - HASHED_BYTES))
            content += file.read(HASHED_BYTES)
    except OSError:
        return sound.stem
    return hashlib.blake2b(size.to_bytes(8, "little") + content, digest_size=8).hexdigest()
