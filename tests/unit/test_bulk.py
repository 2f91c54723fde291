"""Many items without a service: what fails fails alone, and what a kill leaves is gone on with. No Ray here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from momu_dist.bulk import RECORD, BatchMaker, Models, run_bulk
from momu_dist.client.asking import checked_item
from momu_dist.errors import DataError
from momu_dist.inference.request import Request
from momu_dist.serving.making import Made


class Played:
    """A generator whose samples are their seeds; those below 0 guidance are not finite."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.models = type("Played", (), {"origins": {"m2a": "0"}})()

    def prepare(self, request: Request) -> None:
        if request.guidance == 99:
            raise DataError("that cannot be prepared.")

    def generate(self, requests: Sequence[Request]) -> list[int]:
        self.calls.append([request.seed for request in requests])
        if any(request.guidance < 0 for request in requests):
            raise DataError("the sampled music is not finite.")
        return [request.seed for request in requests]


@pytest.fixture()
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    one = Played()
    monkeypatch.setattr("momu_dist.bulk.Generator.load", lambda *_, **__: one)
    monkeypatch.setattr("momu_dist.bulk.encoded", lambda made, *_: Made(json.dumps(made).encode(), "json"))
    return one


@pytest.fixture()
def manifest(tmp_path: Path) -> Callable[..., Path]:
    def write(*items: dict[str, Any]) -> Path:
        path = tmp_path / "items.jsonl"
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
        return path

    return write


def unit(index: int, path: Path, **settings: Any) -> dict[str, Any]:
    return {
        "task": "joint", "settings": {"seconds": 4, "seed": 10 * index, **settings}, "input": None,
        "index": index, "path": str(path / f"{index}.json"),
    }  # fmt: skip


def test_an_item_that_cannot_be_made_fails_alone(played: Played, tmp_path: Path) -> None:
    units = [
        unit(0, tmp_path), unit(1, tmp_path, guidance=-1), unit(2, tmp_path, n=2), unit(3, tmp_path, guidance=99),
    ]  # fmt: skip
    results = BatchMaker(Models(("run",)))(units)
    assert [result["index"] for result in results] == [0, 1, 2, 3]
    said = [result["error"] for result in results]
    assert said == [None, "the sampled music is not finite.", None, "that cannot be prepared."]
    assert {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()} == {
        "0.json": [0], "2.json": [20, 21],
    }  # fmt: skip
    # Together at first; one by one only as one of them failed.
    assert played.calls == [[0, 10, 20, 21], [0], [10], [20, 21]]


def test_a_recipe_lies_beside_a_single_sample(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encoded(made: Sequence[int], format: str, origin: dict[str, Any]) -> Made:
        return Made(b"made", "json", [{"seed": seed, **origin} for seed in made])

    monkeypatch.setattr("momu_dist.bulk.encoded", encoded)
    BatchMaker(Models(("run",)))([unit(1, tmp_path), unit(2, tmp_path, n=2)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.json", "1.recipe.json", "2.json"]
    assert json.loads((tmp_path / "1.recipe.json").read_text()) == {
        "seed": 10, "input": None, "checkpoints": ["run"], "weights": {"m2a": "0"},
    }  # fmt: skip


def test_what_failed_is_named(
    manifest: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(units: Sequence[dict[str, Any]], *_: Any, **__: Any) -> list[dict[str, Any]]:
        return [{"index": one["index"], "error": "it has no beat"} for one in units]

    monkeypatch.setattr("momu_dist.bulk.map_batches", failed)
    monkeypatch.setattr("momu_dist.bulk.ray_session", lambda *_: nullcontext())
    items = manifest({"task": "joint", "seconds": 4, "id": "a"}, {"task": "joint", "seconds": 4})
    outcome = run_bulk(items, tmp_path / "out", Models(("run",)))
    assert outcome.failed == {"item 1 (a)": "it has no beat", "item 2": "it has no beat"}


def test_items_that_can_be_made_share_their_calls(played: Played, tmp_path: Path) -> None:
    results = BatchMaker(Models(("run",)))([unit(i, tmp_path) for i in range(3)])
    assert not any(result["error"] for result in results) and played.calls == [[0, 10, 20]]


def test_an_id_that_is_no_text_is_named(manifest: Callable[..., Path], tmp_path: Path) -> None:
    item = {"task": "joint", "seconds": 4, "id": 7}
    with pytest.raises(DataError, match="item 2 of the batch: its id is 7, expected a text"):
        checked_item(2, item)
    with pytest.raises(DataError, match="its id is 7"):
        run_bulk(manifest(item), tmp_path / "out", Models(("run",)))


def test_a_folder_belongs_to_one_manifest(manifest: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    path = manifest({"task": "joint", "seconds": 4, "id": "a", "format": "npz"})
    (out / "a.npz").write_bytes(b"made before")
    outcome = run_bulk(path, out, Models(("run",)))
    assert (outcome.made, outcome.before, outcome.failed) == (0, 1, {})
    assert sorted(file.name for file in out.iterdir()) == [RECORD, "a.npz"]
    assert run_bulk(path, out, Models(("run",))).before == 1
    for torn in ((out / RECORD).read_bytes()[:20], b"\xff", b"{}"):
        (out / RECORD).write_bytes(torn)
        with pytest.raises(DataError, match="another manifest"):
            run_bulk(path, out, Models(("run",)))


def test_a_record_is_there_whole_or_not_at_all(
    manifest: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full in the middle of it leaves a folder that the next run can begin in."""
    out, write = tmp_path / "out", Path.write_text
    path = manifest({"task": "joint", "seconds": 4, "id": "a", "format": "npz"})

    def half(file: Path, text: str) -> int:
        write(file, text[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", half)
        with pytest.raises(DataError, match="No space left"):
            run_bulk(path, out, Models(("run",)))
    (out / "a.npz").write_bytes(b"made before")
    assert run_bulk(path, out, Models(("run",))).before == 1
