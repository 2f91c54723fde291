"""Preparation end to end: bad clips, restarts, splits, Ray Data against the plain loop."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from momu_dist.data.audio_io import read_audio
from momu_dist.data.manifest import Manifest
from momu_dist.data.prepare import PrepareOptions, Recipe, prepare
from momu_dist.data.record import ClipRef, Record, table_rows
from momu_dist.data.report import report
from momu_dist.data.sources import make_source
from momu_dist.data.sources.synthetic.source import Synthetic
from momu_dist.errors import DataError

ROOT = Path(__file__).parents[2]


class Files:
    """A source on disk: `<clip>.wav` and `<clip>.npz` (motion, conf, fps); two clips to a group."""

    name = "files"
    options: dict[str, Any] = {}

    def __init__(self, root: Path) -> None:
        self.root = root

    def refs(self) -> list[ClipRef]:
        names = sorted(path.stem for path in self.root.glob("*.npz"))
        return [ClipRef(name, f"group{k // 2}", 0.0, 1.5, {}) for k, name in enumerate(names)]

    def load(self, ref: ClipRef) -> Record:
        with np.load(self.root / f"{ref.clip_id}.npz") as file:
            motion, conf, fps = file["motion"], file["conf"], float(file["fps"])
        audio = read_audio(self.root / f"{ref.clip_id}.wav")
        return Record(ref.clip_id, ref.group_id, motion, conf, fps, audio)


def write_clip(root: Path, name: str, record: Record, audio: np.ndarray | None = None) -> Path:
    np.savez(root / f"{name}.npz", motion=record.motion_px, conf=record.conf, fps=record.fps)
    wav = root / f"{name}.wav"
    soundfile.write(wav, record.audio if audio is None else audio, 16000, subtype="FLOAT")
    return wav


def spoiled_files(root: Path) -> dict[str, str]:
    """Sixteen good clips and one of each bad kind; returns bad clip -> a part of its reason."""
    source = Synthetic(n_clips=17, clip_s=1.5)
    for k in range(16):
        write_clip(root, f"good{k:02d}", source.clip(k).record)
    record = source.clip(16).record
    no_joint = record.motion_px.copy()
    no_joint[:, 0] = np.nan
    wav = write_clip(root, "truncated", record)
    wav.write_bytes(wav.read_bytes()[:40000])
    write_clip(root, "zero_bytes", record).write_bytes(b"")
    write_clip(root, "not_audio", record).write_bytes(b"this is no sound at all" * 100)
    write_clip(root, "no_file", record).unlink()
    write_clip(root, "short_audio", record, record.audio[:12000])
    write_clip(root, "silent", record, np.zeros_like(record.audio))
    write_clip(root, "nan_joint", replace(record, motion_px=no_joint))
    write_clip(root, "unseen", replace(record, conf=np.zeros_like(record.conf)))
    write_clip(root, "no_frames", replace(record, motion_px=record.motion_px[:0], conf=record.conf[:0]))
    write_clip(root, "wrong_rate", replace(record, fps=30.0))
    write_clip(root, "torn_motion", record)
    path = root / "torn_motion.npz"
    path.write_bytes(path.read_bytes()[:2000])
    return {
        "truncated": "truncated",
        "zero_bytes": "empty",
        "not_audio": "not_audio.wav",
        "no_file": "does not exist",
        "short_audio": "durations disagree",
        "nan_joint": "Nose is missing in all",
        "unseen": "missing in all",
        "no_frames": "zero length",
        "wrong_rate": "durations disagree",
        "torn_motion": "BadZipFile",
    }


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_each_kind_of_bad_clip_is_listed_with_its_reason_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    expected = spoiled_files(tmp_path / "raw")
    manifest = prepare(
        Files(tmp_path / "raw"), tmp_path / "out", PrepareOptions(max_rejected=0.5), progress=False
    )
    rejected = {
        row["clip_id"]: row["reason"] for row in pq.read_table(tmp_path / "out/rejected.parquet").to_pylist()
    }
    assert set(rejected) == set(expected)
    for clip_id, reason in expected.items():
        assert reason in rejected[clip_id]
    kept = set(manifest.clips["clip_id"].to_pylist())
    assert kept == {f"good{k:02d}" for k in range(16)} | {"silent"}
    assert manifest.content["rejected"] == len(expected)
    assert "10 clips rejected, listed in" in report(manifest)


def test_too_many_bad_clips_fail_the_job_and_the_share_can_be_raised_after_the_fact(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    spoiled_files(tmp_path / "raw")
    run = partial(prepare, Files(tmp_path / "raw"), tmp_path / "out", progress=False)
    with pytest.raises(
        DataError, match=r"10 of 27 clips cannot be used, more than max_rejected 0.05.*rejected.parquet"
    ):
        run(PrepareOptions())
    assert (tmp_path / "out/rejected.parquet").is_file()
    with pytest.raises(DataError, match="momu prepare"):
        Manifest.load(tmp_path / "out")
    assert run(PrepareOptions(max_rejected=0.5)).clips.num_rows == 17


class Stop(BaseException):
    """A kill, as far as the code that is killed can tell."""


class StopsAt(Synthetic):
    """Synthetic that is killed when it loads its `at`-th clip; the same source otherwise."""

    at = 10**9
    loads = 0

    def load(self, ref: ClipRef) -> Record:
        self.loads += 1
        if self.loads > self.at:
            raise Stop
        return super().load(ref)


SMALL = PrepareOptions(shard_mb=0.4, row_group_clips=4)  # five clips of 1.5 s to a shard


@pytest.mark.parametrize("at", [0, 7, 17, 23])
def test_killed_anywhere_and_continued_gives_the_same_bytes(tmp_path: Path, at: int) -> None:
    def source() -> StopsAt:
        return StopsAt(n_clips=24, clip_s=1.5)

    prepare(source(), tmp_path / "whole", SMALL, progress=False)
    killed, again = source(), source()
    killed.at = at
    with pytest.raises(Stop):
        prepare(killed, tmp_path / "torn", SMALL, progress=False)
    assert not (tmp_path / "torn" / "manifest.json").exists()
    prepare(again, tmp_path / "torn", SMALL, progress=False)
    assert files_of(tmp_path / "torn") == files_of(tmp_path / "whole")
    assert again.loads <= 24 - at + 6  # only the unit that was torn is made again


@pytest.mark.integration
def test_sigkill_in_the_middle_and_again_gives_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "from momu_dist.data.prepare import *; from momu_dist.data.sources import make_source; import sys;"
        "prepare(make_source('synthetic', n_clips=60, clip_s=3.0), sys.argv[1],"
        " PrepareOptions(shard_mb=0.8, row_group_clips=4), progress=False)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(out: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", code, str(tmp_path / out)], env=environment)

    process = start("torn")
    while len(list((tmp_path / "torn").glob("*/*.json"))) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "torn" / "manifest.json").exists()
    assert start("torn").wait() == 0
    assert start("whole").wait() == 0
    assert files_of(tmp_path / "torn") == files_of(tmp_path / "whole")


def test_other_options_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    prepare(Synthetic(n_clips=4, clip_s=1.0), tmp_path, SMALL, progress=False)
    with pytest.raises(DataError, match=r"begun with other settings .seed: 0 there, 5 now"):
        prepare(Synthetic(n_clips=4, clip_s=1.0), tmp_path, replace(SMALL, seed=5), progress=False)
    with pytest.raises(DataError, match=r"n_clips: 4 there, 8 now"):
        prepare(Synthetic(n_clips=8, clip_s=1.0), tmp_path, SMALL, progress=False)


def test_a_finished_folder_is_returned_without_loading_anything(tmp_path: Path) -> None:
    first = prepare(StopsAt(n_clips=4, clip_s=1.0), tmp_path, SMALL, progress=False)
    idle = StopsAt(n_clips=4, clip_s=1.0)
    assert prepare(idle, tmp_path, SMALL, progress=False).fingerprint == first.fingerprint
    assert idle.loads == 0


@pytest.mark.parametrize("split", ["group", "clip"])
def test_windows_of_a_recording_stay_in_one_split_unless_the_paper_s_way_is_asked_for(
    tmp_path: Path, split: Any
) -> None:
    options = PrepareOptions(split=split, fractions=(0.6, 0.2, 0.2), window_s=1.0, max_rejected=0.0)
    manifest = prepare(Synthetic(n_clips=10, clip_s=4.0), tmp_path, options, progress=False)
    clips = manifest.clips.to_pylist()
    assert len(clips) == 40 and {clip["length"] for clip in clips} == {62}
    splits = {g: {c["split"] for c in clips if c["group_id"] == g} for g in {c["group_id"] for c in clips}}
    assert all(len(parts) == 1 for parts in splits.values()) == (split == "group")
    assert [manifest.content["splits"][name]["clips"] for name in ("train", "val", "test")] == [24, 8, 8]


def test_statistics_are_of_the_training_split_and_can_be_undone(tmp_path: Path) -> None:
    manifest = prepare(Synthetic(n_clips=12, clip_s=1.5), tmp_path, SMALL, progress=False)
    shards = {row["shard"] for row in manifest.split("train").to_pylist()}
    rows = [row for shard in sorted(shards) for row in table_rows(pq.read_table(tmp_path / shard))]
    motion = np.concatenate([row["motion"] for row in rows]).astype(np.float64)
    stats = manifest.motion_stats
    normalised = stats.normalise(motion)
    np.testing.assert_allclose(normalised.mean(axis=(0, 1)), 0, atol=1e-6)
    assert (normalised**2).mean() == pytest.approx(1, rel=1e-6)
    np.testing.assert_allclose(stats.denormalise(normalised), motion, rtol=1e-9)
    mel = np.concatenate([row["mel"].reshape(-1) for row in rows])
    assert manifest.mel_mean == pytest.approx(mel.mean(dtype=np.float64))
    assert manifest.mel_std == pytest.approx(mel.std(dtype=np.float64))


def test_lists_that_cannot_be_prepared_are_sentences(tmp_path: Path) -> None:
    class Twice(Synthetic):
        def refs(self) -> list[ClipRef]:
            return super().refs() * 2

    with pytest.raises(DataError, match="more than once"):
        prepare(Twice(n_clips=2), tmp_path / "twice", progress=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="lists no clips"):
        prepare(Files(tmp_path / "empty"), tmp_path / "none", progress=False)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"splits": "group"}, "unknown option 'splits'; valid ones: split, fractions"),
        ({"split": "song"}, "expected group or clip"),
        ({"fractions": [0.5, 0.2, 0.2]}, "sum to 1"),
        ({"row_group_clips": 64}, "expected 1 to 32"),
        ({"window_s": 0.5}, "at least 1 s"),
        ({"window_s": float("inf")}, "at least 1 s"),
        ({"shard_mb": float("nan")}, "at least 0.1 MB"),
        ({"fractions": (float("nan"), 0.5, 0.5)}, "sum to 1"),
        ({"audio": "mp3"}, "flac or path"),
        ({"max_rejected": 5}, "share from 0 to 1"),
    ],
)
def test_impossible_options_are_sentences(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        PrepareOptions.from_dict(values)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "datasets").glob("*/recipe.yaml")), ids=lambda path: path.parent.name
)
def test_each_recipe_loads_and_its_source_takes_its_options(path: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(path)
    assert recipe.source == path.parent.name
    assert make_source(recipe.source, tmp_path, **recipe.source_options).name == recipe.source
    assert (path.parent / "card.md").is_file()


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\x00", b"source: synthetic\nsource_options: [1]\n", b"source: synthetic\nprepare: {1: 2}\n"],
)
def test_a_recipe_that_is_none_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(DataError, match="recipe"):
        Recipe.load(tmp_path / "recipe.yaml")


def test_a_second_preparation_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another preparation is working in"):
            prepare(Synthetic(n_clips=3, clip_s=1.5), tmp_path, progress=False)
    prepare(Synthetic(n_clips=3, clip_s=1.5), tmp_path, progress=False)


def test_a_torn_plan_and_a_folder_that_cannot_be_made_are_sentences(tmp_path: Path) -> None:
    source = Synthetic(n_clips=3, clip_s=1.5)
    (tmp_path / "plan.json").write_text('{"vers')
    with pytest.raises(DataError, match=r"plan.json is torn"):
        prepare(source, tmp_path, progress=False)
    with pytest.raises(DataError, match="cannot be written"):
        prepare(source, tmp_path / "plan.json" / "out", progress=False)


def test_a_recipe_with_another_key_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("source: synthetic\noptions: {}\n")
    with pytest.raises(DataError, match="expected the keys prepare, source, source_options"):
        Recipe.load(path)


@pytest.fixture
def running_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    import ray

    from momu_dist.data.ray_pipeline import map_units

    # Processes with an environment of their own, as below, are never taken from those started in advance.
    monkeypatch.setenv("RAY_prestart_worker_first_driver", "0")
    folder = f"/tmp/momu_{os.getpid()}"  # Ray's sockets need a short path
    environment = {"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}}
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        _temp_dir=folder,
        log_to_driver=False,
        runtime_env=environment,
    )
    yield partial(map_units, num_cpus=4.0, label="prepare")
    ray.shutdown()


@pytest.mark.integration
def test_ray_data_writes_the_same_bytes_as_the_plain_loop(
    tmp_path: Path, running_ray: Callable[..., Any]
) -> None:
    source = Synthetic(n_clips=24, clip_s=1.5)
    prepare(source, tmp_path / "plain", SMALL, progress=False)
    prepare(source, tmp_path / "ray", SMALL, progress=False, runner=running_ray)
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "plain")
    (tmp_path / "ray" / "train" / "00001.parquet").unlink()  # and it makes only what is missing
    prepare(source, tmp_path / "ray", SMALL, progress=False, runner=running_ray)
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "plain")
    assert list(running_ray([], None)) == []


@pytest.mark.integration
def test_without_ray_running_map_units_says_what_to_do() -> None:
    from momu_dist.data.ray_pipeline import map_units

    with pytest.raises(DataError, match=r"call ray.init"):
        list(map_units([{"a": 1}], dict))
