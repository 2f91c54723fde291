"""Checkpoints are committed whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from momu_dist.errors import CheckpointError
from momu_dist.train.checkpoint import CheckpointStore


def state_of(step: int) -> dict[str, Any]:
    return {"step": step, "plan": "p", "strategy": "local", "world_size": 1}


def save(store: CheckpointStore, step: int) -> Path:
    return store.save(step, state_of(step), lambda folder: (folder / "part").write_text(str(step)) and None)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep_last=2)


def test_nothing_there(store: CheckpointStore) -> None:
    assert store.latest() is None and store.latest_step() == 0


def test_newest_wins_by_number_and_not_by_age(store: CheckpointStore) -> None:
    for step in (900, 1000):
        save(store, step)
    assert store.latest_step() == 1000
    newest = store.latest()
    assert (
        newest is not None and (newest / "part").read_text() == "1000" and store.state(newest)["step"] == 1000
    )


def test_only_the_last_are_kept(store: CheckpointStore) -> None:
    for step in range(1, 6):
        save(store, step)
    assert [path.name for path in sorted(store.folder.iterdir())] == ["step-000000004", "step-000000005"]


def test_a_torn_write_is_not_a_checkpoint(store: CheckpointStore) -> None:
    good = save(store, 1)

    def dies(folder: Path) -> None:
        (folder / "part").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.save(2, state_of(2), dies)
    assert (store.folder / ".writing-000000002").is_dir()
    assert store.latest() == good
    again = save(store, 2)  # the same step once more, over what was left
    assert store.latest() == again and not list(store.folder.glob(".writing*"))


def test_a_folder_without_its_state_is_not_a_checkpoint(store: CheckpointStore) -> None:
    good = save(store, 1)
    (store.folder / "step-000000002").mkdir()
    assert store.latest() == good


def test_the_same_step_again_replaces_the_first(store: CheckpointStore) -> None:
    save(store, 3)
    store.save(3, {**state_of(3), "again": True}, lambda folder: None)
    newest = store.latest()
    assert newest is not None and store.state(newest)["again"] and not (newest / "part").exists()


def test_a_state_that_cannot_be_read_says_what_to_delete(store: CheckpointStore) -> None:
    save(store, 1)
    torn = save(store, 2)
    (torn / "state.json").write_text('{"step"')
    with pytest.raises(CheckpointError, match="delete .*step-000000002 to fall back"):
        store.latest_step()


@pytest.mark.parametrize("text", ["{}", "[]", "null"])
def test_a_state_that_lacks_something_is_one_sentence(store: CheckpointStore, text: str) -> None:
    torn = save(store, 1)
    (torn / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"state\.json cannot be read"):
        store.latest_step()


def test_a_changed_file_is_found(store: CheckpointStore) -> None:
    checkpoint = save(store, 1)
    store.verify(checkpoint)
    (checkpoint / "part").write_text("2")
    with pytest.raises(CheckpointError, match=r"part is not what was written.* delete"):
        store.verify(checkpoint)
    (checkpoint / "part").unlink()
    with pytest.raises(CheckpointError, match="part is not what was written"):
        store.verify(checkpoint)


@pytest.mark.parametrize("wrong", [{"step": "x"}, {"files": None}])
def test_a_state_with_other_types_is_one_sentence(store: CheckpointStore, wrong: dict[str, Any]) -> None:
    torn = save(store, 1)
    path = torn / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **wrong}))
    with pytest.raises(CheckpointError, match=r"state\.json cannot be read .*delete"):
        store.latest_step()
