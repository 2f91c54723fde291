"""The models of new requests: aliases are followed, and what cannot be loaded leaves what is there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from momu_dist.serving.current import Current
from momu_dist.serving.settings import settings_from

LIMIT_S = 10.0


class Registry:
    """An alias of which a test says where it leads, and the versions that were loaded; those in `broken` cannot be."""

    def __init__(self) -> None:
        self.version = 1
        self.loaded: list[int] = []
        self.looks = 0
        self.broken: dict[int, Exception] = {}

    def locate(self, name: str, uri: str | None) -> str:
        self.looks += 1
        return f"models:/m2a/{self.version}" if name.startswith("models:/") else name

    def load(self, *_: Any) -> Any:
        self.loaded.append(self.version)
        if self.version in self.broken:
            raise self.broken[self.version]
        return SimpleNamespace(denoising={}, origins={"m2a": str(self.version)}, device="cpu")


@pytest.fixture()
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    one = Registry()
    monkeypatch.setattr("momu_dist.serving.current.locate", one.locate)
    monkeypatch.setattr("momu_dist.serving.current.resolve", lambda name, _: name)
    monkeypatch.setattr("momu_dist.serving.current.load_models", one.load)
    return one


@contextmanager
def current(*checkpoint: str) -> Iterator[Current]:
    models = Current(settings_from({"checkpoint": list(checkpoint), "watch_s": 0.01, "device": "cpu"}))
    yield models
    models.close()


def until(true: Any) -> None:
    end = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.005)


def test_a_version_that_cannot_be_loaded_is_tried_once_and_the_watch_goes_on(registry: Registry) -> None:
    registry.broken[2] = KeyError("torn")
    with current("models:/m2a@champion") as models:
        registry.version = 2
        until(lambda: registry.loaded == [1, 2])
        looks = registry.looks
        until(lambda: registry.looks > looks + 3)
        assert registry.loaded == [1, 2] and models.describe()["weights"] == {"m2a": "1"}
        registry.version = 1
        looks = registry.looks
        until(lambda: registry.looks > looks + 3)
        assert registry.loaded == [1, 2]
        registry.version = 3
        until(lambda: models.describe()["versions"] == ["models:/m2a/3"])
        assert registry.loaded == [1, 2, 3] and models.describe()["weights"] == {"m2a": "3"}


def test_what_is_told_of_a_folder_is_its_name(registry: Registry) -> None:
    with current("/elsewhere/runs/demo", "models:/m2a@champion") as models:
        told = models.describe()
    assert told["checkpoint"] == ["demo", "models:/m2a@champion"]
    assert told["versions"] == ["demo", "models:/m2a/1"]
