"""A folder of music: what is listed, how it is cut, and what a prepared set without motion says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from momu_dist.data.clips import first_clips
from momu_dist.data.features import extract
from momu_dist.data.manifest import Manifest
from momu_dist.data.prepare import PrepareOptions, Recipe, prepare
from momu_dist.data.record import ClipRef, Record, table_rows
from momu_dist.data.report import report
from momu_dist.data.sources import make_source
from momu_dist.data.sources.music import Music
from momu_dist.data.sources.synthetic.source import Synthetic
from momu_dist.errors import ClipError, DataError

RECIPE = Path(__file__).parents[3] / "datasets" / "music" / "recipe.yaml"


def ramp(seconds: float) -> np.ndarray:
    return (np.arange(round(seconds * 16000)) % 16000 / 16000 - 0.5).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "songs"
    (root / "album").mkdir(parents=True)
    for name, seconds in (("a.wav", 5.0), ("album/a.FLAC", 2.0), ("b.ogg", 3.0)):
        soundfile.write(root / name, ramp(seconds), 16000)
    (root / "cover.png").write_bytes(b"no music")
    return root


def test_every_audio_file_is_a_group_of_its_own(folder: Path) -> None:
    refs = make_source("music", folder).refs()
    assert [ref.clip_id for ref in refs] == ["a.wav", "album/a.FLAC", "b.ogg"]
    assert [ref.group_id for ref in refs] == [ref.clip_id for ref in refs]
    assert [ref.end_s for ref in refs] == pytest.approx([5.0, 2.0, 3.0], abs=0.01)


def test_a_part_of_a_file_is_that_part(folder: Path) -> None:
    source = Music(folder)
    record = source.load(ClipRef("w1", "a.wav", 2.01, 4.01, {"file": "a.wav"}))
    assert record.motion_px is None and record.conf is None and record.fps == 0.0
    assert record.clip_id == "w1" and len(record.audio) == 32000
    np.testing.assert_allclose(record.audio, ramp(5.0)[32160:64160], atol=1e-4)


def test_a_file_that_tells_no_length_is_listed_and_refused_when_loaded(folder: Path) -> None:
    (folder / "torn.mp3").write_bytes(b"this is no sound" * 50)
    source = Music(folder)
    (ref,) = (ref for ref in source.refs() if ref.clip_id == "torn.mp3")
    assert ref.end_s is None
    with pytest.raises(ClipError, match="torn.mp3"):
        source.load(ref)


def test_a_wrong_tree_says_what_to_put_where(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("x")
    for root, sentence in ((None, "--root"), (tmp_path / "none", "no folder"), (tmp_path, "no audio files")):
        with pytest.raises(DataError, match=f"{sentence}.*put audio files"):
            Music(root).refs()


def test_features_of_music_alone() -> None:
    record = Record("a", "a", None, None, 0.0, ramp(1.0))
    row = extract(record)
    assert row.length == 62 and row.mel.shape == (80, 62) and row.fps == 0.0
    assert row.motion.shape == (0, 14, 2) and row.conf.shape == (0, 14) and row.amplitude.shape == (0,)
    for audio, reason in (
        (ramp(0), "zero length"),
        (ramp(0.1), "too short"),
        (ramp(1) * np.nan, "not finite"),
    ):
        with pytest.raises(ClipError, match=reason):
            extract(Record("a", "a", None, None, 0.0, audio))


@pytest.mark.parametrize("audio", ["flac", "path"])
def test_a_prepared_folder_says_that_it_holds_no_motion(folder: Path, tmp_path: Path, audio: str) -> None:
    recipe = Recipe.load(RECIPE)
    options = PrepareOptions.from_dict({**vars(recipe.prepare), "window_s": 1.0, "audio": audio})
    manifest = prepare(make_source(recipe.source, folder), tmp_path / "data", options, progress=False)
    assert (
        manifest.clips.num_rows == 10 and not manifest.holds_motion and "without motion" in report(manifest)
    )
    assert Manifest.load(manifest.root).mel_std > 0
    with pytest.raises(DataError, match="a dance needs motion.*source music.* is music only"):
        manifest.require_motion("a dance")
    with pytest.raises(DataError, match="needs motion"):
        _ = manifest.motion_stats
    shard = manifest.root / manifest.content["shards"][0]["file"]
    assert all(row["motion"].shape == (0, 14, 2) for row in table_rows(pq.read_table(shard)))
    for clip in first_clips(manifest.root, "train", 3):
        assert clip.motion_px.shape == (0, 14, 2) and clip.audio.shape == (256 * clip.mel.shape[1],)


class Mixed(Synthetic):
    """Every second clip has lost its dancer."""

    def load(self, ref: ClipRef) -> Record:
        record = super().load(ref)
        if int(ref.locator["index"]) % 2:
            return record
        return Record(record.clip_id, record.group_id, None, None, 0.0, record.audio)


def test_motion_in_some_clips_only_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gives motion for 124 of 248 frames, expected all or none"):
        prepare(Mixed(n_clips=4, clip_s=1.0), tmp_path / "data", progress=False)
