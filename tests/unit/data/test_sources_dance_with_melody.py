"""Dance with Melody on small trees of its form: time base, joints, views, groups, wrong trees."""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from momu_dist.data.manifest import REJECTED
from momu_dist.data.prepare import PrepareOptions, prepare
from momu_dist.data.sources import make_source
from momu_dist.data.sources.dance_with_melody import DanceWithMelody, project
from momu_dist.errors import ClipError, DataError

LENGTH, START, END = 100, 50, 152  # frames of motion; positions in the song, 25 a second


def write_dance(folder: Path, song: int, length: int = LENGTH) -> None:
    """A person of height 160 who stands, turned to +z, and moves along x by one unit a frame."""
    folder.mkdir(parents=True)
    skeletons = np.zeros((length, 23, 3))
    skeletons[:, [0, 1], 1] = 80
    skeletons[:, [3, 12], 1] = 60
    skeletons[:, [3, 4, 6, 7, 8, 9], 0] = -15
    skeletons[:, [12, 13, 15, 16, 17, 18], 0] = 15
    skeletons[:, [9, 18], 1] = -80
    centre = np.zeros((length, 3))
    centre[:, 0] = np.arange(length)
    content = {"length": length, "skeletons": skeletons.tolist(), "center": centre.tolist()}
    (folder / "skeletons.json").write_text(json.dumps(content))
    (folder / "config.json").write_text(json.dumps({"start_position": START, "end_position": END}))
    ramp = np.arange(10 * 16000) / 160000 * (0.5 + 0.1 * song)  # the sample says at which time it lies
    soundfile.write(folder / "audio.mp3", ramp.astype(np.float32), 16000, format="WAV", subtype="FLOAT")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_dance(tmp_path / "DANCE_W_1", song=1)
    write_dance(tmp_path / "DANCE_W_2", song=1)
    write_dance(tmp_path / "DANCE_C_1", song=2)
    write_dance(tmp_path / "DANCE_T_1", song=3)
    (tmp_path / "DANCE_T_1" / "skeletons.json").unlink()
    return tmp_path


def test_views_and_dances_to_one_song_share_a_group_and_incomplete_folders_are_named(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = DanceWithMelody(tree, azimuths=[0, 90])
    refs = source.refs()
    assert [ref.clip_id for ref in refs[:2]] == ["DANCE_C_1_az0", "DANCE_C_1_az90"]
    assert len(refs) == 6
    (told,) = caplog.messages
    assert "1 of 4 folders skipped" in told and told.endswith(": DANCE_T_1")
    groups = {ref.locator["folder"]: ref.group_id for ref in refs}
    assert groups["DANCE_W_1"] == groups["DANCE_W_2"] != groups["DANCE_C_1"]
    assert refs[0].end_s == pytest.approx((END - START) / 25)


def test_time_base_spreads_the_frames_over_the_span_of_the_song(tree: Path) -> None:
    source = DanceWithMelody(tree, azimuths=[0])
    record = source.load(source.refs()[0])
    assert record.fps == pytest.approx(25 * LENGTH / (END - START))
    assert len(record.audio) == pytest.approx((END - START) / 25 * 16000, abs=1)
    assert record.audio[0] == pytest.approx(START / 25 / 10 * 0.7, abs=1e-4)
    assert record.motion_px.shape == (LENGTH, 14, 2)


def test_projection_is_upright_scaled_and_seen_from_the_azimuth(tree: Path) -> None:
    source = DanceWithMelody(tree, azimuths=[0, 90])
    front, side = (source.load(ref).motion_px for ref in source.refs()[:2])
    px = 0.87 * 200 / 160
    assert (front[:, 0, 1] < front[:, 10, 1]).all()  # y downwards
    np.testing.assert_allclose(front[:, 10, 1] - front[:, 0, 1], 160 * px, rtol=1e-4)
    np.testing.assert_allclose(np.diff(front[:, 0, 0]), px, rtol=1e-3)
    np.testing.assert_allclose(front[:, 5, 0] - front[:, 2, 0], 30 * px, rtol=1e-4)
    np.testing.assert_allclose(np.ptp(side[..., 0]), 0, atol=1e-3)  # it moves away from this camera
    np.testing.assert_allclose(front.mean(axis=(0, 1)), [250, 200], atol=1e-2)


def test_a_window_is_the_same_part_of_motion_and_song(tree: Path) -> None:
    source = DanceWithMelody(tree, azimuths=[0])
    ref = source.refs()[0]
    whole = source.load(ref)
    part = source.load(type(ref)("w", ref.group_id, 1.0, 3.0, ref.locator))
    first = round(whole.fps)
    np.testing.assert_array_equal(part.motion_px, whole.motion_px[first : first + ceil(2 * whole.fps)])
    assert part.audio[0] == whole.audio[round(first / whole.fps * 16000)]


@pytest.mark.parametrize("kind", ["no root", "no folder", "no dances", "incomplete"])
def test_a_wrong_tree_says_what_to_download_and_where_to_put_it(tmp_path: Path, kind: str) -> None:
    if kind == "incomplete":
        (tmp_path / "DANCE_W_1").mkdir()
    root = None if kind == "no root" else tmp_path / "gone" if kind == "no folder" else tmp_path
    with pytest.raises(DataError, match=r"clone https://github.com/mhy12345/.* as root"):
        DanceWithMelody(root).refs()


def test_a_damaged_skeleton_file_is_the_clip_s_fault(tree: Path) -> None:
    source = DanceWithMelody(tree, azimuths=[0])
    ref = source.refs()[0]
    path = tree / ref.locator["folder"] / "skeletons.json"
    path.write_text(path.read_text()[:1000])
    with pytest.raises(ClipError, match=r"skeletons.json cannot be read"):
        source.load(ref)


CONFIGS = {
    "torn": '{"start_pos',
    "not an object": "[]",
    "no end": '{"start_position": 50}',
    "no number": '{"start_position": 50, "end_position": null}',
    "not finite": '{"start_position": 50, "end_position": NaN}',
    "backwards": '{"start_position": 152, "end_position": 50}',
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_damaged_config_is_the_clip_s_fault(tree: Path, kind: str) -> None:
    source = DanceWithMelody(tree, azimuths=[0])
    before = {ref.clip_id: ref.group_id for ref in source.refs()}
    (tree / "DANCE_C_1" / "config.json").write_text(CONFIGS[kind])
    refs = source.refs()
    assert {ref.clip_id: ref.group_id for ref in refs} == before
    assert refs[0].end_s is None and refs[1].end_s is not None
    with pytest.raises(ClipError, match=r"config\.json"):
        source.load(refs[0])
    source.load(refs[1])


@pytest.mark.parametrize("kind", ["empty", "torn", "unreadable"])
def test_a_damaged_song_is_the_clip_s_fault(tree: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = DanceWithMelody(tree, azimuths=[0, 90])
    song = tree / "DANCE_C_1" / "audio.mp3"
    if kind == "unreadable":
        read = Path.read_bytes

        def refuse(path: Path) -> bytes:
            if path == song:
                raise OSError("Input/output error")
            return read(path)

        monkeypatch.setattr(Path, "read_bytes", refuse)
    else:
        song.write_bytes(b"" if kind == "empty" else song.read_bytes()[:30])
    refs = source.refs()
    assert source.refs() == refs and len(refs) == 6
    assert refs[0].group_id == refs[1].group_id not in {ref.group_id for ref in refs[2:]}
    with pytest.raises(ClipError, match="the song cannot be read"):
        source.load(refs[0])


def test_a_damaged_dance_is_rejected_and_the_rest_prepared(tree: Path, tmp_path: Path) -> None:
    (tree / "DANCE_C_1" / "config.json").write_text("{")
    options = PrepareOptions(max_rejected=0.5)
    manifest = prepare(DanceWithMelody(tree, azimuths=[0]), tmp_path / "out", options, progress=False)
    assert sum(size["clips"] for size in manifest.content["splits"].values()) == 2
    (rejected,) = pq.read_table(tmp_path / "out" / REJECTED).to_pylist()
    assert rejected["clip_id"] == "DANCE_C_1_az0" and "config.json" in rejected["reason"]


def test_a_person_upside_down_is_refused() -> None:
    joints = np.zeros((5, 14, 3))
    joints[:, 0, 1] = -1.0
    with pytest.raises(ClipError, match="expected more than 0"):
        project(joints, 0.0)


def test_wrong_azimuths_and_a_root_that_was_not_given_are_sentences() -> None:
    with pytest.raises(DataError, match="give --root"):
        make_source("dance_with_melody").refs()
    for azimuths in (5, ["north"], [float("nan")]):
        with pytest.raises(DataError, match="dance_with_melody"):
            make_source("dance_with_melody", None, azimuths=azimuths)
