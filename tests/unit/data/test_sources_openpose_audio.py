"""OpenPose frames with a sound beside them: made-up folders, from listing to `momu prepare`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from momu_dist.cli import main
from momu_dist.data.manifest import Manifest
from momu_dist.data.record import Record
from momu_dist.data.sources import make_source, missing_of
from momu_dist.data.sources.openpose_audio import OpenPoseAudio
from momu_dist.errors import ClipError, DataError

FPS = 30.0
POSE = np.random.default_rng(7).uniform([-25, -90], [25, 90], (25, 2))


def walker(x_px: np.ndarray, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    swing = 8 * np.sin(np.arange(len(x_px)) / 5)[:, None] * rng.normal(size=25)
    xy = POSE + np.stack([x_px[:, None] + swing, np.full((len(x_px), 25), 300.0)], axis=-1)
    return np.concatenate([xy, np.full((len(x_px), 25, 1), 0.9)], axis=-1)


def write_clip(
    root: Path, name: str, *people: np.ndarray, sound_s: float | None = None, first: int = 0, seed: int = 0
) -> Path:
    """Writes root/name/*_keypoints.json, people shuffled, and root/name.wav of the frames' length at 30 fps."""
    folder = root / name
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for t in range(len(people[0])):
        there = [person[t].ravel().round(3).tolist() for person in people if person[t].any()]
        rng.shuffle(there)
        frame = {"version": 1.3, "people": [{"pose_keypoints_2d": values} for values in there]}
        (folder / f"{name}_{t + first:012d}_keypoints.json").write_text(json.dumps(frame))
    length_s = len(people[0]) / FPS if sound_s is None else sound_s
    noise = 0.1 * np.random.default_rng(len(name) + sum(map(ord, name))).normal(size=round(length_s * 16000))
    soundfile.write(root / f"{name}.wav", noise, 16000)
    return folder


def frame_file(folder: Path, t: int) -> Path:
    return folder / f"{folder.name}_{t:012d}_keypoints.json"


def only(source: OpenPoseAudio) -> Record:
    (ref,) = source.refs()
    return source.load(ref)


@pytest.fixture
def dancer() -> np.ndarray:
    return walker(np.linspace(300, 420, 90))


def test_one_of_two_who_cross_is_followed_and_the_derived_rate_is_said(tmp_path: Path) -> None:
    way = np.linspace(-200, 200, 90)
    dancer, other = walker(500 + way), 0.8 * walker(600 - way, seed=1)
    write_clip(tmp_path, "duo", dancer, other)
    (ref,) = OpenPoseAudio(tmp_path).refs()
    assert ref.end_s == pytest.approx(3.0)
    record = only(OpenPoseAudio(tmp_path))
    assert record.fps == pytest.approx(30) and len(record.audio) == 48000
    np.testing.assert_allclose(record.motion_px[:, 8], dancer[:, 9, :2], atol=1e-3)  # RHip: 9 of 25, 8 of 14
    (note,) = record.notes
    assert note.startswith("30.000 fps, derived: 90 frames over the 3.00 s of duo.wav")


def test_a_given_rate_is_kept_and_not_remarked(tmp_path: Path, dancer: np.ndarray) -> None:
    write_clip(tmp_path, "solo", dancer, sound_s=3.6)
    record = only(OpenPoseAudio(tmp_path, fps=25))
    assert record.fps == 25 and record.notes == ()
    assert OpenPoseAudio(tmp_path, fps=25).refs()[0].end_s == pytest.approx(3.6)


def test_missing_numbers_and_empty_frames_are_gaps_in_time(tmp_path: Path, dancer: np.ndarray) -> None:
    hidden = dancer.copy()
    hidden[40:45] = 0
    folder = write_clip(tmp_path, "gaps", hidden)
    for t in (10, 11, 12):
        frame_file(folder, t).unlink()
    record = only(OpenPoseAudio(tmp_path))
    gone = [10, 11, 12, 40, 41, 42, 43, 44]
    assert len(record.motion_px) == 90
    assert not record.conf[gone].any() and record.conf.all(axis=1).sum() == 82
    np.testing.assert_allclose(record.motion_px[50, 0], dancer[50, 0, :2], atol=1e-3)


def test_who_leaves_and_who_is_taken_is_said_with_the_frame_s_number(tmp_path: Path) -> None:
    dancer, other = walker(np.linspace(500, 900, 120)), walker(np.full(120, 300.0), seed=1)
    dancer[:, :, :2] *= 1.1
    dancer[50:] = 0
    write_clip(tmp_path, "leaves", dancer, other, first=100)
    source = OpenPoseAudio(tmp_path, fps=FPS)
    record = only(source)
    numbering, switch = record.notes
    assert "numbered from 100" in numbering
    assert "at frame 150" in switch and "last seen at 149" in switch
    (ref,) = source.refs()
    before = source.load(type(ref)("w", ref.group_id, 0.0, 1.5, ref.locator))
    assert not any("at frame" in note for note in before.notes), "a window tells what is in it"
    np.testing.assert_array_equal(before.motion_px, record.motion_px[:45])


def _tear(folder: Path) -> None:
    path = frame_file(folder, 30)
    path.write_text(path.read_text()[:100])


def _coco(folder: Path) -> None:
    person = {"pose_keypoints_2d": [1.0] * 54}
    frame_file(folder, 30).write_text(json.dumps({"people": [person]}))


def _nobody(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_text('{"people": []}')


def _other_series(folder: Path) -> None:
    (folder / "other_000000000000_keypoints.json").write_text('{"people": []}')


def _huge_number(folder: Path) -> None:
    frame_file(folder, 89).rename(frame_file(folder, 10**11))


def _second_sound(folder: Path) -> None:
    soundfile.write(folder / "camera.flac", np.zeros(16000), 16000)


def _no_sound(folder: Path) -> None:
    folder.with_suffix(".wav").unlink()


def _torn_sound(folder: Path) -> None:
    folder.with_suffix(".wav").write_bytes(b"RIFF")


def _long_sound(folder: Path) -> None:
    soundfile.write(folder.with_suffix(".wav"), np.zeros(60 * 16000), 16000)


SPOILS: dict[str, tuple[Callable[[Path], None], str]] = {
    "torn": (_tear, "is not JSON"),
    "coco": (_coco, r"another skeleton \(54 numbers\).*BODY_25"),
    "nobody": (_nobody, "nobody in any of 90 frames"),
    "two series": (_other_series, "2 series"),
    "a huge number": (_huge_number, "expected nearly all"),
    "two sounds": (_second_sound, r"ambiguous sound: clip/camera.flac, clip.wav"),
    "no sound": (_no_sound, "no sound: expected clip.wav"),
    "torn sound": (_torn_sound, "sound cannot be read"),
    "long sound": (_long_sound, "would be 1.50 fps"),
}


@pytest.mark.parametrize("kind", SPOILS)
def test_what_cannot_be_used_is_the_clip_s_fault(tmp_path: Path, dancer: np.ndarray, kind: str) -> None:
    spoil, reason = SPOILS[kind]
    spoil(write_clip(tmp_path, "clip", dancer))
    with pytest.raises(ClipError, match=reason):
        only(OpenPoseAudio(tmp_path))


def test_the_sound_may_lie_inside_and_the_same_sound_makes_a_group(
    tmp_path: Path, dancer: np.ndarray
) -> None:
    inside = write_clip(tmp_path, "a", dancer)
    (tmp_path / "a.wav").rename(inside / "music.wav")
    write_clip(tmp_path, "b", dancer)
    (tmp_path / "b.wav").write_bytes((inside / "music.wav").read_bytes())
    write_clip(tmp_path, "c", dancer)
    source = OpenPoseAudio(tmp_path)
    a, b, c = source.refs()
    assert a.group_id == b.group_id != c.group_id
    np.testing.assert_array_equal(source.load(a).audio, source.load(b).audio)


def test_what_is_missing_is_listed_without_loading(tmp_path: Path, dancer: np.ndarray) -> None:
    frame_file(write_clip(tmp_path, "gap", dancer), 5).unlink()
    _no_sound(write_clip(tmp_path, "mute", dancer))
    _other_series(write_clip(tmp_path, "series", dancer))
    write_clip(tmp_path, "good", dancer)
    (tmp_path / "empty").mkdir()
    soundfile.write(tmp_path / "lonely.wav", np.zeros(100), 16000)
    found = dict(missing_of(OpenPoseAudio(tmp_path)))
    assert set(found) == {"gap", "mute", "series", "empty", "lonely.wav"}
    assert "1 of 90 frames" in found["gap"] and "no sound" in found["mute"]
    assert "2 series" in found["series"] and "no *_keypoints.json" in found["empty"]


def test_wrong_trees_and_options_are_sentences(tmp_path: Path, dancer: np.ndarray) -> None:
    for root in (None, tmp_path / "gone", tmp_path):
        with pytest.raises(DataError, match="give as root a folder with one folder of OpenPose"):
            OpenPoseAudio(root).refs()
    folder = write_clip(tmp_path, "clip", dancer)
    with pytest.raises(DataError, match="holds frames of its own"):
        OpenPoseAudio(folder).refs()
    for fps in (0, -1, "25", True, float("inf")):
        with pytest.raises(DataError, match="fps is"):
            make_source("openpose_audio", tmp_path, fps=fps)


def test_prepare_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = tmp_path / "raw", tmp_path / "out"
    way = np.linspace(-200, 200, 90)
    for k in range(4):
        write_clip(root, f"duo{k}", walker(500 + way, seed=k), 0.8 * walker(600 - way, seed=k + 9), seed=k)
    leaves, other = 1.1 * walker(np.linspace(500, 900, 120)), walker(np.full(120, 300.0), seed=1)
    leaves[50:] = 0
    write_clip(root, "leaves", leaves, other)
    for kind in ("torn", "coco", "nobody"):
        SPOILS[kind][0](write_clip(root, kind, walker(np.full(90, 300.0))))
    arguments = ["prepare", "--source", "openpose_audio", "--root", str(root), "--out", str(out), "--no-ray"]
    assert main([*arguments, "max_rejected=0.5", "fractions=[0.6, 0.2, 0.2]"]) == 0
    said = capsys.readouterr().out
    assert "3 clips rejected" in said and "fps, derived: 90 frames" in said
    assert said.index("at frame 50 another person") < said.index("fps, derived"), (
        "what one clip has comes first"
    )
    manifest = Manifest.load(out)
    assert set(manifest.clips["clip_id"].to_pylist()) == {"duo0", "duo1", "duo2", "duo3", "leaves"}
    assert {line["clip_id"] for line in manifest.rejected()} == {"torn", "coco", "nobody"}
    notes = [line["note"] for line in manifest.notes() if line["clip_id"] == "leaves"]
    assert len(notes) == 2 and "at frame 50 another person" in notes[1]
    fps = [
        value
        for shard in manifest.content["shards"]
        for value in pq.read_table(out / shard["file"])["fps"].to_pylist()
    ]
    np.testing.assert_allclose(fps, 30.0)
