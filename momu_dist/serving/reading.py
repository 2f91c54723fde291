"""What an uploaded file holds, as fields of a request; it may be anything, and be hostile.

Nothing here knows where a file came from, and no sentence about it says where it lies.
"""

from __future__ import annotations

import logging
import math
import zipfile
from codecs import BOM_UTF8
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from momu_dist.core.motion.cleaning import fill_gaps
from momu_dist.data.audio_io import read_audio
from momu_dist.errors import DataError
from momu_dist.inference.motion_io import read_motion
from momu_dist.inference.request import Task

_log = logging.getLogger(__name__)

# Motion of an hour at 62.5 Hz takes 50 MB; what unpacks to more is no motion of ours.
MAX_UNPACKED_BYTES = 256 * 2**20
# Text takes some 20 times its size once it is parsed.
MAX_JSON_BYTES = 32 * 2**20
# Read beyond what is asked for, so that resampling, which looks ahead, gives there what it gives of the whole.
_BEYOND_S, _BEYOND_FRAMES = 1.0, 8


def read_bytes(
    task: Task, content: bytes, fps: float | None, longest_s: float, seconds: float | None = None
) -> dict[str, Any]:
    """Return the request fields that `content` gives for `task`: `audio`, or `motion_px` and `fps`.

    Motion may be an npz, npy or JSON file, told apart by how it begins. Where `seconds` are asked for, little more than
    those is read and returned. Raises DataError for what cannot be used, and where they are not, for more than `longest_s`.
    """
    if not content:
        raise DataError(
            "the body is empty, expected a file; send its bytes, or name an uploaded one with file=<id>."
        )
    suffix = ".media" if task == "a2m" else _motion_suffix(content)
    with TemporaryDirectory(prefix="momu-upload-") as folder:
        path = Path(folder) / f"upload{suffix}"
        path.write_bytes(content)
        try:
            if suffix == ".npz":
                _refuse_bomb(path)
            return _read(task, path, fps, longest_s, seconds)
        except DataError as error:
            raise DataError(str(error).replace(str(path), "the upload")) from None
        except Exception as error:
            # Whatever foreign bytes make a parser raise is their fault, not the service's.
            _log.exception("an upload for %s broke its parser", task)
            raise DataError("the upload cannot be read, expected a whole file; send another.") from error


def _read(
    task: Task, path: Path, fps: float | None, longest_s: float, seconds: float | None
) -> dict[str, Any]:
    cut_s = None if seconds is None else seconds + _BEYOND_S
    if task == "a2m":
        return {"audio": read_audio(path, longest_s=longest_s, cut_s=cut_s)}
    motion = read_motion(path, fps)
    length_s = len(motion.motion_px) / motion.fps
    if cut_s is None and length_s > longest_s:
        raise DataError(
            f"the upload is {length_s:.1f} s long, expected at most {longest_s:g} s; send less, or say with seconds how "
            "much of it to take."
        )
    filled = fill_gaps(motion.motion_px, motion.conf)
    if cut_s is not None and length_s > cut_s:
        filled = filled[: math.ceil(cut_s * motion.fps) + _BEYOND_FRAMES].copy()  # lets go of the rest
    return {"motion_px": filled, "fps": motion.fps}


def _motion_suffix(content: bytes) -> str:
    if content.startswith(b"PK"):
        return ".npz"
    if content.startswith(b"\x93NUMPY"):
        return ".npy"
    if content.removeprefix(BOM_UTF8).lstrip()[:1] in (b"{", b"["):
        if len(content) > MAX_JSON_BYTES:
            raise DataError(
                f"the upload is {len(content) / 2**20:.0f} MB of JSON, expected at most {MAX_JSON_BYTES / 2**20:.0f}; "
                "send the motion as npz, or a part of it."
            )
        return ".json"
    raise DataError("the upload is no motion that is known, expected an npz, npy or JSON file.")


def _refuse_bomb(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile as error:
        raise DataError("the upload is no whole npz file; send it again.") from error
    if size > MAX_UNPACKED_BYTES:
        raise DataError(
            f"the upload unpacks to {size / 2**20:.0f} MB, expected at most {MAX_UNPACKED_BYTES / 2**20:.0f}; "
            "send motion of one clip."
        )
