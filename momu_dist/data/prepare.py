"""From a source to a folder of parquet shards with a manifest; killed at any moment, it can be continued."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import TypeAdapter, ValidationError

from momu_dist.core.audio.mel import MEL_RATE_HZ
from momu_dist.core.motion.kinematics import Angle, Window
from momu_dist.core.motion.normalise import MotionSums
from momu_dist.core.motion.skeleton import N_JOINTS
from momu_dist.data.features import AmplitudeOptions, feature_fingerprint, feature_parameters
from momu_dist.data.index import INDEX, INDEX_SCHEMA
from momu_dist.data.manifest import (
    MANIFEST,
    MANIFEST_VERSION,
    NOTES,
    NOTES_SCHEMA,
    REJECTED,
    REJECTED_SCHEMA,
    SPLITS,
    Manifest,
)
from momu_dist.data.progress import progress as bar_of
from momu_dist.data.record import ClipRef
from momu_dist.data.shards import MelSums, ShardMaker, finished, make_units, write_text, writing_to
from momu_dist.data.sources import Source
from momu_dist.data.splits import assign, windows
from momu_dist.errors import DataError

Unit = dict[str, Any]
Runner = Callable[[list[Unit], Callable[[Unit], Unit]], Iterable[Unit]]

PLAN, LOCK = "plan.json", "prepare.lock"
MAX_ROW_GROUP_CLIPS = 32
# A smaller file holds no clip, and a set would be a million of them.
MIN_SHARD_MB = 0.1


@dataclass(frozen=True)
class PrepareOptions:
    """How a source is prepared.

    split: "group" keeps clips of one group together, "clip" is the paper's (it leaks: see the dataset's
    card). fractions: train, val, test. window_s: recordings are cut into windows of this length, None leaves
    them whole. travel: "apart" scales where the dancer is and how the body stands each by its own statistic
    (`MotionStats.pose_scale`). amplitude_*: how Eq. 1-2 are read (`core.motion.kinematics.directogram`).
    audio: FLAC inside the shards, or files under audio/. max_rejected: the share of clips that may be unusable
    before preparation fails.
    """

    split: Literal["group", "clip"] = "group"
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05)
    seed: int = 0
    window_s: float | None = None
    travel: Literal["together", "apart"] = "together"
    amplitude_bins: int = 10
    amplitude_window: Window = "hard"
    amplitude_angle: Angle = "atan2"
    row_group_clips: int = 32
    shard_mb: float = 128.0
    audio: Literal["flac", "path"] = "flac"
    max_rejected: float = 0.05

    def __post_init__(self) -> None:
        wrong = None
        if self.split not in ("group", "clip"):
            wrong = f"split is {self.split!r}, expected group or clip"
        elif len(self.fractions) != 3 or not (
            min(self.fractions) >= 0 and abs(sum(self.fractions) - 1) <= 1e-6
        ):
            wrong = f"fractions are {self.fractions}, expected three shares (train, val, test) that sum to 1"
        elif self.window_s is not None and not 1 <= self.window_s < math.inf:
            wrong = f"window_s is {self.window_s}, expected at least 1 s, or null"
        elif self.travel not in ("together", "apart"):
            wrong = f"travel is {self.travel!r}, expected together or apart"
        elif self.amplitude_bins < 1:
            wrong = f"amplitude_bins is {self.amplitude_bins}, expected at least 1"
        elif self.amplitude_window not in ("hard", "literal"):
            wrong = f"amplitude_window is {self.amplitude_window!r}, expected hard or literal"
        elif self.amplitude_angle not in ("atan2", "atan"):
            wrong = f"amplitude_angle is {self.amplitude_angle!r}, expected atan2 or atan"
        elif not 1 <= self.row_group_clips <= MAX_ROW_GROUP_CLIPS:
            wrong = f"row_group_clips is {self.row_group_clips}, expected 1 to {MAX_ROW_GROUP_CLIPS}"
        elif not MIN_SHARD_MB <= self.shard_mb < math.inf:
            wrong = f"shard_mb is {self.shard_mb}, expected at least {MIN_SHARD_MB:g} MB"
        elif self.audio not in ("flac", "path"):
            wrong = f"audio is {self.audio!r}, expected flac or path"
        elif not 0 <= self.max_rejected <= 1:
            wrong = f"max_rejected is {self.max_rejected}, expected a share from 0 to 1"
        if wrong:
            raise DataError(f"prepare: {wrong}.")

    @property
    def amplitude(self) -> AmplitudeOptions:
        """The amplitude_* options, as the features take them."""
        return AmplitudeOptions(self.amplitude_bins, self.amplitude_window, self.amplitude_angle)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PrepareOptions:
        """The options of a recipe; an unknown key is a DataError that lists the valid ones."""
        valid = [field.name for field in fields(cls)]
        unknown = [key for key in values if key not in valid]
        if unknown:
            raise DataError(f"prepare: unknown option {unknown[0]!r}; valid ones: {', '.join(valid)}.")
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            wanted = first["msg"].replace("Input should be", "expected").replace("'", "")
            raise DataError(f"prepare: {place} is {first['input']!r}, {wanted}.") from error


@dataclass(frozen=True)
class Recipe:
    """What `datasets/<name>/recipe.yaml` says: which source, with which options, prepared how."""

    source: str
    source_options: dict[str, Any]
    prepare: PrepareOptions

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """The recipe at `path`, with keys source, source_options, prepare. DataError for anything else."""
        try:
            content = yaml.safe_load(Path(path).read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise DataError(f"recipe {path} cannot be read: {error}.") from error
        keys = {"source", "source_options", "prepare"}
        if not isinstance(content, dict) or "source" not in content or not set(content) <= keys:
            raise DataError(
                f"recipe {path}: expected the keys {', '.join(sorted(keys))} and at least source."
            )
        source_options, options = content.get("source_options") or {}, content.get("prepare") or {}
        for key, value in (("source_options", source_options), ("prepare", options)):
            if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
                raise DataError(
                    f"recipe {path}: {key} is {value!r}, expected names with values, as in `seed: 0`."
                )
        return cls(str(content["source"]), source_options, PrepareOptions.from_dict(options))


def prepare(
    source: Source,
    out_dir: str | Path,
    options: PrepareOptions = PrepareOptions(),
    progress: bool = True,
    runner: Runner | None = None,
) -> Manifest:
    """Prepares `source` into `out_dir` and returns its manifest; what is finished already is not made again.

    runner maps units to results: None runs them here one after the other, `ray_pipeline.map_units` on a
    cluster; both write the same bytes. Killed at any moment, the same call goes on with the units that are
    missing. Raises DataError: a wrong tree, no clips, a folder prepared with other options or features, or
    that cannot be written or another preparation works in, more than `max_rejected` of the clips unusable
    (they are listed in rejected.parquet either way).
    """
    out_dir = Path(out_dir)
    split_refs = clips_of_splits(source, options)
    plan = _plan(source, options, split_refs)
    with writing_to(out_dir), _alone_in(out_dir):
        return _prepare(source, out_dir, options, split_refs, plan, progress, runner)


def _prepare(
    source: Source,
    out_dir: Path,
    options: PrepareOptions,
    split_refs: dict[str, list[ClipRef]],
    plan: dict[str, Any],
    progress: bool,
    runner: Runner | None,
) -> Manifest:
    _claim(out_dir, plan)
    units = [
        unit
        for split in SPLITS
        for unit in make_units(
            split_refs[split],
            split,
            options.shard_mb,
            out_dir,
            options.audio,
            options.row_group_clips,
            _digest(plan),
        )
    ]
    results = _run(units, ShardMaker(source, options.amplitude), runner, progress)
    rejects = [reject for result in results for reject in result["rejects"]]
    _write_table(pa.Table.from_pylist(rejects, schema=REJECTED_SCHEMA), out_dir / REJECTED)
    notes = [note for result in results for note in result.get("notes", [])]
    _write_table(pa.Table.from_pylist(notes, schema=NOTES_SCHEMA), out_dir / NOTES)
    n_clips = sum(len(refs) for refs in split_refs.values())
    _check_rejects(rejects, n_clips, options.max_rejected, out_dir)
    return _finalise(out_dir, plan, feature_parameters(options.amplitude), results, len(rejects))


@contextmanager
def _alone_in(out_dir: Path) -> Iterator[None]:
    """Makes the folder and holds its lock; DataError if another preparation holds it.

    A second one would remove what the first is writing. The system lets go of the lock when its holder dies.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    with (out_dir / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"another preparation is working in {out_dir}; wait for it or choose another folder."
            ) from error
        yield


def clips_of_splits(source: Source, options: PrepareOptions) -> dict[str, list[ClipRef]]:
    """The windows of all refs by split, in the source's order; DataError if there is none, or an id occurs twice."""
    refs = [part for ref in source.refs() for part in windows(ref, options.window_s)]
    if not refs:
        raise DataError(f"source {source.name} lists no clips; expected at least one.")
    twice = [clip_id for clip_id, n in Counter(ref.clip_id for ref in refs).items() if n > 1]
    if twice:
        raise DataError(
            f"source {source.name} lists {twice[0]!r} and {len(twice) - 1} other ids more than once."
        )
    keys = [ref.group_id if options.split == "group" else ref.clip_id for ref in refs]
    assigned = assign(keys, options.fractions, options.seed)
    return {
        name: [ref for ref, k in zip(refs, assigned, strict=True) if k == s] for s, name in enumerate(SPLITS)
    }


def _plan(source: Source, options: PrepareOptions, split_refs: dict[str, list[ClipRef]]) -> dict[str, Any]:
    """Everything the shards depend on, as JSON; without max_rejected, which may be raised after the fact."""
    refs = {split: [asdict(ref) for ref in part] for split, part in split_refs.items()}
    plain = {
        key: list(v) if isinstance(v, tuple) else v
        for key, v in asdict(options).items()
        if key != "max_rejected"
    }
    return {
        "version": MANIFEST_VERSION,
        "source": source.name,
        "source_options": source.options,
        "options": plain,
        "features": feature_fingerprint(options.amplitude),
        "clips": _digest(refs),
    }


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _claim(out_dir: Path, plan: dict[str, Any]) -> None:
    """Writes the plan into a new folder; DataError if the folder belongs to another plan."""
    path = out_dir / PLAN
    if not path.is_file():
        if (out_dir / MANIFEST).exists():
            raise DataError(f"{out_dir} holds a manifest without {PLAN}; prepare into a new folder.")
        write_text(path, json.dumps(plan, indent=1))
        return
    try:
        there = json.loads(path.read_text())
    except ValueError:
        there = None
    if not isinstance(there, dict):
        raise DataError(f"{path} is torn: it holds no JSON object; prepare into a new folder.")
    plan = json.loads(json.dumps(plan))
    if there == plan:
        return
    differs = []
    for key, value in plan.items():
        old = there.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            differs += [f"{k}: {old.get(k)!r} there, {v!r} now" for k, v in value.items() if old.get(k) != v]
        elif old != value:
            differs.append(f"{key}: {old!r} there, {value!r} now")
    raise DataError(
        f"{out_dir} was begun with other settings ({'; '.join(differs)}); "
        "give the same ones to continue, or another output folder."
    )


def _run(units: list[Unit], make: ShardMaker, runner: Runner | None, progress: bool) -> list[Unit]:
    """The results of all units, in the units' order; finished ones are read, not made."""
    done = {unit["shard"]: result for unit in units if (result := finished(unit)) is not None}
    missing = [unit for unit in units if unit["shard"] not in done]
    total = sum(len(unit["refs"]) for unit in units)
    left = sum(len(unit["refs"]) for unit in missing)
    with bar_of(total, "prepare", "clip", initial=total - left, disable=not progress) as bar:
        if runner is None:
            for unit in missing:
                done[unit["shard"]] = make(unit, on_clip=bar.update)
        else:
            for result in runner(missing, make):
                done[result["shard"]] = result
                bar.update(len(result["clips"]) + len(result["rejects"]))
    return [done[unit["shard"]] for unit in units]


def _check_rejects(rejects: list[dict[str, str]], n_clips: int, max_rejected: float, out_dir: Path) -> None:
    if len(rejects) > max_rejected * n_clips:
        first = rejects[0]
        raise DataError(
            f"{len(rejects)} of {n_clips} clips cannot be used, more than max_rejected {max_rejected:g}; "
            f"the first is {first['clip_id']}: {first['reason']}. All are in {out_dir / REJECTED}: "
            "mend the data and prepare into a new folder, or raise max_rejected."
        )


def _finalise(
    out_dir: Path, plan: dict[str, Any], features: dict[str, Any], results: list[Unit], n_rejected: int
) -> Manifest:
    """Writes index and manifest from the side files in the shards' order: same data, same bytes."""
    motion, mel = MotionSums(), MelSums()
    index: list[dict[str, Any]] = []
    shards: list[dict[str, Any]] = []
    for result in results:
        split = result["shard"].split("/")[0]
        if split == "train":
            motion = motion + MotionSums.from_dict(result["motion_sums"])
            mel = mel + MelSums(**result["mel_sums"])
        index += [{**clip, "split": split, "shard": result["shard"]} for clip in result["clips"]]
        if result["clips"]:
            rows = {"file": result["shard"], "split": split, "rows": len(result["clips"])}
            shards.append({**rows, "row_groups": result["row_groups"], "bytes": result["bytes"]})
    frames = sum(clip["length"] for clip in index)
    counted = sum(int(result["motion_sums"]["n"]) for result in results) // N_JOINTS
    if counted not in (0, frames):
        raise DataError(
            f"source {plan['source']} gives motion for {counted} of {frames} frames, expected all or none; "
            "prepare music without dancers as a set of its own."
        )
    mean, std = mel.mean_std()
    content = {
        "version": MANIFEST_VERSION,
        "source": plan["source"],
        "source_options": plan["source_options"],
        "options": plan["options"],
        "feature_fingerprint": plan["features"],
        "features": features,
        "shards": shards,
        "splits": {split: _split_size(index, split) for split in SPLITS},
        "rejected": n_rejected,
        "motion_stats": motion.stats(plan["options"]["travel"] == "apart").to_dict()
        if counted or not frames
        else None,
        "mel_stats": {"mean": mean, "std": std},
    }
    for torn in out_dir.glob("*/*.tmp"):  # what killed attempts left behind
        torn.unlink()
    _write_table(pa.Table.from_pylist(index, schema=INDEX_SCHEMA), out_dir / INDEX)
    write_text(out_dir / MANIFEST, json.dumps(content, indent=1))
    return Manifest.load(out_dir)


def _split_size(index: list[dict[str, Any]], split: str) -> dict[str, Any]:
    clips = [clip for clip in index if clip["split"] == split]
    frames = sum(clip["length"] for clip in clips)
    groups = len({clip["group_id"] for clip in clips})
    return {"clips": len(clips), "groups": groups, "frames": frames, "hours": frames / MEL_RATE_HZ / 3600}


def _write_table(table: pa.Table, path: Path) -> None:
    temporary = path.with_name(path.name + ".tmp")
    pq.write_table(table, temporary)
    temporary.replace(path)
