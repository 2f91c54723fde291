"""A job on the service: how it fares, waiting for it, its results as files."""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import requests

from momu_dist.client.asking import ENDINGS
from momu_dist.client.connection import Connection, ServiceError, read_json
from momu_dist.errors import DataError

RECORD = ".job.json"
"""In a folder of results: the job that they are of."""

FIRST_POLL_S, SLOWEST_POLL_S = 0.2, 5.0
PAGE = 100
CHUNK_BYTES = 1 << 20
NAME_LETTERS = 50

T = TypeVar("T")


@dataclass(frozen=True)
class JobState:
    """How a job fares: `state` is queued, running, done or cancelled, `items` the number of items in each state.

    `progress` is 0 to 1 over the sampler steps of all items; `errors` are the first 100, each with index, id, error.
    """

    id: str
    state: str
    progress: float
    items: dict[str, int]
    errors: list[dict[str, Any]]
    created: str
    expires: str

    @property
    def ended(self) -> bool:
        return self.state in ("done", "cancelled")


@dataclass(frozen=True)
class ItemState:
    """How an item of a job fares; `id` is the name that the batch gave it, `bytes` the size of its result."""

    index: int
    id: str | None
    state: str
    error: str | None
    progress: float
    bytes: int | None


@dataclass(frozen=True)
class Job:
    """Work on the service. It goes on without the client, survives the service's restarts, and expires there."""

    id: str
    connection: Connection = field(repr=False)
    timeout_s: float = field(repr=False)

    def state(self) -> JobState:
        return _read(JobState, self.connection.call("GET", self._path, read_json))

    def wait(self, on_progress: Callable[[JobState], None] | None = None) -> JobState:
        """The state at the job's end; `on_progress` gets each one that is seen, the last too."""
        pause = FIRST_POLL_S
        while True:
            state = self.state()
            if on_progress is not None:
                on_progress(state)
            if state.ended:
                return state
            self.connection.wait(pause)
            pause = min(1.3 * pause, SLOWEST_POLL_S)

    def items(self) -> Iterator[ItemState]:
        """All items in their order."""
        offset: int | None = 0
        while offset is not None:
            query = {"offset": offset, "limit": PAGE}
            page = self.connection.call("GET", f"{self._path}/items", read_json, query=query)
            try:
                items, offset = page["items"], page["next"]
            except (LookupError, TypeError) as error:
                raise _unlike("page of items") from error
            for item in items:
                yield _read(ItemState, item)

    def results(self, folder: str | Path, on_file: Callable[[Path], None] | None = None) -> dict[int, Path]:
        """The files in `folder` of all items that are done, by index, named by the item's `id` made safe or its index.

        What is there already is not fetched again, so that this may be called at any time and again. A folder holds
        the results of one job. `on_file` gets the path of each file that is there.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._claim(folder)
        items = list(self.items())
        paths = {}
        for item, name in zip(items, names_of([(item.index, item.id) for item in items]), strict=True):
            if item.state == "done":
                paths[item.index] = _present(folder / name, item.bytes) or self._fetch(folder / name, item)
                if on_file is not None:
                    on_file(paths[item.index])
        return paths

    def cancel(self) -> JobState:
        """End the job; what is done stays, what is not is dropped."""
        return _read(JobState, self.connection.call("DELETE", self._path, read_json))

    @property
    def _path(self) -> str:
        return f"/v1/jobs/{self.id}"

    def _claim(self, folder: Path) -> None:
        record = read_record(folder)
        if record is None:
            write_record(folder, {"job": self.id})
        elif record["job"] != self.id:
            raise DataError(
                f"{folder} holds results of job {record['job']}, not of {self.id}; give another folder."
            )

    def _fetch(self, stem: Path, item: ItemState) -> Path:
        def take(response: requests.Response) -> Path:
            path = _with_ending(stem, ending_of(response))
            write(response, path, item.bytes)
            return path

        path = f"{self._path}/items/{item.index}"
        return self.connection.call("GET", path, take, timeout_s=self.timeout_s)


def ending_of(response: requests.Response) -> str:
    """The ending of the file that is the answer; a ServiceError for an answer that is none of the service's files."""
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type not in ENDINGS:
        raise ServiceError(
            f"the answer is of type {media_type[:100]!r}, expected a result; see that momu's service is at this address."
        )
    return ENDINGS[media_type]


def write(response: requests.Response, path: Path, size: int | None = None) -> None:
    """Stream the answer into `path`, which is there only when all of it is; what is not `size` bytes long broke off."""
    temporary = path.with_name(f".momu-{secrets.token_hex(4)}.part")
    try:
        written = 0
        with temporary.open("xb") as file:
            for chunk in response.iter_content(CHUNK_BYTES):
                written += file.write(chunk)
        if size not in (None, written):
            raise requests.ConnectionError(f"{written} of {size} bytes came")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def names_of(items: Sequence[tuple[int, str | None]]) -> list[str]:
    """A name without ending for the file of each item (index, id), unlike all others also where case does not count."""
    width = len(str(len(items) - 1))
    names = [
        re.sub(r"[^\w.-]+", "_", id or "").strip("._-")[:NAME_LETTERS] or f"{index:0{width}}"
        for index, id in items
    ]
    count = Counter(name.casefold() for name in names)
    taken: set[str] = {name for name, n in count.items() if n == 1}
    for place, (index, _) in enumerate(items):
        if count[names[place].casefold()] > 1:
            name = f"{names[place]}-{index}"
            while name.casefold() in taken:
                name += "_"
            taken.add(name.casefold())
            names[place] = name
    return names


def read_record(folder: Path) -> dict[str, Any] | None:
    """What `folder` says about the job whose results it holds, which names it as `job`; None where it says nothing."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _no_record(path) from error
    if not isinstance(record, dict) or not re.fullmatch("[0-9a-f]{32}", str(record.get("job"))):
        raise _no_record(path)
    return record


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Let `folder` belong to the job that `record` names."""
    temporary = folder / f".momu-{secrets.token_hex(4)}.part"
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(folder / RECORD)


def _no_record(path: Path) -> DataError:
    return DataError(f"{path} does not say which job its folder is of; delete it, or give another folder.")


def _present(stem: Path, size: int | None) -> Path | None:
    """The file of that name that was fetched before."""
    for ending in ENDINGS.values():
        path = _with_ending(stem, ending)
        if path.is_file() and size in (None, path.stat().st_size):
            return path
    return None


def _with_ending(stem: Path, ending: str) -> Path:
    return stem.with_name(f"{stem.name}.{ending}")


def _read(kind: type[T], data: Any) -> T:
    """`data` as `kind`; what a later service says besides is left out."""
    try:
        return kind(**{part.name: data[part.name] for part in fields(kind)})  # type: ignore[arg-type]
    except (LookupError, TypeError) as error:
        raise _unlike(kind.__name__) from error


def _unlike(what: str) -> ServiceError:
    return ServiceError(
        f"the service's answer is no {what}; see that it is of the same release as this client."
    )
