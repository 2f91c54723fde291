"""What a prepared folder holds: `manifest.json` with statistics, `index.parquet` with each clip's place."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from momu_dist.core.motion.normalise import MotionStats
from momu_dist.data.features import AmplitudeOptions, feature_fingerprint
from momu_dist.data.index import INDEX, load_index, nothing_there
from momu_dist.errors import DataError

MANIFEST_VERSION = 2
MANIFEST, REJECTED, NOTES = "manifest.json", "rejected.parquet", "notes.parquet"
SPLITS = ("train", "val", "test")

_MEND = "run the same `momu prepare` command again, which makes only what is missing"

REJECTED_SCHEMA = pa.schema([pa.field("clip_id", pa.string()), pa.field("reason", pa.string())])
NOTES_SCHEMA = pa.schema([pa.field("clip_id", pa.string()), pa.field("note", pa.string())])


@dataclass(frozen=True)
class Manifest:
    """A finished prepared folder.

    `content` is manifest.json: source and its options, prepare options, shards with rows and row groups, and
    for each split clips, groups, hours. motion_stats and mel_mean, mel_std (log10 units) are of the training
    split.
    """

    root: Path
    content: dict[str, Any]

    @classmethod
    def load(cls, root: str | Path) -> Manifest:
        """The manifest at `root`.

        Raises DataError: nothing prepared there, another manifest version, other features than this
        program's, an index or a shard that is gone or torn, shards that do not hold the clips that are counted.
        """
        root = Path(root)
        path = root / MANIFEST
        if not path.is_file():
            raise DataError(nothing_there(root, MANIFEST))
        try:
            content = json.loads(path.read_text())
            version, fingerprint = content["version"], content["feature_fingerprint"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not a manifest ({error!r}); {_MEND}.") from error
        if version != MANIFEST_VERSION:
            raise DataError(
                f"{path} has version {version}, expected {MANIFEST_VERSION}; prepare the data again."
            )
        try:
            ours = feature_fingerprint(_amplitude(content["options"]))
            if fingerprint != ours:
                raise DataError(
                    f"the data at {root} was made with other features ({fingerprint}, this program makes "
                    f"{ours}); prepare again into a new folder."
                )
            _check_files(root, content["shards"])
            _check_counts(path, content)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is not a manifest ({error!r}); {_MEND}.") from error
        return cls(root, content)

    @property
    def feature_fingerprint(self) -> str:
        """16 hex digits of everything the features depend on."""
        return str(self.content["feature_fingerprint"])

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the prepared data: source, options, features, statistics, place of every clip."""
        # Without the shards' sizes: the same rows take other bytes under another version of zstd.
        shards = [{k: v for k, v in shard.items() if k != "bytes"} for shard in self.content["shards"]]
        text = json.dumps({**self.content, "shards": shards}, sort_keys=True).encode()
        text += (self.root / INDEX).read_bytes()
        return hashlib.sha256(text).hexdigest()[:16]

    @property
    def holds_motion(self) -> bool:
        """Whether the clips have motion beside their music: all have, or none has."""
        return self.content["motion_stats"] is not None

    def require_motion(self, who: str) -> None:
        """Raise DataError if the clips are music without motion; `who` needs it."""
        if not self.holds_motion:
            raise DataError(
                f"{who} needs motion, and the data at {self.root} (source {self.content['source']}) is music only; "
                "prepare a source with dancers, such as dance_with_melody."
            )

    @cached_property
    def motion_stats(self) -> MotionStats:
        """Centre, scale and mean bone lengths of the training split, px. DataError for music without motion."""
        self.require_motion("a statistic of motion")
        return MotionStats.from_dict(self.content["motion_stats"])

    @property
    def mel_mean(self) -> float:
        """Mean of the training split's mel, log10 units."""
        return float(self.content["mel_stats"]["mean"])

    @property
    def mel_std(self) -> float:
        """Standard deviation of the training split's mel, log10 units."""
        return float(self.content["mel_stats"]["std"])

    @cached_property
    def clips(self) -> pa.Table:
        """The index: one line a clip, `INDEX_SCHEMA`."""
        return load_index(self.root)

    def rejected(self) -> list[dict[str, str]]:
        """The clips that could not be used: clip_id, reason."""
        return _lines(self.root / REJECTED)

    def notes(self) -> list[dict[str, str]]:
        """What the source assumed or doubts about single clips: clip_id, note; none in a set made before there were any."""
        return _lines(self.root / NOTES)

    def split(self, name: str) -> pa.Table:
        """The lines of `clips` in split "train", "val" or "test"; DataError for another name."""
        if name not in SPLITS:
            raise DataError(f"no split named {name!r}; there are {', '.join(SPLITS)}.")
        return self.clips.filter(pc.equal(self.clips["split"], name))


def _lines(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        lines: list[dict[str, str]] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({error}); prepare the data again.") from error
    return lines


def _amplitude(options: dict[str, Any]) -> AmplitudeOptions:
    """The amplitude options among a manifest's prepare options."""
    return AmplitudeOptions(*(options[f"amplitude_{name}"] for name in ("bins", "window", "angle")))


def _check_files(root: Path, shards: list[dict[str, Any]]) -> None:
    """DataError if the index or a shard is gone, or a shard of another size than when it was finished."""
    if not (root / INDEX).is_file():
        raise DataError(f"{root} holds {MANIFEST} but no {INDEX}, the place of every clip; {_MEND}.")
    gone = [shard["file"] for shard in shards if not (root / shard["file"]).is_file()]
    if gone:
        raise DataError(f"{root} lacks {len(gone)} of its shards, such as {gone[0]}; {_MEND}.")
    for shard in shards:
        path = root / shard["file"]
        size = path.stat().st_size
        if shard.get("bytes", size) != size:
            raise DataError(f"torn shard {path}: {size} bytes, expected {shard['bytes']}; {_MEND}.")


def _check_counts(path: Path, content: dict[str, Any]) -> None:
    """DataError if the manifest's shards do not hold as many clips as its splits count."""
    rows = sum(shard["rows"] for shard in content["shards"])
    clips = sum(split["clips"] for split in content["splits"].values())
    if rows != clips:
        raise DataError(
            f"{path} names {len(content['shards'])} shards with {rows} clips, expected the {clips} of its splits; {_MEND}."
        )
