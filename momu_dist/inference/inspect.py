"""What a folder holds, as text for a terminal: a prepared set, or trained weights; and pictures of prepared clips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow.parquet as pq

from momu_dist.core.audio.mel import MEL_RATE_HZ
from momu_dist.core.motion.kinematics import kinematic_beats
from momu_dist.core.motion.normalise import MotionStats
from momu_dist.core.motion.skeleton import JOINT_NAMES, LIMBS
from momu_dist.data.clips import first_clips
from momu_dist.data.hashes import file_sha256
from momu_dist.data.manifest import MANIFEST, NOTES, REJECTED, SPLITS, Manifest
from momu_dist.errors import DataError
from momu_dist.inference.export import Export, exports_under, find_export, holds_export, settled
from momu_dist.inference.sheet import draw_sheet
from momu_dist.inference.writing import whole

_MOST_LINES = 20


def inspect(path: str | Path) -> str:
    """What the folder holds: a prepared set, or a run, an export or a folder of runs.

    Raises DataError for a folder that is neither, and what `Manifest.load` and `find_export` raise for one that is
    torn or made by another version.
    """
    root = Path(path)
    if (root / MANIFEST).is_file():
        return _prepared(Manifest.load(root))
    told = settled(lambda: _exports(root), lambda found: "\n\n".join(map(_export, found)))
    if told:
        return told
    found = "does not exist" if not root.exists() else "is neither"
    raise DataError(
        f"{root} {found}: expected a folder that `momu prepare` finished, a run with an export, an export, or a folder of runs."
    )


def draw(path: str | Path, n: int, out: str | Path) -> list[Path]:
    """Draws `n` clips of a prepared set, spread over the first split that has any, and returns the pictures in `out`.

    Each shows poses, kinematic beats, onsets and mel on one time axis. Fewer clips than `n` give fewer pictures.
    Raises DataError if `path` is no prepared set, n is under 1, or `out` cannot be made.
    """
    if n < 1:
        raise DataError(f"{n} clips were to be drawn, expected at least 1.")
    if not (Path(path) / MANIFEST).is_file():
        raise DataError(f"{path} is no prepared set: clips can be drawn of what `momu prepare` finished.")
    manifest, folder = Manifest.load(path), Path(out)
    manifest.require_motion("--draw")
    split = next((name for name in SPLITS if manifest.split(name).num_rows), SPLITS[0])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be made ({error.strerror}); choose another folder with --out."
        ) from error
    paths = []
    for clip in first_clips(path, split, n):
        paths.append(folder / f"{split}-{quote(clip.clip_id, safe='')}.png")
        beats_s = kinematic_beats(clip.motion_px)
        title = f"{clip.clip_id} ({split})"
        with whole(paths[-1]) as temporary:
            draw_sheet(temporary, clip.motion_px, MEL_RATE_HZ, clip.mel, clip.onsets_s, beats_s, title)
    return paths


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns of equal width: text to the left, numbers to the right."""
    cells = [list(map(str, head)), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(_is_number(cell) for cell in column[1:]) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    )


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).isdigit() or text == "-"


def _prepared(manifest: Manifest) -> str:
    content = manifest.content
    return "\n\n".join(
        [
            f"prepared set {manifest.root}\n"
            f"source: {content['source']} {_pairs(content['source_options'])}\n"
            f"options: {_pairs(content['options'])}\n"
            f"fingerprint: {manifest.fingerprint}, features {manifest.feature_fingerprint}",
            _splits(manifest),
            _lengths(manifest),
            _statistics(manifest),
            "features:\n"
            + "\n".join(f"  {key}: {_value(value)}" for key, value in content["features"].items()),
            _shards(content["shards"]),
            _listing("rejected", manifest.rejected(), "reason", REJECTED),
            _listing("notes", manifest.notes(), "note", NOTES),
        ]
    )


def _splits(manifest: Manifest) -> str:
    sizes = manifest.content["splits"]
    rows = [
        (name, size["clips"], size["groups"], f"{size['hours']:.3f}", size["frames"])
        for name, size in sizes.items()
    ]
    rows.append(
        (
            "all",
            manifest.clips.num_rows,
            len(set(manifest.clips["group_id"].to_pylist())),
            f"{sum(size['hours'] for size in sizes.values()):.3f}",
            sum(size["frames"] for size in sizes.values()),
        )
    )
    return table(("split", "rows", "groups", "hours", "frames"), rows)


def _lengths(manifest: Manifest) -> str:
    """Lengths of the clips and rates of the motion as it came, which only the shards know."""
    lengths_s = np.asarray(manifest.clips["length"].to_pylist(), dtype=np.float64) / MEL_RATE_HZ
    fps: list[float] = []
    for shard in manifest.content["shards"]:
        fps += pq.read_table(manifest.root / shard["file"], columns=["fps"])["fps"].to_pylist()
    rates, counts = np.unique(np.round(fps, 2), return_counts=True)
    said = [f"{rate:g} ({count})" for rate, count in zip(rates, counts, strict=True)]
    if len(said) > 6:
        said = [f"{rates[0]:g} to {rates[-1]:g}, median {np.median(fps):g}"]
    return "\n".join(
        [
            "length, s: " + _five(lengths_s),
            f"fps of the source (clips): {', '.join(said) or 'none'}",
        ]
    )


def _five(values: np.ndarray) -> str:
    if len(values) == 0:
        return "no clips"
    low, quarter, middle, three, high = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    return f"shortest {low:.2f}, quartiles {quarter:.2f} {middle:.2f} {three:.2f}, longest {high:.2f}"


def _statistics(manifest: Manifest) -> str:
    mel = f"mel of the training split: mean {manifest.mel_mean:.3f}, standard deviation {manifest.mel_std:.3f} (log10)"
    if not manifest.holds_motion:
        return f"music only, without motion\n{mel}"
    stats = manifest.motion_stats
    limbs = [
        (f"{JOINT_NAMES[a]}-{JOINT_NAMES[b]}", f"{length:.1f}")
        for (a, b), length in zip(LIMBS, stats.bone_lengths_px, strict=True)
    ]
    return (
        f"motion of the training split: {_places(stats)}\n{mel}\n{table(('limb', 'mean length, px'), limbs)}"
    )


def _places(stats: MotionStats) -> str:
    x, y = stats.centre
    pose = "" if stats.pose_scale is None else f", of the pose {stats.pose_scale:.2f} px"
    return f"centre {x:.1f}, {y:.1f} px, scale {stats.scale:.2f} px{pose}"


def _shards(shards: Sequence[dict[str, Any]]) -> str:
    rows = [
        (shard["file"], shard["rows"], len(shard["row_groups"]), f"{shard['bytes'] / 1e6:.2f}")
        for shard in shards
    ]
    text = table(("shard", "rows", "row groups", "MB"), rows[:_MOST_LINES])
    total = f"{len(shards)} shards, {sum(shard['bytes'] for shard in shards) / 1e9:.3f} GB"
    more = f"\n... and {len(rows) - _MOST_LINES} more in {MANIFEST}" if len(rows) > _MOST_LINES else ""
    return f"{text}{more}\n{total}"


def _listing(title: str, lines: Sequence[dict[str, str]], key: str, file: str) -> str:
    """The first of some lines about single clips, and where the rest is."""
    if not lines:
        return f"{title}: none"
    shown = [f"  {line['clip_id']}: {line[key]}" for line in lines[:_MOST_LINES]]
    if len(lines) > _MOST_LINES:
        shown.append(f"  ... and {len(lines) - _MOST_LINES} more in {file}")
    return "\n".join([f"{title}: {len(lines)}", *shown])


def _value(value: Any) -> str:
    return _pairs(value) if isinstance(value, dict) else str(value)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items()) or "no options"


def _exports(root: Path) -> list[Export]:
    """The exports at a folder, none if it holds none; what is torn raises CheckpointError."""
    if holds_export(root) or (root / "config.yaml").is_file():  # a run that has no export yet says so
        return [find_export(root)]
    if root.is_dir() and any(holds_export(child / "export") for child in root.iterdir()):
        return exports_under(root)
    return []


def _export(export: Export) -> str:
    facts = export.facts
    path = export.folder / "model.safetensors"
    intact = file_sha256(path) == export.sha256
    lines = [
        ("stage", export.stage),
        ("run", f"{export.config.name}, seed {export.config.seed}"),
        ("step", facts.get("step", "not said")),
        ("parameters", f"{facts.get('parameters', 0):,} ({path.stat().st_size / 1e6:.2f} MB)"),
        ("sha256", f"{export.sha256} ({'matches the weights' if intact else 'NOT that of the weights: torn'})"),
        ("commit", facts.get("commit", "not said")),
        ("data", f"{facts.get('data_fingerprint', 'not said')}, from {export.config.data.root}"),
        ("features", facts.get("feature_fingerprint", "not said")),
    ]  # fmt: skip
    if "motion_stats" in facts:
        lines.append(("motion", _places(export.motion_stats)))
    for name in ("music_vae", "motion_vae"):
        if (export.folder / name / "model.json").is_file():
            vae = find_export(export.folder / name)
            lines.append((name, f"{vae.sha256}, step {vae.facts.get('step', 'not said')}"))
    width = max(len(key) for key, _ in lines)
    return "\n".join([f"export {export.folder}", *(f"  {key:<{width}}  {value}" for key, value in lines)])
