"""Prepared clips as arrays, for looking at them and for scoring."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from momu_dist.data.feed import WAVEFORM, ShardReader
from momu_dist.data.plan import PlannedSample
from momu_dist.data.record import table_rows
from momu_dist.errors import DataError

_COLUMNS = ("group_id", "motion", "mel", "onsets_s", WAVEFORM)


@dataclass(frozen=True)
class PreparedClip:
    """One clip: motion_px (T, 14, 2) and mel (80, T) at 62.5 Hz, audio (n,) at 16 kHz, onsets_s (N,).

    Of data without motion motion_px has 0 frames.
    """

    clip_id: str
    group_id: str
    motion_px: np.ndarray
    mel: np.ndarray
    audio: np.ndarray
    onsets_s: np.ndarray


def first_clips(root: str | Path, split: str, n: int) -> list[PreparedClip]:
    """Return up to `n` clips spread over a split, in order. Raises DataError for an empty split."""
    reader = ShardReader(str(root), split, _COLUMNS, keep=2)
    if not len(reader):
        raise DataError(
            f"split {split} of {root} holds no clips; name another split, or prepare with other fractions."
        )
    count = min(n, len(reader))
    chosen = [PlannedSample(0, i * len(reader) // count) for i in range(count)]
    return [
        PreparedClip(
            row["clip_id"],
            row["group_id"],
            row["motion"],
            row["mel"],
            np.array(row[WAVEFORM]),
            row["onsets_s"],
        )
        for row in table_rows(reader.rows(chosen))
    ]
