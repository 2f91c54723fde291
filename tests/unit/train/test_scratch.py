"""Folders of jobs on a node's own disk: their length, and whose they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from momu_dist.train.scratch import excess, node_folder, sweep, take


@pytest.mark.parametrize(("uid", "longest"), [(0, 26), (1000, 23), (1234567890, 17)])
def test_the_longest_scratch_depends_on_the_users_number(
    monkeypatch: pytest.MonkeyPatch, uid: int, longest: int
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: uid)
    scratch = "/" + "x" * (longest - 1)
    assert excess(scratch) == 0 and excess(f"{scratch}xyz") == 3
    assert (
        len(node_folder(scratch, 123_456_789))
        + len("/session_2026-10-28_14-37-28_123456_1234567/sockets/plasma_store")
        == 107
    )


def test_a_folder_is_its_makers_until_he_is_gone(tmp_path: Path) -> None:
    folder = Path(node_folder(str(tmp_path), 7))
    program = "import sys, time; from pathlib import Path; from momu_dist.train.scratch import take\n"
    program += "kept = take(Path(sys.argv[1]), 'n1'); print('taken', flush=True); time.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", program, folder],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    ) as maker:
        assert maker.stdout is not None and maker.stdout.readline() == "taken\n"
        assert folder.stat().st_mode & 0o777 == 0o700
        sweep(tmp_path, "n1")
        assert folder.is_dir()
        with pytest.raises(FileExistsError):
            take(folder, "n1")
        maker.send_signal(signal.SIGKILL)
    sweep(tmp_path, "n2")
    assert folder.is_dir()  # of another node that shares the disk, and may be alive
    sweep(tmp_path, "n1")
    assert not folder.exists()


@pytest.mark.parametrize("text", [b"\xff", b"n1" * 10**6, b""])
def test_what_somebody_wrote_in_place_of_a_nodes_name_stops_no_start(tmp_path: Path, text: bytes) -> None:
    strange, left = (Path(node_folder(str(tmp_path), word)) for word in ("a", "b"))
    take(strange, "n1").close()
    (strange / "node").write_bytes(text)
    take(left, "n1").close()
    sweep(tmp_path, "n1")
    assert strange.is_dir() and not left.exists()


def test_nothing_of_another_user_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = Path(node_folder(str(tmp_path), 7))
    take(left, "n1").close()
    usual, opened = Path.lstat, []

    def theirs(path: Path) -> os.stat_result:
        found = list(usual(path))
        found[4] += path.name == "node"  # st_uid
        return os.stat_result(found)

    monkeypatch.setattr(Path, "lstat", theirs)
    monkeypatch.setattr(Path, "open", lambda *arguments: opened.append(arguments))
    sweep(tmp_path, "n1")
    assert left.is_dir() and not opened


def test_what_is_not_a_jobs_folder_is_left_alone(tmp_path: Path) -> None:
    new, other = tmp_path / f"momu-{os.getuid()}-8", tmp_path / "momu-doctor-x"
    for folder in (new, other):  # the first is just being made
        folder.mkdir()
    sweep(tmp_path, "n1")
    assert new.is_dir() and other.is_dir()
