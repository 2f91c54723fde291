"""One unit of preparation is one shard: its clips become rows, or are listed with a reason."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow.parquet as pq

from momu_dist.core.audio.mel import HOP, SAMPLE_RATE
from momu_dist.core.motion.normalise import MotionSums
from momu_dist.data.audio_io import encode_flac
from momu_dist.data.features import AmplitudeOptions, extract
from momu_dist.data.record import SCHEMA, ClipRef, Record, Row, rows_to_table
from momu_dist.data.sources import Source
from momu_dist.errors import ClipError, DataError

# Measured on 25 s clips: mel, motion and the rest take 31 kB a second, FLAC about 20.
BYTES_PER_SECOND = 51_000
UNKNOWN_CLIP_S = 25.0

# Errors of the output folder's disk, which say nothing about the clip at hand.
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


@dataclass(frozen=True)
class MelSums:
    """Float64 sums over all mel values; the sums of two shards add up to those of both together."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, mel: np.ndarray) -> MelSums:
        """The sums of one mel (80,T)."""
        values = mel.astype(np.float64)
        return cls(values.size, float(values.sum()), float((values**2).sum()))

    def __add__(self, other: MelSums) -> MelSums:
        return MelSums(self.n + other.n, self.total + other.total, self.squares + other.squares)

    def mean_std(self) -> tuple[float, float]:
        """Mean and standard deviation; of nothing (0, 1)."""
        if self.n == 0:
            return 0.0, 1.0
        mean = self.total / self.n
        return mean, float(np.sqrt(max(self.squares / self.n - mean * mean, 0.0)))


def expected_bytes(ref: ClipRef) -> float:
    """About how many bytes a clip takes in a shard."""
    return BYTES_PER_SECOND * (UNKNOWN_CLIP_S if ref.end_s is None else ref.end_s - ref.start_s)


def make_units(
    refs: list[ClipRef],
    split: str,
    shard_mb: float,
    out_dir: Path,
    audio: str,
    row_group_clips: int,
    plan: str,
) -> list[dict[str, Any]]:
    """Units of about `shard_mb` each, in the order of `refs`: plain JSON values that travel to any worker."""
    wanted = round(sum(map(expected_bytes, refs)) / (shard_mb * 1e6))
    n_shards = min(max(1, wanted), len(refs))  # a clip is never divided
    return [
        {
            "shard": f"{split}/{k:05d}.parquet",
            "refs": [asdict(refs[i]) for i in part],
            "out_dir": str(out_dir),
            "audio": audio,
            "row_group_clips": row_group_clips,
            "plan": plan,
        }
        for k, part in enumerate(np.array_split(np.arange(len(refs)), n_shards) if n_shards else [])
    ]


@dataclass(frozen=True)
class ShardMaker:
    """Makes one shard from a unit; a callable object, since Ray sends it to workers with its source."""

    source: Source
    amplitude: AmplitudeOptions = AmplitudeOptions()

    def __call__(self, unit: dict[str, Any], on_clip: Callable[[], None] | None = None) -> dict[str, Any]:
        """Writes the unit's parquet, then its side file, each atomically; returns what the side file says.

        A unit whose side file is there is not made again. A clip that cannot be used, for whatever reason,
        ends in `rejects`. A unit without a usable clip writes no parquet. Raises DataError if the folder
        cannot be written, MemoryError if memory runs out: neither is a clip's fault.
        """
        path = Path(unit["out_dir"]) / unit["shard"]
        done = finished(unit)
        if done is not None:
            return done
        with writing_to(Path(unit["out_dir"])):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            try:
                result = self._write(unit, temporary, on_clip or (lambda: None))
                result["bytes"] = temporary.stat().st_size if result["clips"] else 0
                if result["clips"]:
                    temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            write_text(path.with_suffix(".json"), json.dumps(result))
        return result

    def _write(self, unit: dict[str, Any], path: Path, on_clip: Callable[[], None]) -> dict[str, Any]:
        motion, mel = MotionSums(), MelSums()
        clips: list[dict[str, Any]] = []
        rejects: list[dict[str, str]] = []
        notes: list[dict[str, str]] = []
        row_groups: list[int] = []
        pending: list[Row] = []
        with pq.ParquetWriter(
            path, SCHEMA, compression="zstd", use_dictionary=False, write_page_checksum=True
        ) as writer:

            def flush() -> None:
                writer.write_table(rows_to_table(pending), row_group_size=len(pending))
                row_groups.append(len(pending))
                pending.clear()

            for ref in (ClipRef(**fields) for fields in unit["refs"]):
                row = self._row(ref, unit, rejects, notes)
                on_clip()
                if row is None:
                    continue
                place = {"row_group": len(row_groups), "row": len(pending)}
                ids = {"clip_id": row.clip_id, "group_id": row.group_id}
                clips.append({**ids, **place, "length": row.length})
                motion, mel = motion + MotionSums.of(row.motion), mel + MelSums.of(row.mel)
                pending.append(row)
                if len(pending) == unit["row_group_clips"]:
                    flush()
            if pending:
                flush()
        return {
            "plan": unit["plan"],
            "shard": unit["shard"],
            "clips": clips,
            "row_groups": row_groups,
            "rejects": rejects,
            "notes": notes,
            "motion_sums": motion.to_dict(),
            "mel_sums": asdict(mel),
        }

    def _row(
        self, ref: ClipRef, unit: dict[str, Any], rejects: list[dict[str, str]], notes: list[dict[str, str]]
    ) -> Row | None:
        """The clip's row with its audio and its source's remarks in `notes`, or None and a line in `rejects`."""
        try:
            record = self.source.load(ref)
            row = _with_audio(extract(record, self.amplitude), record, Path(unit["out_dir"]), unit["audio"])
            notes += [{"clip_id": ref.clip_id, "note": note} for note in record.notes]
            return row
        except ClipError as error:
            reason = str(error)
        except MemoryError:
            raise
        except Exception as error:  # a damaged file may raise anything; one clip never stops the job
            if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
                raise
            reason = f"{type(error).__name__}: {error}"
        rejects.append({"clip_id": ref.clip_id, "reason": reason})
        return None


def finished(unit: dict[str, Any]) -> dict[str, Any] | None:
    """What the side file of a unit says, if the unit was finished under the same plan; else None.

    None too, so that the unit is made again, for a torn side file or a shard of another size than it says.
    """
    path = Path(unit["out_dir"]) / unit["shard"]
    side = path.with_suffix(".json")
    try:
        result = json.loads(side.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(result, dict) or result.get("plan") != unit["plan"]:
        return None
    size = path.stat().st_size if path.is_file() else 0
    return result if result.get("bytes") == size or not result["clips"] else None


@contextmanager
def writing_to(out_dir: Path) -> Iterator[None]:
    """Turns what the system says against writing (a full disk, a folder that is a file) into a DataError."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the file system's
            raise
        raise DataError(
            f"{out_dir} cannot be written ({error.strerror or error}); "
            "make room or mend the permissions and run the same command, or choose another folder."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Writes a file as a whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _with_audio(row: Row, record: Record, out_dir: Path, audio: str) -> Row:
    """The row with the samples its mel was made of, as FLAC: inside, or in a file of its own under audio/."""
    flac = encode_flac(record.audio[: row.length * HOP], SAMPLE_RATE)
    if audio == "flac":
        return replace(row, audio=flac)
    relative = f"audio/{quote(row.clip_id, safe='')}.flac"
    path = out_dir / relative
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(flac)
    temporary.replace(path)
    return replace(row, audio_path=relative)
