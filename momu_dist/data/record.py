"""What a clip is: before preparation (`ClipRef`, `Record`) and as a row of parquet (`SCHEMA`, `Row`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import pyarrow as pa

from momu_dist.core.grid import N_MELS, SAMPLE_RATE
from momu_dist.core.motion.skeleton import N_JOINTS


@dataclass(frozen=True)
class ClipRef:
    """A clip that can be loaded: cheap to list, plain strings only, so that it travels to any worker."""

    clip_id: str
    group_id: str
    start_s: float
    end_s: float | None
    locator: dict[str, str]


@dataclass(frozen=True)
class Record:
    """One clip as its source has it.

    motion_px (T,14,2) pixels, y downwards, frame i at i/fps seconds; conf (T,14) in [0,1], 0 where a joint
    was not seen; fps of the motion; audio (n,) float32 16 kHz mono; beats_s (K,) true beat times in seconds,
    None if unknown; notes: what the source assumed or doubts about this clip, each for people to read. Music
    without a dancer has motion_px and conf None and fps 0.
    """

    clip_id: str
    group_id: str
    motion_px: np.ndarray | None
    conf: np.ndarray | None
    fps: float
    audio: np.ndarray
    beats_s: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def cut(record: Record, start_s: float, end_s: float | None, clip_id: str) -> Record:
    """The part of `record` from start_s to end_s (None: its end), renamed; times count from the cut.

    The start is moved to the nearest motion frame, so that frame 0 stays at 0 s; without motion to the nearest
    sample. What lies beyond the end is not there.
    """
    motion_px, conf, from_s = record.motion_px, record.conf, start_s
    if motion_px is not None and conf is not None:
        first = round(start_s * record.fps)
        # The frame after the end is kept, so that a window of 25 s at 24.9 fps is not a frame short of 25 s.
        last = None if end_s is None else first + ceil((end_s - start_s) * record.fps - 1e-6)
        motion_px, conf, from_s = motion_px[first:last], conf[first:last], first / record.fps
    to_sample = None if end_s is None else round((from_s + end_s - start_s) * SAMPLE_RATE)
    beats_s = record.beats_s
    if beats_s is not None:
        until_s = np.inf if end_s is None else from_s + end_s - start_s
        beats_s = beats_s[(beats_s >= from_s) & (beats_s < until_s)] - from_s
    return replace(
        record,
        clip_id=clip_id,
        motion_px=motion_px,
        conf=conf,
        audio=record.audio[round(from_s * SAMPLE_RATE) : to_sample],
        beats_s=beats_s,
    )


def _field(name: str, kind: pa.DataType, **about: str) -> pa.Field:
    return pa.field(name, kind, nullable=False, metadata=dict(about))


_FLAT = pa.list_(pa.float32())

SCHEMA = pa.schema(
    [
        _field("clip_id", pa.string()),
        _field("group_id", pa.string()),
        _field(
            "motion",
            _FLAT,
            shape="(length,14,2), empty without motion",
            unit="px, y downwards",
            rate="62.5 Hz",
        ),
        _field(
            "conf", _FLAT, shape="(length,14)", unit="detector confidence, 0 = filled gap", rate="62.5 Hz"
        ),
        _field("mel", _FLAT, shape="(80,length)", unit="log10 magnitude", rate="62.5 Hz"),
        _field("amplitude", _FLAT, shape="(length,)", unit="Eq. 2 over its maximum", rate="62.5 Hz"),
        _field("onsets_s", _FLAT, shape="(any,)", unit="s"),
        _field("beats_s", _FLAT, shape="(any,), empty where the source does not know", unit="s"),
        _field("audio", pa.binary(), unit="FLAC, mono, 16 kHz; empty with audio: path"),
        _field("audio_path", pa.string(), unit="relative to the prepared folder; empty with audio: flac"),
        _field("fps", pa.float32(), unit="Hz, of the source's motion, 0 without motion"),
        _field("length", pa.int32(), unit="frames at 62.5 Hz, even"),
    ]
)

ARRAYS = ("motion", "conf", "mel", "amplitude", "onsets_s", "beats_s")
LATENT_ARRAYS = ("music_mean", "music_logvar", "motion_mean", "motion_logvar")


@dataclass(frozen=True)
class Row:
    """One prepared clip: `Record` after `features.extract`. Shapes as in `SCHEMA`, float32; 0 frames of motion where none is."""

    clip_id: str
    group_id: str
    motion: np.ndarray
    conf: np.ndarray
    mel: np.ndarray
    amplitude: np.ndarray
    onsets_s: np.ndarray
    beats_s: np.ndarray
    audio: bytes
    audio_path: str
    fps: float

    @property
    def length(self) -> int:
        """Frames at 62.5 Hz."""
        return int(self.mel.shape[1])


def _flat(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=np.float32).reshape(-1)


def rows_to_table(rows: list[Row]) -> pa.Table:
    """Arrow table with `SCHEMA`, one line a row; an empty list gives an empty table."""
    columns: list[pa.Array] = []
    for field in SCHEMA:
        if field.name in ARRAYS:
            flat = [_flat(getattr(row, field.name)) for row in rows]
            offsets = np.cumsum([0, *(len(values) for values in flat)]).astype(np.int32)
            values = pa.array(np.concatenate(flat) if flat else np.zeros(0, np.float32), type=pa.float32())
            columns.append(pa.ListArray.from_arrays(pa.array(offsets), values))
        else:
            columns.append(pa.array([getattr(row, field.name) for row in rows], type=field.type))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _value(value: Any) -> Any:
    """A cell as NumPy or plain Python: lists become float32 arrays, without a copy from Arrow or NumPy."""
    if isinstance(value, pa.ListScalar):
        values = value.values
        return np.zeros(0, np.float32) if values is None else values.to_numpy(zero_copy_only=True)
    if isinstance(value, np.ndarray | list):
        return np.asarray(value, dtype=np.float32)
    return value.as_py() if isinstance(value, pa.Scalar) else value


def decode_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """NumPy arrays in their shapes from one row of `SCHEMA`; columns that were not read are left out.

    `row` maps column names to Arrow scalars, NumPy arrays or plain values. motion (T,14,2), conf (T,14), mel
    (80,T), amplitude (T,), onsets_s, beats_s, waveform (n,) (which the feed decodes) float32, views of the
    row's own memory where that is Arrow or float32 NumPy (read-only then); clip_id, group_id str; fps float;
    length int; audio bytes; audio_path str; cached latents (length, channels). An empty mapping gives an
    empty one.
    """
    out = {name: _value(value) for name, value in row.items()}
    for name, shape in (("motion", (-1, N_JOINTS, 2)), ("conf", (-1, N_JOINTS)), ("mel", (N_MELS, -1))):
        if name in out:
            out[name] = out[name].reshape(shape)
    for name in LATENT_ARRAYS:
        if name in out:
            out[name] = out[name].reshape(out["length"], -1)
    return out


def table_rows(table: pa.Table) -> list[dict[str, Any]]:
    """`decode_row` of each line of an Arrow table, in order, without copying the lists."""
    columns = {name: table[name] for name in table.column_names}
    return [decode_row({name: column[i] for name, column in columns.items()}) for i in range(table.num_rows)]
