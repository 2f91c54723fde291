"""The models of new requests: aliases are followed, and what cannot be loaded leaves what is there."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from momu_dist.serving.current import Current
from momu_dist.serving.settings import settings_from

LIMIT_S = 20.0
WATCH_S = 7.0


class Registry:
    """An alias that leads to version 1, then, look by look of the watch, where `moves` say; and the versions that were loaded.

    Those in `broken` cannot be. After the last move the watch sleeps for ever, and `over` is set.
    """

    def __init__(self) -> None:
        self.version = 1
        self.moves: list[int] = []
        self.over = threading.Event()
        self.loaded: list[int] = []
        self.broken: dict[int, Exception] = {}

    def sleep(self, seconds: float) -> None:
        assert seconds == WATCH_S
        if not self.moves:
            self.over.set()
            threading.Event().wait()
        self.version = self.moves.pop(0)

    def locate(self, name: str, uri: str | None) -> str:
        return f"models:/m2a/{self.version}" if name.startswith("models:/") else name

    def load(self, *_: Any) -> Any:
        self.loaded.append(self.version)
        if self.version in self.broken:
            raise self.broken[self.version]
        return SimpleNamespace(denoising={}, origins={"m2a": str(self.version)}, device="cpu")


@pytest.fixture()
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    one = Registry()
    monkeypatch.setattr("momu_dist.serving.current.time", SimpleNamespace(sleep=one.sleep))
    monkeypatch.setattr("momu_dist.serving.current.locate", one.locate)
    monkeypatch.setattr("momu_dist.serving.current.resolve", lambda name, _: name)
    monkeypatch.setattr("momu_dist.serving.current.load_models", one.load)
    return one


def current(*checkpoint: str) -> Current:
    return Current(settings_from({"checkpoint": list(checkpoint), "watch_s": WATCH_S, "device": "cpu"}))


def watches() -> int:
    return sum(thread.name == "watch-models" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("moves", "loaded", "at_last"),
    [
        ([1, 1], [1], 1),
        ([3, 3, 4], [1, 3, 4], 4),
        ([2, 2, 2], [1, 2], 1),
        ([2, 1, 1], [1, 2], 1),
        ([2, 1, 3], [1, 2, 3], 3),
        ([2, 3, 3], [1, 2, 3], 3),
    ],
)
def test_an_alias_is_followed_and_a_version_that_cannot_be_loaded_is_tried_once(
    registry: Registry, moves: list[int], loaded: list[int], at_last: int
) -> None:
    registry.broken[2] = KeyError("torn")
    registry.moves = moves
    models = current("models:/m2a@champion")
    assert registry.over.wait(LIMIT_S)
    assert registry.loaded == loaded
    told = models.describe()
    assert (told["weights"], told["versions"]) == ({"m2a": str(at_last)}, [f"models:/m2a/{at_last}"])


def test_what_is_told_of_a_folder_is_its_name(registry: Registry) -> None:
    told = current("/elsewhere/runs/demo", "models:/m2a@champion").describe()
    assert registry.over.wait(LIMIT_S)
    assert told["checkpoint"] == ["demo", "models:/m2a@champion"]
    assert told["versions"] == ["demo", "models:/m2a/1"]


def test_folders_are_not_watched(registry: Registry) -> None:
    before = watches()
    current("/elsewhere/runs/demo")
    assert watches() == before
    current("models:/m2a@champion")
    assert watches() == before + 1 and registry.over.wait(LIMIT_S)
