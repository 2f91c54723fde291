"""Checkpoints count whole or not at all; the newest that is what was written is the one a run goes on from."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from momu_dist.errors import CheckpointError, DiskError, Superseded
from momu_dist.train import store as module
from momu_dist.train.checkpoint import derived_folder, verified
from momu_dist.train.store import CheckpointStore, Retention


def save(store: CheckpointStore, step: int, value: float | None = None, text: str | None = None) -> Path:
    """Save step `step` whose parts say `text` (the step's number), and wait for it."""
    content = (text or str(step)).encode()
    files = {"part": content, "inner/part": memoryview(content * 50)}
    store.save(
        step, {"plan": "p", "validation": value}, files, lambda folder: export(folder, content.decode())
    )
    store.wait()
    return store.path_of(step)


def export(folder: Path, text: str) -> None:
    (folder / "export").mkdir()
    (folder / "export" / "model.json").write_text(text)


def newest(store: CheckpointStore) -> Path | None:
    found = store.newest()
    return None if found is None else found.folder


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, told: list[str]) -> CheckpointStore:
    made = CheckpointStore(tmp_path / "checkpoints", Retention(last=2), told.append)
    assert made.begin() is None
    return made


def test_nothing_there(store: CheckpointStore) -> None:
    assert store.newest() is None


def test_newest_wins_by_number_and_not_by_age(store: CheckpointStore) -> None:
    for step in (900, 1000):
        save(store, step)
    found = store.newest()
    assert found is not None and found.step == 1000 and found.world_size == 1
    assert (found.folder / "part").read_text() == "1000" and found.state["plan"] == "p"
    assert (found.export / "model.json").read_text() == "1000"


def test_only_the_last_are_kept(store: CheckpointStore) -> None:
    for step in range(1, 6):
        save(store, step)
    assert names(store) == ["step-000000004", "step-000000005"]


def test_the_best_are_kept_besides(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, Retention(last=1, best=2))
    for step, value in enumerate((0.3, 0.1, None, 0.2, float("nan"), 0.4), start=1):
        save(store, step, value)
    assert [name[-1] for name in names(store)] == ["2", "4", "6"]


def test_what_was_made_from_a_checkpoint_goes_with_it(store: CheckpointStore) -> None:
    made = [derived_folder(save(store, step), "universal") for step in (1, 2)]
    for folder in made:
        folder.mkdir()
    save(store, 3)
    assert [folder.exists() for folder in made] == [False, True]


def test_saving_does_not_wait_for_the_disk(store: CheckpointStore) -> None:
    good, slow = save(store, 1), threading.Event()
    store.save(2, {}, {"part": b"2"}, lambda folder: slow.wait(30) and None)
    assert newest(store) == good, "what is not committed does not count"
    slow.set()
    store.wait()
    assert newest(store) == store.path_of(2)


@pytest.mark.parametrize("cut", ["in a file", "before the receipt", "before the commit"])
def test_a_write_that_breaks_off_is_not_a_checkpoint(
    store: CheckpointStore, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = save(store, 1)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    if cut == "in a file":
        monkeypatch.setattr(module.os, "fsync", dies)
    elif cut == "before the commit":
        monkeypatch.setattr(CheckpointStore, "_commit", dies)
    store.save(2, {}, {"part": b"2"}, dies if cut == "before the receipt" else lambda folder: None)
    with pytest.raises(KeyboardInterrupt):
        store.wait()
    assert list(store.folder.glob(".writing-000000002-*")) and newest(store) == good
    monkeypatch.undo()
    again = CheckpointStore(store.folder, store.retention)
    begun = again.begin()
    assert begun is not None and begun.folder == good
    assert save(again, 2) == newest(again) and names(again) == ["step-000000001", "step-000000002"]


def test_what_goes_wrong_while_writing_is_raised_by_the_next_call(store: CheckpointStore) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    store.save(1, {}, {}, full)
    with pytest.raises(OSError, match="No space"):
        store.save(2, {}, {})
    assert store.newest() is None


def test_rank_0_commits_when_every_worker_has_left_its_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "world_size", lambda: 2)
    store = CheckpointStore(tmp_path, Retention(2))
    monkeypatch.setattr(module, "rank", lambda: 1)
    other = CheckpointStore(tmp_path, Retention(2))
    store.save(1, {}, {"part-0": b"0"})
    assert store.newest() is None
    other.save(1, {}, {"part-1": b"1"})
    other.wait()
    store.wait()
    found = store.newest()
    assert found is not None and found.world_size == 2
    assert sorted(path.name for path in found.folder.iterdir()) == ["part-0", "part-1", "state.json"]


def test_a_worker_that_never_writes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "world_size", lambda: 3)
    store = CheckpointStore(tmp_path, Retention(2))
    monkeypatch.setattr(module, "COMMIT_TIMEOUT_S", 0.1)
    store.save(1, {}, {})
    with pytest.raises(CheckpointError, match=r"workers \[1, 2\] did not write"):
        store.wait()


def test_the_same_step_again_replaces_only_what_is_torn(store: CheckpointStore) -> None:
    save(store, 3)
    assert (save(store, 3, text="again") / "part").read_text() == "3"
    (store.path_of(3) / "part").write_text("torn")
    assert (save(store, 3, text="again") / "part").read_text() == "again"


def test_a_copy_beside_the_checkpoints_is_no_checkpoint(store: CheckpointStore, told: list[str]) -> None:
    good = save(store, 200)
    shutil.copytree(good, copy := good.with_name(f"{good.name}.bak"))
    assert newest(store) == good and store.begin() is not None
    save(store, 201)
    save(store, 202)
    assert copy.is_dir() and not told


def test_a_kill_in_the_dropping_leaves_nothing(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "rmtree", lambda *a, **k: None)  # as if the kill came before it
    for step in (1, 2, 3):
        save(store, step)
    monkeypatch.undo()
    assert [name[:9] for name in names(store)] == [".dropped-", "step-0000", "step-0000"]
    store.begin()
    assert names(store) == ["step-000000002", "step-000000003"]


def test_a_folder_that_is_torn_is_put_aside_and_dropped_later(
    store: CheckpointStore, told: list[str]
) -> None:
    good = save(store, 1)
    (save(store, 2) / "part").write_text("1")
    begun = store.begin()
    assert begun is not None and begun.folder == good
    assert len(told) == 1 and "part is torn or was changed. step-000000002 is passed over" in told[0]
    assert [name[:6] for name in names(store)] == [".torn-", "step-0"]
    save(store, 2)
    assert names(store) == ["step-000000001", "step-000000002"]


def test_with_all_of_them_torn_nothing_starts_anew_unasked(store: CheckpointStore) -> None:
    for step in (1, 2):
        (save(store, step) / "state.json").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint of 2 in .* is whole.*delete .* to start anew"):
        store.begin()
    assert names(store) == ["step-000000001", "step-000000002"], "nothing was put aside"


def test_a_disk_that_does_not_answer_is_no_torn_checkpoint(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save(store, step)
    opened = Path.open

    def fails(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.name == "part":
            raise OSError(5, "Input/output error")
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", fails)
    with pytest.raises(DiskError, match=r"part cannot be read \(Input/output error\)"):
        store.begin()
    monkeypatch.undo()
    assert newest(store) == store.path_of(2)


def test_an_attempt_that_another_has_followed_writes_no_more(store: CheckpointStore) -> None:
    save(store, 1)
    later = CheckpointStore(store.folder, store.retention)
    later.begin()
    store.save(2, {}, {"part": b"2"})
    with pytest.raises(Superseded, match="another attempt of this run has begun"):
        store.wait()
    assert newest(later) == later.path_of(1)
    save(later, 2)


def test_what_was_made_from_a_checkpoint_that_is_gone_is_swept_up(store: CheckpointStore) -> None:
    kept, left = derived_folder(save(store, 1), "universal"), derived_folder(store.path_of(7), "universal")
    for folder in (kept, left):
        folder.mkdir()
    store.begin()
    assert kept.is_dir() and not left.exists()


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir() if path.name != module.ATTEMPT)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("seed", range(30))
def test_any_damage_to_the_newest_falls_back_to_the_one_before(store: CheckpointStore, seed: int) -> None:
    """A flipped bit, a cut or a lost file anywhere in it, five times a seed."""
    good, hurt = save(store, 1, 0.5), save(store, 2, 0.25)
    whole = store.folder.parent / "whole"
    shutil.copytree(hurt, whole)
    state = verified(hurt).state
    rng = np.random.default_rng(seed)
    for _ in range(5):
        shutil.rmtree(hurt)
        shutil.copytree(whole, hurt)
        path = files_of(hurt)[rng.integers(len(files_of(hurt)))]
        data = bytearray(path.read_bytes())
        kind = rng.choice(["flip", "cut", "lose", "grow"], p=[0.6, 0.2, 0.1, 0.1])
        if kind == "flip":
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        elif kind == "cut":
            data = data[: rng.integers(len(data))]
        elif kind == "grow":
            data += bytes([int(rng.integers(256))])
        path.write_bytes(data)
        if kind == "lose":
            path.unlink()
        found = store.newest()
        assert found is not None
        # White space in the JSON may change without changing what it says.
        harmless = path.name == "state.json" and found.state == state
        assert found.folder == good or harmless, f"{kind} of {path.name} went unnoticed"


@pytest.mark.parametrize(
    "change", [{"step": 3}, {"plan": "q"}, {"files": {}}, {"sha256": "0"}, {"step": "x"}]
)
def test_a_state_that_was_edited_does_not_verify(store: CheckpointStore, change: dict[str, Any]) -> None:
    folder = save(store, 2)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, **change}))
    with pytest.raises(CheckpointError, match="is torn or was changed|is missing"):
        verified(folder)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", "7", "[" * 100_000])
def test_a_state_that_is_none_does_not_verify(store: CheckpointStore, text: str) -> None:
    folder = save(store, 2)
    (folder / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match="is torn or was changed|is missing"):
        verified(folder)


def test_a_checkpoint_under_another_name_does_not_verify(store: CheckpointStore) -> None:
    other = store.path_of(7)
    save(store, 2).rename(other)
    with pytest.raises(CheckpointError, match="of another step"):
        verified(other)


def test_a_folder_that_is_gone_is_not_made_anew(store: CheckpointStore) -> None:
    save(store, 1)
    shutil.rmtree(store.folder)
    store.save(2, {}, {"part": b"2", "inner/part": b"2"})
    with pytest.raises(FileNotFoundError):
        store.wait()
    store.folder.mkdir()

    def deleted(folder: Path) -> None:
        shutil.rmtree(folder)

    store.save(3, {}, {"inner/part": b"3"}, deleted)
    with pytest.raises(FileNotFoundError):
        store.wait()
    assert names(store) == []
