"""What a user gives to generate from, as the fields of a request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from momu_dist.core.motion.cleaning import fill_gaps
from momu_dist.data.audio_io import read_audio
from momu_dist.errors import DataError
from momu_dist.inference.motion_io import read_motion
from momu_dist.inference.request import MAX_SECONDS

# What is longer than a request may be is cut by its `seconds`; the whole file is decoded for that, so it has a limit too.
MAX_CUT_SECONDS = 7200.0


def read_inputs(
    task: str, path: str | Path | None, fps: float | None = None, seconds: float | None = None
) -> dict[str, Any]:
    """Return the request fields that `path` gives for `task`: `audio`, or `motion_px` and `fps`; none for joint.

    Missing joints are filled by interpolation. Raises DataError for a missing or unusable file, and for music longer than
    a request may be (two hours where `seconds` will cut it).
    """
    if task == "joint":
        if path is not None:
            raise DataError("task joint takes no input; leave --input out, or choose a2m or m2a.")
        return {}
    if path is None:
        what = (
            "music (any audio or video file)"
            if task == "a2m"
            else "motion (npz, json, npy or OpenPose frames)"
        )
        raise DataError(f"task {task} needs --input: {what}.")
    if not str(path):
        raise DataError(f"the input of task {task} has an empty name; give an existing file with --input.")
    if not Path(path).exists():
        raise DataError(f"no input at {path}; give an existing file.")
    if task == "a2m":
        return {"audio": read_audio(path, longest_s=MAX_SECONDS if seconds is None else MAX_CUT_SECONDS)}
    motion = read_motion(path, fps)
    return {"motion_px": fill_gaps(motion.motion_px, motion.conf), "fps": motion.fps}
