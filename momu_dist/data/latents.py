"""Latents of every prepared clip, encoded once and cached with the fingerprint of the weights that made them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from momu_dist.core.latents import LatentScale, LatentSums, Scaling
from momu_dist.data.index import INDEX, how_to_mend, load_index
from momu_dist.data.manifest import Manifest
from momu_dist.data.record import LATENT_ARRAYS, table_rows
from momu_dist.data.shards import writing_to
from momu_dist.errors import DataError

MODALITIES = ("music", "motion")

_log = logging.getLogger(__name__)

_LIST = pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string()),
        pa.field("group_id", pa.string()),
        pa.field("length", pa.int32(), metadata={"unit": "latents at 31.25 Hz"}),
        *(
            pa.field(name, _LIST, metadata={"shape": "(length, channels)", "rate": "31.25 Hz"})
            for name in LATENT_ARRAYS
        ),
    ]
)

UnitRunner = Callable[
    [list[dict[str, Any]], Callable[[dict[str, Any]], dict[str, Any]]], Iterable[dict[str, Any]]
]


class ClipEncoder(Protocol):
    """Encodes one clip's mel (80, T) and motion (T, 14, 2) px; returns LATENT_ARRAYS as (T // 2, channels) arrays."""

    def __call__(self, mel: np.ndarray, motion_px: np.ndarray) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class LatentManifest:
    """`latents.json`: which weights and which data made these latents, the sums their scales come from, sizes of files."""

    root: Path
    fingerprint: str
    sums: dict[str, LatentSums]
    bytes: dict[str, int]

    @classmethod
    def load(cls, root: str | Path) -> LatentManifest:
        """Read the manifest of a latents folder; an unfinished or missing one is a DataError."""
        path = Path(root) / "latents.json"
        if not path.is_file():
            raise DataError(
                f"no latents at {root}: {path.name} is missing; the diffusion stages encode them by themselves."
            )
        try:
            tree = json.loads(path.read_text())
            sums = {m: LatentSums.from_dict(tree["sums"][m]) for m in MODALITIES}
            # Latents of an older version name no sizes: `damaged` then finds them all, and they are made once more.
            return cls(Path(root), tree["fingerprint"], sums, dict(tree.get("bytes") or {}))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} is torn ({error!r}); delete it and start the run again: the latents that are whole are used."
            ) from error

    def damaged(self, data: Manifest) -> list[str]:
        """The files that are gone or of another size than when they were finished."""
        names = [INDEX, *_shards(data)]
        return [name for name in names if _size(self.root / name) != self.bytes.get(name)]

    def scales(self, scaling: Scaling) -> dict[str, LatentScale]:
        """Return the scale of each modality, from all training latents."""
        return {modality: self.sums[modality].scale(scaling) for modality in MODALITIES}


def latent_fingerprint(data: Manifest, weights: Mapping[str, str]) -> str:
    """A hash of what latents depend on: the prepared data and the weights (sha256 by VAE)."""
    text = json.dumps({"data": data.fingerprint, **dict(sorted(weights.items()))})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_latents(
    data: Manifest, weights: Mapping[str, str], folder: str | None, encode: Callable[[Path, str], None]
) -> LatentManifest:
    """Return the latents of `data` under these weights; `encode(root, fingerprint)` makes them where there are none.

    A `folder` that was named and holds latents of other weights or data is refused, never overwritten. Files that are gone
    or cut are made again.
    """
    fingerprint = latent_fingerprint(data, weights)
    root = Path(folder) if folder else data.root / "latents" / fingerprint
    if not (root / "latents.json").is_file():
        encode(root, fingerprint)
    latents = LatentManifest.load(root)
    if latents.fingerprint != fingerprint:
        raise DataError(
            f"the latents at {root} were made by other weights or from other data (theirs {latents.fingerprint}, "
            f"expected {fingerprint}); name another data.latents folder, or none, and they are encoded again."
        )
    damaged = latents.damaged(data)
    if damaged:
        _log.warning(
            "%d files of the latents at %s are gone or damaged, such as %s; they are encoded again.",
            len(damaged), root, damaged[0],
        )  # fmt: skip
        encode(root, fingerprint)
        latents = LatentManifest.load(root)
    return latents


def encode_latents(
    data: Manifest,
    root: Path,
    fingerprint: str,
    make_encoder: Callable[[], ClipEncoder],
    run_units: UnitRunner,
) -> None:
    """Encode every shard of `data` into `root`, one unit a shard; finished shards of an earlier try are kept."""
    units = [
        {"data": str(data.root), "root": str(root), "shard": shard, "fingerprint": fingerprint}
        for shard in _shards(data)
    ]
    sums: dict[str, LatentSums | None] = dict.fromkeys(MODALITIES)
    for result in run_units(units, EncodeShard(make_encoder)):
        for modality, tree in result["sums"].items():
            part, so_far = LatentSums.from_dict(tree), sums[modality]
            sums[modality] = part if so_far is None else so_far + part
    if None in sums.values():
        raise DataError(
            f"{data.root} has no training clips to take latent statistics from; prepare more data."
        )
    with writing_to(root):
        _write_index(data, root)
        tree = {
            "fingerprint": fingerprint,
            "sums": {m: s.to_dict() for m, s in sums.items() if s is not None},
            "bytes": {name: _size(root / name) for name in (INDEX, *_shards(data))},
        }
        _write_text(root / "latents.json", json.dumps(tree))


class EncodeShard:
    """Encodes one shard where it is called; a copy that travels loads the networks itself."""

    def __init__(self, make_encoder: Callable[[], ClipEncoder]) -> None:
        self.make_encoder = make_encoder
        self._encoder: ClipEncoder | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"make_encoder": self.make_encoder, "_encoder": None}

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        target = Path(unit["root"]) / unit["shard"]
        note = target.with_suffix(".json")
        done = _read_note(note) if target.is_file() else None
        if done is not None and (done.get("fingerprint"), done.get("bytes")) == (
            unit["fingerprint"], _size(target),
        ):  # fmt: skip
            return done
        self._encoder = self._encoder or self.make_encoder()
        with writing_to(Path(unit["root"])):
            target.parent.mkdir(parents=True, exist_ok=True)
            with _whole(target) as temporary:
                sums = self._write(unit, temporary)
            result = {
                "fingerprint": unit["fingerprint"],
                "clips": pq.read_metadata(target).num_rows,
                "bytes": _size(target),
                "sums": {modality: part.to_dict() for modality, part in sums.items()},
            }
            _write_text(note, json.dumps(result))
        return result

    def _write(self, unit: dict[str, Any], path: Path) -> dict[str, LatentSums]:
        """Write the shard and return its sums; of the training split alone."""
        sums: dict[str, LatentSums] = {}
        training = Path(unit["shard"]).parts[0] == "train"
        with pq.ParquetWriter(path, SCHEMA, write_page_checksum=True) as writer:
            for table in _row_groups(Path(unit["data"]) / unit["shard"]):
                writer.write_table(self._encode(table, sums if training else None))
        return sums

    def _encode(self, table: pa.Table, sums: dict[str, LatentSums] | None) -> pa.Table:
        assert self._encoder is not None
        rows = []
        for row in table_rows(table):
            latents = self._encoder(row["mel"], row["motion"])
            n = len(latents["music_mean"])
            flat = {name: values.astype(np.float32).reshape(-1) for name, values in latents.items()}
            rows.append({"clip_id": row["clip_id"], "group_id": row["group_id"], "length": n, **flat})
            if sums is not None:
                for modality in MODALITIES:
                    part = LatentSums.of(latents[f"{modality}_mean"], latents[f"{modality}_logvar"])
                    sums[modality] = sums[modality] + part if modality in sums else part
        return pa.Table.from_pylist(rows, schema=SCHEMA)


def _row_groups(path: Path) -> Iterator[pa.Table]:
    """What is encoded of a data shard, a row group at a time; DataError if the shard is torn."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=["clip_id", "group_id", "length", "mel", "motion"])
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"torn shard {path}: it cannot be read ({error}); {how_to_mend(path)}.") from error


def in_process(
    units: list[dict[str, Any]], fn: Callable[[dict[str, Any]], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The runner without Ray: one unit after the other."""
    return map(fn, units)


def _write_index(data: Manifest, root: Path) -> None:
    """The index of the data with lengths in latents; shards and row groups are the same."""
    index = load_index(data.root)
    halved = pa.array([length // 2 for length in index["length"].to_pylist()], pa.int32())
    place = index.schema.get_field_index("length")
    with _whole(root / INDEX) as temporary:
        pq.write_table(index.set_column(place, "length", halved), temporary)


def _read_note(path: Path) -> dict[str, Any] | None:
    """What a finished shard's note says; None where there is none, or a torn one: the shard is then made again."""
    try:
        note = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


def _write_text(path: Path, text: str) -> None:
    with _whole(path) as temporary:
        temporary.write_text(text)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary name that becomes `path` once all is written, and goes if that fails.

    The name is of this process alone: two runs may encode the same latents at once, and either result is right.
    """
    temporary = path.with_name(f".{path.name}-{socket.gethostname()}-{os.getpid()}")
    try:
        yield temporary
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def _shards(data: Manifest) -> list[str]:
    """The shards of the data, and so those of its latents."""
    return sorted(set(load_index(data.root)["shard"].to_pylist()))


def _size(path: Path) -> int | None:
    """Bytes of a file, None if it is not there."""
    return path.stat().st_size if path.is_file() else None
