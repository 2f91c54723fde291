"""Reading ahead of a worker that is still building its networks. Ray itself is not started."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from momu_dist.train.ray_trainer import begun


def test_the_first_item_is_fetched_at_once_and_the_others_when_they_are_asked_for() -> None:
    fetched, asked = threading.Event(), []

    def stream() -> Iterator[int]:
        for item in range(3):
            asked.append(item)
            fetched.set()
            yield item

    items = begun(stream())
    assert fetched.wait(10) and asked == [0]
    assert list(items) == asked == [0, 1, 2]
    assert list(begun([])) == []


def test_an_error_of_the_stream_is_raised_where_it_is_read() -> None:
    def stream() -> Iterator[int]:
        raise OSError("no such shard")
        yield 0

    items = begun(stream())
    with pytest.raises(OSError, match="no such shard"):
        next(items)
