"""What a client of the service can do."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import requests

from momu_dist.client.asking import (
    DEFAULT_FORMAT,
    PATHS,
    SEVERAL,
    checked_file,
    checked_item,
    checked_query,
    format_of,
    is_several,
)
from momu_dist.client.connection import Connection, ServiceError, read_json
from momu_dist.client.jobs import Job, ending_of, write
from momu_dist.data.hashes import file_sha256
from momu_dist.errors import ConfigError, DataError

URL = "http://127.0.0.1:8000"
TOKEN = "MOMU_SERVE_TOKEN"

T = TypeVar("T")
OnUpload = Callable[[int, int], None]


class Client:
    """Asks the service at `url`, with the bearer token `token` (else that of the environment, MOMU_SERVE_TOKEN).

    `timeout_s` bounds the wait for the answer to one item. A service that is busy (429) or not ready (503), or whose
    connection breaks, is asked again after the time it says, up to `patience_s` of waiting a call; then its error is
    raised. An address where nothing has answered yet is given up sooner. Asking twice does no harm, since results follow
    from their seeds; only a batch is never sent again once it may have arrived. `wait` is what waits, in s. A client
    serves one thread.
    """

    def __init__(
        self,
        url: str = URL,
        token: str | None = None,
        timeout_s: float = 600.0,
        patience_s: float = 300.0,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._connection = Connection(
            url, os.environ.get(TOKEN) if token is None else token, patience_s, wait
        )
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"Client({self._connection.url!r})"

    def ready(self) -> bool:
        """Whether the service answers and has a model; asked once, without waiting."""
        try:
            return self._connection.call("GET", "/readyz", lambda _: True, patient=False)
        except ServiceError:
            return False

    def models(self) -> Any:
        """What the service says about the models that it uses."""
        return self._connection.call("GET", "/v1/models", read_json)

    def generate(self, task: str, input: str | Path | bytes | None = None, **settings: Any) -> bytes:
        """One item: the file's bytes in `format` (mp4), or a zip of such files where `n` is above 1.

        `input` is a path or the bytes of an audio, video or motion file; `file` is the id of an uploaded one instead.
        The settings and their bounds are those of the service's page /docs; what is None is left to it.
        """
        return self._generate(task, input, settings, lambda response: response.content)

    def generate_to(
        self, path: str | Path, task: str, input: str | Path | bytes | None = None, **settings: Any
    ) -> Path:
        """`generate` into the file `path`, whose ending is the format, or zip for several samples in `format`."""
        path = Path(path)
        settings = {**settings, "format": format_of(path, settings)}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._generate(task, input, settings, lambda response: write(response, path))
        return path

    def upload(self, path: str | Path) -> str:
        """The id of the file on the service, good as `file` until it expires there."""
        return self._call("/v1/files", _id, body=checked_file(Path(path)))

    def batch(self, items: Sequence[Mapping[str, Any]], on_upload: OnUpload | None = None) -> Job:
        """Submit items, each with `task`, `input` (a path; one content is uploaded once), settings, and `id`, a name.

        All items are looked at before anything is sent. `on_upload` gets the number of inputs that are there, and of all.
        """
        if not items:
            raise DataError("the batch holds no item, expected at least one.")
        checked = [checked_item(number, item) for number, item in enumerate(items, 1)]
        ids = self._upload_once(list(dict.fromkeys(path for _, path in checked if path)), on_upload)
        lines = [line if path is None else {**line, "file": ids[path]} for line, path in checked]
        body = "".join(json.dumps(line) + "\n" for line in lines).encode()
        self._connection.renew()
        return self.job(self._call("/v1/batch", _id, body=body, repeatable=False))

    def job(self, id: str) -> Job:
        """The job of that id."""
        if not re.fullmatch("[0-9a-f]{32}", id):
            raise ConfigError(f"{id!r} is no id of a job, expected 32 hexadecimal digits.")
        return Job(id, self._connection, self._timeout_s)

    def _generate(
        self,
        task: str,
        input: str | Path | bytes | None,
        settings: Mapping[str, Any],
        take: Callable[[requests.Response], T],
    ) -> T:
        body = Path(input) if isinstance(input, str) else input
        query = checked_query(task, body, settings)
        wanted = SEVERAL if is_several(query) else query.get("format", DEFAULT_FORMAT)

        def take_wanted(response: requests.Response) -> T:
            if (ending := ending_of(response)) != wanted:
                raise ServiceError(f"the service answered a {ending} file, expected {wanted}.")
            return take(response)

        return self._call(f"/v1/generate/{PATHS[task]}", take_wanted, query=query, body=body)

    def _upload_once(self, paths: Sequence[Path], on_upload: OnUpload | None) -> dict[Path, str]:
        ids: dict[Path, str] = {}
        known: dict[str, str] = {}
        for path in paths:
            content = file_sha256(path)
            if content not in known:
                known[content] = self.upload(path)
            ids[path] = known[content]
            if on_upload is not None:
                on_upload(len(ids), len(paths))
        return ids

    def _call(self, path: str, take: Callable[[requests.Response], T], **more: Any) -> T:
        return self._connection.call("POST", path, take, timeout_s=self._timeout_s, **more)


def _id(response: requests.Response) -> str:
    """The id of what the service has taken."""
    answer = read_json(response)
    if not isinstance(answer, dict) or not re.fullmatch("[0-9a-f]{32}", str(answer.get("id"))):
        raise ServiceError(
            "the service's answer holds no id; see that it is of the same release as this client."
        )
    return str(answer["id"])
