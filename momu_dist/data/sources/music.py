"""Music without dancers: a folder of any audio files, for the stages that learn sound alone."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from momu_dist.data.audio_io import read_audio, sound_length_s
from momu_dist.data.record import ClipRef, Record, cut
from momu_dist.errors import ClipError, DataError

SUFFIXES = frozenset(
    {".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma"}
)
WHERE = (
    "put audio files ("
    + ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
    + ") there, in folders as you like"
)


class Music:
    """The audio files anywhere under `root`, whole; preparation cuts them in windows. The records hold no motion.

    Each file is a group of its own, so that no piece of music is in two splits. Two files with the same music (an
    album and a single, two encodings) are two groups: remove one.
    """

    name = "music"

    def __init__(self, root: Path | None) -> None:
        self.root = None if root is None else Path(root)
        self.options: dict[str, Any] = {}

    def refs(self) -> list[ClipRef]:
        """One ref a file, sorted by path; the end of one whose header does not tell its length is not known."""
        if self.root is None:
            raise DataError(f"music: no root was given; give --root with a folder of music, and {WHERE}.")
        if not self.root.is_dir():
            raise DataError(f"music: no folder {self.root}; make it, and {WHERE}.")
        files = sorted(path for path in self.root.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError(f"music: {self.root} holds no audio files; {WHERE}.")
        refs = []
        for path in files:
            name = path.relative_to(self.root).as_posix()
            refs.append(ClipRef(name, name, 0.0, _length_s(path), {"file": name}))
        return refs

    def load(self, ref: ClipRef) -> Record:
        """The part of the file that `ref` names. Raises ClipError if the file cannot be read."""
        assert self.root is not None, "refs come from refs(), which checks the root"
        sound = _read(self.root / ref.locator["file"])
        whole = Record(ref.clip_id, ref.group_id, None, None, 0.0, sound)
        return cut(whole, ref.start_s, ref.end_s, ref.clip_id)


def _length_s(path: Path) -> float | None:
    """What the header tells; None for a file that cannot be read, which preparation rejects with its reason."""
    try:
        return sound_length_s(path)
    except DataError:
        return None


@lru_cache(maxsize=1)
def _read(path: Path) -> np.ndarray:
    """The whole file (n,) at 16 kHz; decoded once for all its windows, which follow each other."""
    try:
        return read_audio(path)
    except DataError as error:
        raise ClipError(str(error)) from error
