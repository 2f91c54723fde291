from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from momu_dist.core.motion.skeleton import coco17_to_14
from momu_dist.errors import DataError
from momu_dist.inference.motion_io import read_motion, save_motion_npz, write_openpose_json


@pytest.fixture()
def motion() -> np.ndarray:
    motion = np.random.default_rng(0).uniform(0, 500, (6, 14, 2))
    motion[2, 4] = np.nan  # a wrist that is not seen for a moment
    return motion


@pytest.fixture()
def conf() -> np.ndarray:
    conf = np.random.default_rng(1).uniform(0.2, 1, (6, 14))
    conf[3, 7] = 0.0
    return conf


def openpose_frame(*people: np.ndarray) -> str:
    return json.dumps(
        {"version": 1.3, "people": [{"pose_keypoints_2d": person.ravel().tolist()} for person in people]}
    )


def missing(motion: np.ndarray, conf: np.ndarray) -> np.ndarray:
    return ~np.isfinite(motion).all(axis=2) | (conf <= 0)


@pytest.mark.parametrize("kind", ["npz", "json"])
def test_what_we_write_comes_back(kind: str, motion: np.ndarray, conf: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / f"clip.{kind}"
    (save_motion_npz if kind == "npz" else write_openpose_json)(path, motion, 62.5, conf)
    read, read_conf, fps = read_motion(path)
    gone = missing(motion, conf)
    assert fps == 62.5
    np.testing.assert_allclose(read[~gone], motion[~gone], atol=0.0006)
    np.testing.assert_allclose(read_conf[~gone], conf[~gone], atol=0.0006)
    assert np.isnan(read[gone]).all() and not read_conf[gone].any()


def test_the_json_is_openpose_frames_with_the_rest_undetected(motion: np.ndarray, tmp_path: Path) -> None:
    write_openpose_json(tmp_path / "clip.json", motion, 62.5)
    content = json.loads((tmp_path / "clip.json").read_text())
    assert content["rate_hz"] == 62.5 and len(content["frames"]) == len(motion)
    for frame in content["frames"]:
        assert frame["version"] == 1.3
        (person,) = frame["people"]
        assert len(person["pose_keypoints_2d"]) == 75
    body = np.reshape(content["frames"][2]["people"][0]["pose_keypoints_2d"], (25, 3))
    assert not body[[4, 8, *range(15, 25)]].any(), "missing wrist, mid-hip, face and feet are 0, 0, 0"
    np.testing.assert_allclose(
        body[9], [*motion[2, 8], 1.0], atol=0.0006
    )  # RHip is 9 of BODY_25, 8 of the 14


def test_a_folder_of_openpose_files_stands_at_its_numbers(tmp_path: Path) -> None:
    people = np.random.default_rng(0).uniform(1, 100, (4, 25, 3))
    people[..., 2] = 0.9
    for i in (3, 0):
        (tmp_path / f"clip_{i:012d}_keypoints.json").write_text(openpose_frame(people[i]))
    (tmp_path / "clip_000000000001_keypoints.json").write_text(openpose_frame())
    motion, conf, fps = read_motion(tmp_path, fps=30)
    assert fps == 30 and len(motion) == 4
    np.testing.assert_allclose(motion[[0, 3], 8], people[[0, 3], 9, :2])
    assert np.isnan(motion[1:3]).all() and not conf[1:3].any(), "no people, and no file, are gaps"


def test_one_person_is_followed_among_several(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The dancer, first the largest; a bystander who is detected more surely now and then is never taken."""
    pose = np.random.default_rng(0).uniform(0, 400, (25, 2))
    dancer = np.dstack([pose + 3 * np.arange(12)[:, None, None], np.full((12, 25), 0.6)])
    bystander = np.dstack(
        [np.repeat(pose[None] / 3 + 900, 12, 0), np.tile(np.where(np.arange(12) % 3, 0.3, 0.9)[:, None], 25)]
    )
    for i in range(12):
        order = [dancer[i], bystander[i]][:: 1 if i % 2 else -1]
        (tmp_path / f"clip_{i:012d}_keypoints.json").write_text(openpose_frame(*order))
    motion, _, _ = read_motion(tmp_path, fps=30)
    np.testing.assert_allclose(motion[:, 8], dancer[:, 9, :2])
    assert "changes" not in caplog.text


def test_text_and_devices_are_called_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("hello, this is text")
    with pytest.raises(DataError, match="begins with b'hello,'") as caught:
        read_motion(tmp_path / "text.npz")
    assert "pickled" not in str(caught.value)
    with pytest.raises(DataError, match="/dev/null is a device or a pipe"):
        read_motion("/dev/null")


@pytest.mark.parametrize("joints", [25, 17, 14])
def test_arrays_of_each_skeleton(joints: int, tmp_path: Path) -> None:
    array = np.random.default_rng(0).uniform(1, 100, (5, joints, 3))
    np.save(tmp_path / "clip.npy", array)
    motion, conf, _ = read_motion(tmp_path / "clip.npy", fps=25)
    expected = {25: lambda a: a[:, [*range(8), *range(9, 15)]], 17: coco17_to_14, 14: lambda a: a}[joints](
        array
    )
    np.testing.assert_allclose(np.concatenate([motion, conf[..., None]], 2), expected)


def test_an_array_without_confidence_has_one_where_finite(motion: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "clip.npy", motion)
    _, conf, _ = read_motion(tmp_path / "clip.npy", fps=25)
    np.testing.assert_array_equal(conf, np.isfinite(motion).all(axis=2))


def test_a_given_rate_overrules_the_file(motion: np.ndarray, tmp_path: Path) -> None:
    save_motion_npz(tmp_path / "clip.npz", motion, 62.5)
    assert read_motion(tmp_path / "clip.npz", fps=30).fps == 30


def test_a_rate_is_asked_for_where_none_is_written(motion: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "clip.npy", motion)
    with pytest.raises(DataError, match="does not say its frame rate"):
        read_motion(tmp_path / "clip.npy")
    with pytest.raises(DataError, match="frame rate of 0 Hz"):
        read_motion(tmp_path / "clip.npy", fps=0)


def _npy(array: np.ndarray, allow_pickle: bool = False):
    return lambda path: np.save(path, array, allow_pickle=allow_pickle)


def _text(text: str):
    return lambda path: path.write_text(text)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.npy", _npy(np.zeros((5, 13, 2))), r"shape \(5, 13, 2\)"),
        ("a.npy", _npy(np.zeros((1, 14, 3))), "1 frames, expected at least two"),
        ("a.npy", _npy(np.zeros((5, 14, 3))), "no joint that was ever detected"),
        ("a.npy", _npy(np.full((5, 14, 2), np.nan)), "no joint that was ever detected"),
        ("a.npy", _npy(np.array([{"a": 1}]), allow_pickle=True), "no plain NumPy file"),
        ("a.npy", _text("letter"), "no plain NumPy file"),
        ("a.npz", _text("letter"), "no plain NumPy file"),
        ("a.npz", lambda path: np.savez(path, poses=np.zeros(3)), "lacks conf, motion_px, rate_hz"),
        ("a.json", _text("letter"), "is not JSON"),
        ("a.json", _text('{"people": []}'), "is not a clip"),
        ("a.json", _text('[{"persons": []}]'), "frame 0 is no OpenPose frame"),
        ("a.json", _text('[{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}]'), "75 numbers of BODY_25"),
        ("a.json", _text("[]"), "0 frames, expected at least two"),
        ("a.bvh", _text("HIERARCHY"), "ends in '.bvh'"),
    ],
)
def test_what_is_no_motion_is_said_in_one_sentence(name: str, write, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(DataError, match=message) as error:
        read_motion(path, fps=25)
    assert str(path) in str(error.value) and "expected" in str(error.value)


def test_missing_path_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_motion(tmp_path / "no.npz")
    with pytest.raises(DataError, match=r"holds no \.json files"):
        read_motion(tmp_path)


def test_wrong_shapes_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        save_motion_npz(tmp_path / "a.npz", np.zeros((5, 13, 2)), 62.5)
    with pytest.raises(DataError, match="cannot be written"):
        write_openpose_json(tmp_path / "a.json", np.zeros((5, 14, 2)), 62.5, np.ones((4, 14)))


@pytest.mark.parametrize("rate", [True, "25", [25.0], 0, 1e-9, 1e9, -1.0, float("inf"), 10**400])
def test_a_rate_that_is_no_positive_number_is_a_sentence(
    rate: object, motion: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "clip.json"
    write_openpose_json(path, motion, 62.5)
    path.write_text(json.dumps({**json.loads(path.read_text()), "rate_hz": rate}))
    with pytest.raises(DataError, match=r"frame rate|not JSON"):
        read_motion(path)


@pytest.mark.parametrize(
    "rate", [np.array([25.0]), np.array("25"), np.array(25 + 1j), np.array(True), np.array(0.0)]
)
def test_an_npz_rate_that_is_no_positive_number_is_a_sentence(
    rate: np.ndarray, motion: np.ndarray, tmp_path: Path
) -> None:
    np.savez(tmp_path / "clip.npz", motion_px=motion, conf=np.ones((6, 14)), rate_hz=rate)
    with pytest.raises(DataError, match="frame rate") as caught:
        read_motion(tmp_path / "clip.npz")
    assert "np." not in str(caught.value)


def test_arrays_that_hold_no_real_numbers_are_sentences(motion: np.ndarray, tmp_path: Path) -> None:
    for kind in (str, complex, bool):
        np.savez(tmp_path / "a.npz", motion_px=motion.astype(kind), conf=np.ones((6, 14)), rate_hz=25.0)
        with pytest.raises(DataError, match="real numbers"):
            read_motion(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", motion.astype(object), allow_pickle=True)
    with pytest.raises(DataError, match="pickled objects") as caught:
        read_motion(tmp_path / "a.npy", 25)
    assert "allow_pickle" not in str(caught.value)


def test_json_of_endless_depth_or_length_is_a_sentence(tmp_path: Path) -> None:
    for text in ("[" * 100_000, "9" * 10_000):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(DataError, match="not JSON") as caught:
            read_motion(tmp_path / "a.json", 25)
        assert "sys." not in str(caught.value) and "recursion" not in str(caught.value)


def test_an_array_larger_than_any_memory_is_a_sentence(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**14, 14, 2)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(DataError, match="it says it holds more than can be read"):
        read_motion(tmp_path / "a.npy", 25)


def test_a_byte_order_mark_before_json_is_passed_over(motion: np.ndarray, tmp_path: Path) -> None:
    write_openpose_json(tmp_path / "a.json", motion, 62.5)
    (tmp_path / "a.json").write_text((tmp_path / "a.json").read_text(), encoding="utf-8-sig")
    assert len(read_motion(tmp_path / "a.json").motion_px) == len(motion)
