"""What the service loses when its parts die, its queue is full, or its models change: nothing that it had accepted."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from momu_dist.client import Client
from momu_dist.config.schema import RunConfig
from momu_dist.data.manifest import Manifest
from momu_dist.inference.export import find_export
from momu_dist.tracking.registry import promote, resolve
from momu_dist.train.run import train
from served import Served, metric, until

pytestmark = pytest.mark.serving
N_ITEMS = 40
TinyConfig = Callable[..., RunConfig]


def items(seconds: float = 1.5, steps: int = 8) -> list[dict[str, Any]]:
    return [
        {"task": "joint", "seconds": seconds, "steps": steps, "seed": i, "format": "npz", "id": f"{i:03d}"}
        for i in range(N_ITEMS)
    ]


def done(service: Served, job: Any) -> int:
    return int(job.state().items["done"])


def results_of(service: Served, job: Any) -> dict[str, int]:
    """When each result of a job, as it lies in the service's folder, was written."""
    folder = service.folder / "state" / "results" / job.id
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def assert_all_made(job: Any, folder: Path) -> None:
    state = job.state()
    assert state.items["done"] == N_ITEMS and sum(state.items.values()) == N_ITEMS
    files = job.results(folder)
    assert sorted(path.stem for path in files.values()) == [f"{i:03d}" for i in range(N_ITEMS)]


class Asking:
    """Three clients that ask one request after another, until `end`."""

    def __init__(self, url: str) -> None:
        self.answers: list[requests.Response] = []
        self._url = url
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(3)
        self._clients = [self._pool.submit(self._ask, seed) for seed in range(3)]

    def _ask(self, seed: int) -> None:
        while not self._over.is_set():
            answer = requests.post(
                f"{self._url}/v1/generate/joint",
                params={"seconds": 1.5, "steps": 6, "seed": seed, "format": "npz"}, timeout=180,
            )  # fmt: skip
            self.answers.append(answer)

    def end(self) -> list[requests.Response]:
        """All answers. Fails where one was not a sample, and where a connection broke."""
        self._over.set()
        self._pool.shutdown()
        for client in self._clients:
            client.result()
        assert {answer.status_code for answer in self.answers} == {200}
        return self.answers


def test_killed_replicas_and_a_restart_lose_no_item(
    serve: Callable[..., Served], tiny_runs: Path, tmp_path: Path
) -> None:
    """A replica is killed under load, then the process that owns the jobs, then the whole service is stopped and started."""
    service = serve("jobs_at_once=4", checkpoint=tiny_runs)
    client = Client(service.url)
    asking = Asking(service.url)
    job = client.batch(items())
    until(lambda: done(service, job) >= 4)
    (replica,) = service.replicas("sampler")
    replica.kill()
    before = len(asking.answers)
    until(lambda: len(asking.answers) > before + 3, what="no request was answered after the kill")
    # The same seed gives the same sample, so those requests were made again by the next replica.
    asking.end()
    already, written = done(service, job), results_of(service, job)
    assert already < N_ITEMS, "the job ended too soon to be broken"
    (owner,) = service.replicas("api")
    owner.kill()
    until(lambda: Client(service.url).ready())
    assert done(service, job) >= already
    assert service.stop() == 75
    service.start()
    assert client.job(job.id).state().items["done"] >= already
    client.job(job.id).wait()
    assert_all_made(client.job(job.id), tmp_path / "made")
    at_the_end = results_of(service, job)
    assert len(at_the_end) == N_ITEMS
    assert {name: at_the_end[name] for name in written} == written, "what was done was made again"
    assert service.stop() == 75


def test_more_than_it_can_take_is_refused_and_memory_stays(
    serve: Callable[..., Served], tiny_runs: Path
) -> None:
    """200 clients at once against a queue of 16: each gets its sample, or 429 at once."""
    service = serve("queue=16", checkpoint=tiny_runs)

    def resident_mb() -> float:
        total = 0
        for process in service.tree():
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
        return total / 2**20

    def ask(i: int) -> tuple[int, float, str | None]:
        began = time.monotonic()
        answer = requests.post(
            f"{service.url}/v1/generate/joint",
            params={"seconds": 4, "steps": 10, "seed": i, "format": "npz"}, timeout=300,
        )  # fmt: skip
        assert answer.status_code != 200 or answer.content.startswith(b"PK")
        return answer.status_code, time.monotonic() - began, answer.headers.get("retry-after")

    for i in range(4):
        assert ask(i)[0] == 200
    before, during = resident_mb(), [0.0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            during[0] = max(during[0], resident_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(ask, range(200)))
    over.set()
    watcher.join()
    until(lambda: metric(service.url, "momu_samples_inside") == 0)
    after = resident_mb()
    codes = Counter(code for code, _, _ in answers)
    print(
        f"resident MB before {before:.0f}, during {during[0]:.0f}, after {after:.0f}; answers {dict(codes)}"
    )
    assert set(codes) == {200, 429} and codes[200] >= 16
    assert all(retry is not None for code, _, retry in answers if code == 429)
    assert during[0] < before + 600 and after < before + 400
    assert metric(service.url, 'momu_requests_total{code="200",path="/v1/generate/joint"}') == codes[200] + 4
    service.stop()


def test_a_new_alias_takes_over_without_a_failed_request(
    serve: Callable[..., Served], registered_twice: tuple[str, list[str]]
) -> None:
    uri, versions = registered_twice
    service = serve(
        f"tracking_uri={uri}",
        "watch_s=0.5",
        "--checkpoint",
        "models:/m2a@champion",
        checkpoint="models:/a2m@champion",
    )
    client = Client(service.url)
    assert sorted(client.models()["versions"]) == ["models:/a2m/1", "models:/m2a/1"]
    asking = Asking(service.url)
    until(lambda: len(asking.answers) > 5)
    promote("a2m/2", uri=uri)
    until(lambda: "models:/a2m/2" in client.models()["versions"], 60, "the new version was not taken over")
    seen = len(asking.answers)
    until(lambda: len(asking.answers) > seen + 6)
    made_by = {json.loads(answer.headers["x-momu-recipe"])["weights"]["a2m"] for answer in asking.end()}
    assert made_by == set(versions), "both versions made something, and nothing else did"
    service.stop()


@pytest.fixture(scope="module")
def registered_twice(
    tmp_path_factory: pytest.TempPathFactory, tiny_runs: Path, prepared: Manifest, tiny_config: TinyConfig
) -> tuple[str, list[str]]:
    """A store where m2a and the first of two versions of a2m are champions; and the hashes of those two."""
    out = tmp_path_factory.mktemp("registry")
    for name, stage, steps in (("m2a", "dit_m2a", 2), ("a2m", "dit_a2m", 2), ("a2m", "dit_a2m", 3)):
        more = (
            "tracking.uri=auto", f"tracking.registered_model={name}", f"name={name}-{steps}", f"train.max_steps={steps}",
            "train.validate_every=1",
        )  # fmt: skip
        train(tiny_config(stage, out, prepared.root, tiny_runs, more=more))
    uri = f"sqlite:///{out / 'mlflow.db'}"
    for name in ("m2a/1", "a2m/1"):
        promote(name, uri=uri)
    return uri, [find_export(resolve(f"models:/a2m/{version}", uri)).sha256 for version in (1, 2)]
