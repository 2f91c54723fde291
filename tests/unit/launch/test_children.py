"""Processes of a job are ended together, by a group that is still theirs."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from momu_dist.launch.children import Child, end_all

STUBBORN = ["bash", "-c", "trap '' TERM; echo ready; while true; do sleep 0.05; done"]


def started(command: list[str]) -> tuple[Child, list[str]]:
    heard: list[str] = []
    return Child("one", command, os.environ, heard.append), heard


def until_ended(child: Child) -> int:
    until = time.monotonic() + 20
    while (code := child.code) is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    return code


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_it_leaves_in_its_group_ends_with_it_and_never_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it has been waited for, its number may belong to a stranger's group."""
    child, heard = started(["bash", "-c", "sleep 600 & echo $!; exit 3"])
    assert until_ended(child) == 3
    left = int(heard[0])
    until = time.monotonic() + 5
    while is_alive(left) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_alive(left)
    for name in ("kill", "killpg"):
        monkeypatch.setattr(os, name, lambda *_: pytest.fail("a number that was given back"))
    child.send(signal.SIGTERM)
    end_all([child], 0.0)
    assert child.code == 3


def test_many_that_do_not_heed_cost_no_more_than_one() -> None:
    children = []
    for _ in range(4):
        child, heard = started(STUBBORN)
        while not heard:
            time.sleep(0.01)
        children.append(child)
    began = time.monotonic()
    end_all(children, 1.0)
    assert time.monotonic() - began < 4.5  # 1 s of patience, 1 s after SIGTERM
    assert [child.code for child in children] == [-signal.SIGKILL] * 4


def test_one_that_ends_by_itself_is_not_hurried() -> None:
    child, _ = started(["bash", "-c", "read; sleep 0.5; exit 4"])
    child.close("stop\n")
    end_all([child], 20.0)
    assert child.code == 4
