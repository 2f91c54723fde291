"""BVH and CSV: what comes back from the files, read by a parser of our own that follows the format's rules."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from momu_dist import cli
from momu_dist.core.grid import MEL_RATE_HZ
from momu_dist.core.motion.skeleton import JOINT_NAMES, LIMBS
from momu_dist.errors import DataError
from momu_dist.inference.motion_export import write_bvh, write_csv, write_motion
from momu_dist.inference.motion_io import save_motion_npz


@dataclass
class Joint:
    name: str
    parent: int | None
    offset: list[float] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)


@dataclass
class Bvh:
    joints: list[Joint]
    frame_time_s: float
    rows: np.ndarray

    def positions(self, rotate: bool = True, place: bool = True) -> np.ndarray:
        """World positions (T, J, 3); `place` False ignores the position channels of all but the root."""
        frames = []
        for row in self.rows:
            values = iter(row)
            matrices: list[np.ndarray] = []
            for joint in self.joints:
                given = dict(zip(joint.channels, (next(values) for _ in joint.channels), strict=True))
                local = np.eye(4)
                local[:3, 3] = joint.offset
                if place or joint.parent is None:
                    local[:3, 3] = [given[f"{axis}position"] for axis in "XYZ"]
                if rotate:
                    for channel in joint.channels[3:]:  # in the order of the channels: v' = Z X Y v
                        local[:3, :3] = local[:3, :3] @ turn(channel[0], np.radians(given[channel]))
                above = np.eye(4) if joint.parent is None else matrices[joint.parent]
                matrices.append(above @ local)
            frames.append([matrix[:3, 3] for matrix in matrices])
        return np.array(frames)


def turn(axis: str, angle: float) -> np.ndarray:
    i, j = {"X": (1, 2), "Y": (2, 0), "Z": (0, 1)}[axis]
    out = np.eye(3)
    out[i, i] = out[j, j] = np.cos(angle)
    out[j, i], out[i, j] = np.sin(angle), -np.sin(angle)
    return out


def read_bvh(path: Path) -> Bvh:
    words = path.read_text().split()
    assert words[0] == "HIERARCHY"
    joints: list[Joint] = []
    open_: list[int | None] = [None]
    i, ends = 1, 0
    while words[i] != "MOTION":
        if words[i] in ("ROOT", "JOINT"):
            joints.append(Joint(words[i + 1], open_[-1]))
            assert words[i + 2] == "{"
            open_.append(len(joints) - 1)
            i += 3
        elif words[i] == "End":
            assert words[i : i + 4] == ["End", "Site", "{", "OFFSET"] and words[i + 7] == "}"
            ends += 1
            i += 8
        elif words[i] == "OFFSET":
            joints[-1].offset = [float(word) for word in words[i + 1 : i + 4]]
            i += 4
        elif words[i] == "CHANNELS":
            n = int(words[i + 1])
            joints[-1].channels = words[i + 2 : i + 2 + n]
            i += 2 + n
        else:
            assert words[i] == "}"
            open_.pop()
            i += 1
    assert open_ == [None] and ends == 5, "head, hands and feet end the chains"
    assert words[i + 1] == "Frames:" and words[i + 3 : i + 5] == ["Frame", "Time:"]
    rows = np.array(words[i + 6 :], dtype=float).reshape(int(words[i + 2]), -1)
    assert rows.shape[1] == sum(len(joint.channels) for joint in joints)
    return Bvh(joints, float(words[i + 5]), rows)


def dancer(frames: int = 50) -> np.ndarray:
    """(T, 14, 2) px of somebody who turns around wildly, whose bones change their lengths as bones in pictures do."""
    rng = np.random.default_rng(3)
    motion = np.zeros((frames, 14, 2))
    time = np.arange(frames)[:, None] / 8
    motion[:, 1] = (700, 300) + 40 * np.sin(time + [0.0, 1.0])
    for parent, child in LIMBS:
        angle = rng.uniform(-3, 3) + rng.uniform(-2, 2) * time[:, 0]
        length = 90 + 60 * np.sin(rng.uniform(1, 2) * time[:, 0])
        motion[:, child] = motion[:, parent] + length[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return motion


def in_order(bvh: Bvh, positions: np.ndarray) -> np.ndarray:
    places = [[joint.name for joint in bvh.joints].index(name) for name in JOINT_NAMES]
    return positions[:, places]


def test_positions_come_back_from_bvh(tmp_path: Path) -> None:
    motion = dancer()
    write_bvh(tmp_path / "dance.bvh", motion, 25.0)
    bvh = read_bvh(tmp_path / "dance.bvh")
    assert bvh.frame_time_s == pytest.approx(1 / 25)
    found = in_order(bvh, bvh.positions())
    np.testing.assert_allclose(found[..., 0], motion[..., 0], atol=1e-3)
    np.testing.assert_allclose(found[..., 1], -motion[..., 1], atol=1e-3)  # BVH points up
    np.testing.assert_array_equal(found[..., 2], 0)


def test_the_bvh_is_the_skeleton(tmp_path: Path) -> None:
    write_bvh(tmp_path / "dance.bvh", dancer(), MEL_RATE_HZ)
    bvh = read_bvh(tmp_path / "dance.bvh")
    assert bvh.frame_time_s == pytest.approx(0.016)
    names = [joint.name for joint in bvh.joints]
    assert sorted(names) == sorted(JOINT_NAMES) and names[0] == "Neck"
    limbs = {(names[joint.parent], joint.name) for joint in bvh.joints if joint.parent is not None}
    assert limbs == {(JOINT_NAMES[a], JOINT_NAMES[b]) for a, b in LIMBS}
    for joint in bvh.joints:
        assert len(joint.channels) == 6 and {c[0] for c in joint.channels} == set("XYZ")


def test_rotations_alone_turn_the_bones_of_a_rigid_dancer(tmp_path: Path) -> None:
    """For programs that read positions at the root only: with constant lengths nothing is missing but shoulders' play."""
    motion = dancer()
    lengths = np.linspace(60, 150, len(LIMBS))
    rigid = motion.copy()
    for (parent, child), length in zip(LIMBS, lengths, strict=True):
        bone = motion[:, child] - motion[:, parent]
        rigid[:, child] = rigid[:, parent] + bone / np.linalg.norm(bone, axis=1, keepdims=True) * length
    write_bvh(tmp_path / "rigid.bvh", rigid, 25.0)
    bvh = read_bvh(tmp_path / "rigid.bvh")
    turned = in_order(bvh, bvh.positions(place=False))[..., :2] * (1, -1)
    for parent, child in LIMBS:
        if parent == 1:
            continue  # the neck is one joint with five bones, which turn with the trunk
        np.testing.assert_allclose(
            turned[:, child] - turned[:, parent], rigid[:, child] - rigid[:, parent], atol=1e-3
        )


def test_no_limb_turns_once_around_between_frames(tmp_path: Path) -> None:
    write_bvh(tmp_path / "dance.bvh", dancer(200), 25.0)
    bvh = read_bvh(tmp_path / "dance.bvh")
    angles = bvh.rows.reshape(200, 14, 6)[:, :, 3]
    assert np.abs(np.diff(angles, axis=0)).max() < 180


def test_the_rest_pose_is_upright_and_faces_the_viewer(tmp_path: Path) -> None:
    write_bvh(tmp_path / "dance.bvh", dancer(), 25.0)
    bvh = read_bvh(tmp_path / "dance.bvh")
    bvh.rows = np.zeros_like(bvh.rows[:1])
    offsets = Bvh(bvh.joints, 1.0, bvh.rows).positions(rotate=False, place=False)
    x, y = in_order(bvh, offsets)[0, :, :2].T
    at = {name: i for i, name in enumerate(JOINT_NAMES)}
    assert y[at["Nose"]] > y[at["Neck"]] > y[at["RHip"]] > y[at["RKnee"]] > y[at["RAnkle"]]
    assert x[at["RWrist"]] < x[at["RShoulder"]] < 0 < x[at["LShoulder"]] < x[at["LWrist"]]


@pytest.mark.parametrize(("rate_hz", "first_s"), [(MEL_RATE_HZ, 0.008), (25.0, 0.0)])
def test_positions_come_back_from_csv(rate_hz: float, first_s: float, tmp_path: Path) -> None:
    motion = dancer()
    write_csv(tmp_path / "dance.csv", motion, rate_hz)
    with (tmp_path / "dance.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["time_s", *(f"{name}_{axis}" for name in JOINT_NAMES for axis in "xy")]
    times = [float(row["time_s"]) for row in rows]
    np.testing.assert_allclose(times, first_s + np.arange(50) / rate_hz, atol=1e-6)
    for j, name in enumerate(JOINT_NAMES):
        np.testing.assert_allclose([float(row[f"{name}_x"]) for row in rows], motion[:, j, 0], atol=1e-3)
        np.testing.assert_allclose([float(row[f"{name}_y"]) for row in rows], -motion[:, j, 1], atol=1e-3)


def test_joints_in_one_point_and_a_single_frame_are_written(tmp_path: Path) -> None:
    write_bvh(tmp_path / "point.bvh", np.full((1, 14, 2), 5.0), 25.0)
    bvh = read_bvh(tmp_path / "point.bvh")
    np.testing.assert_allclose(bvh.positions(), np.broadcast_to([5.0, -5.0, 0.0], (1, 14, 3)), atol=1e-6)


@pytest.mark.parametrize("kind", ["bvh", "csv"])
def test_what_cannot_be_exported_is_a_sentence(kind: str, tmp_path: Path) -> None:
    gap = dancer()
    gap[3, 4] = np.nan
    cases = {
        "shape": (dancer()[:, :13], 25.0),
        "T >= 1": (dancer()[:0], 25.0),
        "gaps": (gap, 25.0),
        "0 Hz": (dancer(), 0),
    }
    for sentence, (motion, rate_hz) in cases.items():
        with pytest.raises(DataError, match=sentence):
            write_motion(tmp_path / "x", motion, rate_hz, kind)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_the_command_writes_beside_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    motion = dancer()
    save_motion_npz(tmp_path / "dance.npz", motion, 25.0)
    for kind in ("bvh", "csv"):
        assert cli.main(["export-motion", str(tmp_path / "dance.npz"), "--to", kind]) == 0
        assert str(tmp_path / f"dance.{kind}") in capsys.readouterr().out
    bvh = read_bvh(tmp_path / "dance.bvh")
    np.testing.assert_allclose(in_order(bvh, bvh.positions())[..., 0], motion[..., 0], atol=1e-3)
    assert cli.main(["export-motion", str(tmp_path / "none.npz"), "--to", "bvh"]) == 2
    assert "does not exist" in capsys.readouterr().err
