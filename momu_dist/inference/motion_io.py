"""Motion in and out as files: our npz, OpenPose-style JSON, and arrays of Body-25, COCO-17 or 14 joints.

OpenPose writes one JSON file a frame. We write the frames of a clip into one file:

    {"rate_hz": 62.5, "frames": [{"version": 1.3, "people": [{"pose_keypoints_2d": [x0, y0, c0, x1, ...]}]},
    ...]}

Each element of `frames` is what OpenPose would have put into its own file: 75 numbers in the order of
BODY_25, of which our 14 joints are set and the rest (mid-hip, eyes, ears, feet) are 0, 0, 0: OpenPose's mark
for "not detected".
"""

from __future__ import annotations

import json
import logging
import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from momu_dist.core.motion.skeleton import BODY25_TO_14, N_JOINTS, body25_to_14, coco17_to_14
from momu_dist.core.motion.tracking import track_person
from momu_dist.data.openpose import people_of, read_json
from momu_dist.data.sources.openpose_audio import FRAME, frame_files
from momu_dist.errors import ClipError, DataError

_log = logging.getLogger(__name__)

_ARRAYS = ".npy of shape (T,25,3), (T,17,3), (T,14,3) or (T,14,2)"
_FORMATS = f".npz or .json as `momu generate` writes them, a folder of OpenPose JSON files, or {_ARRAYS}"
# Of motion that a person dances, however it was recorded.
_MIN_FPS, _MAX_FPS = 1.0, 10_000.0


class Motion(NamedTuple):
    """A clip's motion: motion_px (T, 14, 2), NaN where missing; conf (T, 14), 0 there; fps in Hz."""

    motion_px: NDArray[np.float64]
    conf: NDArray[np.float64]
    fps: float


def save_motion_npz(
    path: str | Path, motion_px: ArrayLike, rate_hz: float, conf: ArrayLike | None = None
) -> None:
    """Writes the arrays motion_px (T, 14, 2) float32, conf (T, 14) float32 (1 if not given) and rate_hz."""
    motion, confidence = _checked(motion_px, conf)
    np.savez_compressed(
        path,
        motion_px=motion.astype(np.float32),
        conf=confidence.astype(np.float32),
        rate_hz=np.float64(rate_hz),
    )


def write_openpose_json(
    path: str | Path, motion_px: ArrayLike, rate_hz: float, conf: ArrayLike | None = None
) -> None:
    """Writes motion (T, 14, 2) px as OpenPose-style frames in one file (layout above), to 0.001 px."""
    motion, confidence = _checked(motion_px, conf)
    present = np.isfinite(motion).all(axis=2) & (confidence > 0)
    body25 = np.zeros((len(motion), 25, 3))
    body25[:, BODY25_TO_14, :2] = motion
    body25[:, BODY25_TO_14, 2] = confidence
    body25[:, BODY25_TO_14] *= present[..., None]
    body25 = np.where(np.isfinite(body25), body25, 0.0)  # NaN * 0 is NaN
    rows = body25.reshape(len(motion), -1).round(3).tolist()
    frames = [{"version": 1.3, "people": [{"pose_keypoints_2d": row}]} for row in rows]
    Path(path).write_text(json.dumps({"rate_hz": float(rate_hz), "frames": frames}))


def read_motion(path: str | Path, fps: float | None = None) -> Motion:
    """The motion of a file or folder: (motion_px (T, 14, 2), conf (T, 14), fps), T >= 2.

    Reads our .npz and .json, a folder of OpenPose's per-frame JSON files (BODY_25), and .npy arrays (T, 25, 3)
    Body-25, (T, 17, 3) COCO-17, (T, 14, 3) or (T, 14, 2) in px. Frames named `*<number>_keypoints.json` stand at their
    numbers, so a missing one is a gap; others follow each other in order of name. Of several people in a frame one is
    followed, as the source `openpose_audio` does (`track_person`). `fps` is needed where the file does not hold a rate
    and overrules it where it does. A joint that is not finite, or of confidence 0 or less, comes out as NaN with
    confidence 0; arrays without confidence get 1 elsewhere. Raises DataError for anything else, for fewer than two
    frames, and if no joint is ever seen.
    """
    path = Path(path)
    if path.is_dir():
        frames: list[NDArray[np.float64]] | None = _frames_of_folder(path)
        joints, rate = None, None
    elif not path.is_file():
        found = "is a device or a pipe, no file" if path.exists() else "does not exist"
        raise DataError(f"{path} {found}, expected motion as {_FORMATS}; check the path.")
    elif path.suffix == ".npz":
        joints, rate = _from_npz(path)
    elif path.suffix == ".npy":
        joints, rate = _to_14(_load(path), path), None
    elif path.suffix == ".json":
        frames, rate = _frames_of_file(path)
        joints = None
    else:
        raise DataError(f"{path} ends in {path.suffix!r}, expected motion as {_FORMATS}.")
    rate = fps if fps is not None else rate
    if rate is None:
        raise DataError(f"{path} does not say its frame rate, expected frames per second; give them as fps.")
    rate = _checked_rate(rate, path)
    return _with_missing_marked(_followed(frames, rate, path) if joints is None else joints, rate, path)


def _checked_rate(rate: Any, path: Path) -> float:
    if isinstance(rate, np.generic) or (isinstance(rate, np.ndarray) and rate.ndim == 0):
        rate = rate.item()  # an .npz holds a number as an array
    real = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
    if not real or not _MIN_FPS <= rate <= _MAX_FPS:
        raise DataError(
            f"{path} has a frame rate of {rate!r} Hz, expected {_MIN_FPS:g} to {_MAX_FPS:g}; give the true one as fps."
        )
    return float(rate)


def _checked(motion_px: ArrayLike, conf: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    motion = np.asarray(motion_px, dtype=np.float64)
    confidence = np.ones(motion.shape[:2]) if conf is None else np.asarray(conf, dtype=np.float64)
    if motion.ndim != 3 or motion.shape[1:] != (N_JOINTS, 2) or confidence.shape != motion.shape[:2]:
        raise DataError(
            f"Motion of shape {motion.shape} with confidence {confidence.shape} cannot be written: "
            f"expected (T, {N_JOINTS}, 2) and (T, {N_JOINTS})."
        )
    return motion, confidence


def _with_missing_marked(joints: NDArray[np.float64], fps: float, path: Path) -> Motion:
    if len(joints) < 2:
        raise DataError(f"{path} holds {len(joints)} frames, expected at least two; check the file.")
    seen = np.isfinite(joints).all(axis=2) & (joints[..., 2] > 0)
    if not seen.any():
        raise DataError(f"{path} holds no joint that was ever detected, expected a person; check the file.")
    motion = np.where(seen[..., None], joints[..., :2], np.nan)
    return Motion(motion, np.where(seen, joints[..., 2], 0.0), fps)


def _from_npz(path: Path) -> tuple[NDArray[np.float64], Any]:
    arrays = _load(path)
    missing = sorted({"motion_px", "conf", "rate_hz"} - set(arrays))
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}, expected an .npz as `momu generate` writes it.")
    motion, conf = arrays["motion_px"], arrays["conf"]
    if motion.ndim != 3 or motion.shape[1:] != (N_JOINTS, 2) or conf.shape != motion.shape[:2]:
        raise DataError(
            f"{path} holds motion_px {motion.shape} and conf {conf.shape}, "
            f"expected (T, {N_JOINTS}, 2) and (T, {N_JOINTS})."
        )
    if motion.dtype.kind not in "fiu" or conf.dtype.kind not in "fiu":
        raise DataError(
            f"{path} holds motion_px {motion.dtype} and conf {conf.dtype}, expected real numbers."
        )
    return np.concatenate([motion, conf[..., None]], axis=2, dtype=np.float64), arrays["rate_hz"]


def _load(path: Path) -> Any:
    """The array of an .npy or the dict of arrays of an .npz; pickled objects are refused."""
    try:
        with path.open("rb") as file:
            mark = file.read(6)
        if not mark.startswith((b"\x93NUMPY", b"PK")):  # NumPy itself would call it pickled
            raise ValueError(f"it begins with {mark!r}, not as NumPy's files do" if mark else "it is empty")
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray) != (path.suffix == ".npy"):
            raise ValueError("its ending says another kind than it is")
        return dict(loaded) if path.suffix == ".npz" else loaded
    except Exception as error:
        # Foreign bytes: zipfile, zlib and NumPy's parser of Python text raise what they like.
        # NumPy's own message advises to load pickled objects, which may run anything.
        found = "it holds pickled objects" if "pickle" in str(error) else " ".join(str(error).split())[:200]
        if isinstance(error, MemoryError):
            found = "it says it holds more than can be read"
        raise DataError(
            f"{path} is no plain NumPy file ({found}), expected motion as .npz of `momu generate` or {_ARRAYS}."
        ) from error


def _to_14(array: NDArray[Any], path: Path) -> NDArray[np.float64]:
    shape = array.shape
    if array.ndim == 3 and array.dtype.kind in "fiu":
        if shape[1:] == (25, 3):
            return body25_to_14(array)
        if shape[1:] == (17, 3):
            return coco17_to_14(array)
        if shape[1:] == (N_JOINTS, 3):
            return array.astype(np.float64)
        if shape[1:] == (N_JOINTS, 2):
            return np.concatenate([array, np.ones((*shape[:2], 1))], axis=2, dtype=np.float64)
    raise DataError(f"{path} holds {array.dtype} of shape {shape}, expected motion as {_ARRAYS}.")


def _frames_of_file(path: Path) -> tuple[list[NDArray[np.float64]], Any]:
    """The people (P, 25, 3) in each frame of a clip in one JSON file, and the rate that it says."""
    content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get("frames"), list):
        frames, rate = content["frames"], content.get("rate_hz")
    elif isinstance(content, list):
        frames, rate = content, None
    else:
        raise DataError(
            f"{path} is not a clip: expected an object with `rate_hz` and `frames`, or a list of OpenPose frames; "
            "put a single OpenPose frame into a list with the others."
        )
    return [people_of(frame, f"{path}, frame {i}") for i, frame in enumerate(frames)], rate


def _frames_of_folder(folder: Path) -> list[NDArray[np.float64]]:
    """The people (P, 25, 3) in each frame of a folder, nobody in those that are missing between numbers."""
    if any(FRAME.fullmatch(path.name) for path in folder.iterdir()):
        try:
            numbered = frame_files(folder)
        except ClipError as error:
            raise DataError(f"{folder}: {error}.") from error
    else:
        numbered = dict(enumerate(sorted(folder.glob("*.json"))))
    if not numbered:
        raise DataError(f"{folder} holds no .json files, expected OpenPose's output, one file a frame.")
    first = min(numbered)
    frames = [np.zeros((0, 25, 3)) for _ in range(max(numbered) - first + 1)]
    for number, file in numbered.items():
        frames[number - first] = people_of(read_json(file), str(file))
    return frames


def _followed(frames: Sequence[NDArray[np.float64]] | None, fps: float, path: Path) -> NDArray[np.float64]:
    """One person's joints (T, 14, 3) through all frames; where there are several, a change of the person is said."""
    assert frames is not None, "read_motion has joints or frames"
    if all(len(people) <= 1 for people in frames):
        alone = [people[0] if len(people) else np.zeros((25, 3)) for people in frames]
        return body25_to_14(np.reshape(alone, (-1, 25, 3)))
    track = track_person(frames, fps)
    if track.switches:
        _log.warning(
            "%s: the person who is followed changes %d times, first at frame %d, counted from 0; look at the result.",
            path, len(track.switches), track.switches[0].frame,
        )  # fmt: skip
    return body25_to_14(track.keypoints)
