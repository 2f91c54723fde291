"""A service that is killed at any moment, again and again, has lost nothing it took on and done nothing twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import momu_dist
from momu_dist.serving.store import Store

KILLS = 36
LIFETIME_S = 1e6

WORKER = """
import os, random, secrets, sys, time
from pathlib import Path
from momu_dist.serving.store import Store

folder, told, chance = Path(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND), random.Random(int(sys.argv[3]))

def tell(*words):  # what a client was answered
    os.write(told, (" ".join(map(str, words)) + "\\n").encode())

store = Store(folder)
while True:
    print("at work", flush=True)
    if chance.random() < 0.05:
        with store.new_file() as path:
            path.write_bytes(content := secrets.token_bytes(1000))
            file = store.add_file(path, 1e6)
        tell("file", file, content.hex())
        tell("job", store.add_job([{"steps": 50, "file": file}] * 3, 1e6))
    if chance.random() < 0.05:
        store.expire()
    item = store.take()
    if item is None:
        time.sleep(0.001)
    elif chance.random() < 0.1:
        store.give_back(item.job, item.index)
    elif item.index % 10 == 9:
        if store.fail(item.job, item.index, error := secrets.token_hex(8)):
            tell("ended", item.job, item.index, error)
    else:
        path = store.temporary()
        path.write_text(content := secrets.token_hex(8))
        if store.finish(item.job, item.index, path, "txt", f"recipe of {content}"):
            tell("ended", item.job, item.index, content)
"""

KILLED_WITHIN = """
import os, signal, sys
from pathlib import Path
from momu_dist.serving.store import Store

store = Store(Path(sys.argv[1]))
item = store.take()
path = store.temporary()
path.write_text("of the killed")
replace = os.replace

def replace_and_die(source, target):
    replace(source, target)
    os.kill(os.getpid(), signal.SIGKILL)

os.replace = replace_and_die
if sys.argv[2] == "finish":
    store.finish(item.job, item.index, path, "txt", "recipe of the killed")
else:
    store.add_file(path, 1e6)
"""


def python(program: str, *arguments: object) -> subprocess.Popen[bytes]:
    """A process without site-packages, which it does not need and which take their time."""
    root = str(Path(momu_dist.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-S", "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the worker ended by itself"
    assert process.stdout is not None
    process.stdout.close()


class Ledger:
    """What was seen of the store so far; whatever is seen later has to agree."""

    def __init__(self, told: Path) -> None:
        self.told = told
        self.ended: dict[tuple[str, int], str] = {}

    def check(self, store: Store) -> None:
        """Every answer that a client had holds, and each item has ended at most once, with one outcome."""
        answers = [line.split() for line in self.told.read_text().splitlines()]
        jobs = [job for kind, job, *_ in answers if kind == "job"]
        for kind, file, *content in answers:
            if kind == "file":
                path = store.file(file)
                assert path is not None
                assert path.read_bytes().hex() == content[0]
        told = [((job, int(rest[0])), rest[1]) for kind, job, *rest in answers if kind == "ended"]
        assert len(told) == len(dict(told)), "an item ended twice"
        now = {key: outcome for job in jobs for key, outcome in self.outcomes(store, job)}
        for key, outcome in [*told, *self.ended.items()]:
            assert now[key] == outcome
        self.ended = now

    def outcomes(self, store: Store, job: str) -> list[tuple[tuple[str, int], str]]:
        items, state = store.items(job, 0, 10_000), store.job(job)
        assert items is not None
        assert state is not None
        assert sum(state.items.values()) == len(items)
        assert {item.state for item in items} <= {"queued", "done", "failed"}
        found = []
        for item in items:
            result = store.result(job, item.index)
            assert (result is not None) == (item.state == "done")
            if result is not None:
                assert result[0].stat().st_size == item.bytes
                assert result[2] == f"recipe of {result[0].read_text()}"
                found.append(((job, item.index), result[0].read_text()))
            elif item.state == "failed":
                found.append(((job, item.index), str(item.error)))
        return found


def test_nothing_is_lost_or_done_twice_by_a_service_that_is_killed_again_and_again(tmp_path: Path) -> None:
    folder, told, chance = tmp_path / "state", tmp_path / "told", random.Random(0)
    store = Store(folder)
    job = store.add_job([{"steps": 50}] * 300, LIFETIME_S)
    store.close()
    told.write_text(f"job {job}\n")
    ledger, killed_at_work = Ledger(told), 0
    for seed in range(KILLS):
        worker = python(WORKER, folder, told, seed)
        if seed % 8 == 0:  # while it starts
            time.sleep(chance.uniform(0, 0.2))
        else:
            assert worker.stdout is not None
            for _ in range(chance.randint(1, 12)):
                assert worker.stdout.readline() == b"at work\n"
            time.sleep(chance.uniform(0, 0.01))
            killed_at_work += 1
        kill(worker)
        store = Store(folder)
        ledger.check(store)
        store.close()
    assert killed_at_work >= 30
    assert len(ledger.ended) > killed_at_work, "the workers did too little to prove anything"

    store = Store(folder)
    while (item := store.take()) is not None:
        assert (item.job, item.index) not in ledger.ended
        assert store.fail(item.job, item.index, "the rest")
    assert store.pending() == 0
    ledger.check(store)
    store.expire()
    files = {line.split()[1] for line in told.read_text().splitlines() if line.startswith("file")}
    assert files <= {path.name for path in (folder / "files").iterdir()}
    store.close()


@pytest.mark.parametrize("suffix", ["txt", "wav"])
def test_a_kill_between_the_name_of_a_result_and_its_row_leaves_the_item_to_be_done(
    tmp_path: Path, suffix: str
) -> None:
    store = Store(tmp_path, lambda: 0.0)
    job = store.add_job([{}], 1.0)
    store.close()
    worker = python(KILLED_WITHIN, tmp_path, "finish")
    worker.wait()
    kill(worker)
    now_s = [0.0]
    store = Store(tmp_path, lambda: now_s[0])
    assert [path.read_text() for path in (tmp_path / "results").rglob("*.txt")] == ["of the killed"]
    assert store.result(job, 0) is None
    item = store.take()
    assert item is not None
    path = store.temporary()
    path.write_text("of the next")
    assert store.finish(item.job, item.index, path, suffix, "recipe of the next")
    found = store.result(job, 0)
    assert found is not None
    assert found[0].read_text() == "of the next" and found[2] == "recipe of the next"
    now_s[0] = 2.0
    assert store.expire() == 1
    assert list((tmp_path / "results").iterdir()) == []
    store.close()


def test_a_kill_between_the_name_of_a_file_and_its_row_leaves_no_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add_job([{}], LIFETIME_S)
    store.close()
    worker = python(KILLED_WITHIN, tmp_path, "add_file")
    worker.wait()
    kill(worker)
    store = Store(tmp_path)
    (left,) = (tmp_path / "files").iterdir()
    assert store.file(left.name) is None
    store.expire()
    assert not left.exists()
    store.close()
