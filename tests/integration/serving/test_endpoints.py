"""All pages of the service, on Ray Serve with trained (small) models, through the client and without it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from momu_dist.client import Client
from momu_dist.data.audio_io import read_audio
from momu_dist.inference.generator import Generator
from momu_dist.inference.inputs import read_inputs
from momu_dist.inference.request import Request
from served import Served, metric, until

pytestmark = pytest.mark.serving


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served], tiny_runs: Path) -> Iterator[Served]:
    service = serve("queue=64", checkpoint=tiny_runs)
    yield service
    service.stop()


@pytest.fixture()
def client(served: Served) -> Client:
    return Client(served.url)


def joints(content: bytes) -> np.ndarray:
    with np.load(io.BytesIO(content)) as arrays:
        return np.array(arrays["motion_px"])


@pytest.mark.parametrize("task", ["a2m", "m2a", "joint"])
@pytest.mark.parametrize("format", ["wav", "npz", "json", "bvh", "csv", "mp4", "png"])
def test_each_task_in_each_format(client: Client, music: Path, motion: Path, task: str, format: str) -> None:
    given = {"a2m": music, "m2a": motion, "joint": None}[task]
    content = client.generate(task, given, seconds=1.5, steps=3, seed=3, format=format)
    begins = {"wav": b"RIFF", "npz": b"PK", "json": b"{", "png": b"\x89PNG", "bvh": b"HIERARCHY"}
    assert content.startswith(begins.get(format, b"")) and len(content) > 300
    if format == "mp4":
        assert content[4:8] == b"ftyp"


def test_a_request_gets_what_the_generator_makes(client: Client, tiny_runs: Path, music: Path) -> None:
    content = client.generate("a2m", music, seconds=1.5, steps=5, seed=11, guidance=2.0, format="npz")
    own = Generator.load(tiny_runs, device="cpu").generate(
        Request("a2m", 11, 1.5, 5, 2.0, **read_inputs("a2m", music))
    )[0]
    np.testing.assert_allclose(joints(content), own.motion_px, atol=1e-2)


def test_in_company_as_alone(client: Client, served: Served, music: Path, motion: Path) -> None:
    """Thirty requests of unlike task, length, sampler and steps at once: each gets what it gets alone."""
    inputs = {"a2m": music, "m2a": motion, "joint": None}
    asked: list[dict[str, Any]] = []
    for i in range(30):
        task = ("a2m", "joint", "m2a")[i % 3]
        asked.append(
            {"task": task, "seconds": 1.1 + 0.13 * (i % 9), "steps": 50 if i < 3 else 4 + i % 7, "seed": i,
             "format": "wav" if task == "m2a" else "npz", "sampler": ("ddim", "dpm++")[i % 2], "input": inputs[task]}
        )  # fmt: skip

    def ask(values: dict[str, Any]) -> np.ndarray:
        content = Client(served.url).generate(**values)
        return read_audio(content) if values["format"] == "wav" else joints(content)

    n_alone = 12
    alone = [ask(values) for values in asked[:n_alone]]
    with ThreadPoolExecutor(30) as pool:
        together = list(pool.map(ask, asked))
    for values, one, other in zip(asked, alone, together[:n_alone], strict=False):
        assert one.shape == other.shape
        # Sound is 16 bits, and its phases are found by iteration from the latents' mel.
        share = 1e-2 if values["format"] == "wav" else 1e-4
        assert np.abs(one - other).max() <= share * np.abs(one).max(), values


def test_several_samples_with_recipes(client: Client) -> None:
    content = client.generate("joint", seconds=1.5, steps=2, seed=5, n=3, format="wav")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = set(archive.namelist())
        assert names == {f"seed{seed}.{end}" for seed in (5, 6, 7) for end in ("wav", "recipe.json")}
        recipe = json.loads(archive.read("seed6.recipe.json"))
    assert recipe["seed"] == 6 and recipe["task"] == "joint" and set(recipe["weights"]) >= {"m2a", "a2m"}


def test_pages_about_the_service(client: Client, served: Served) -> None:
    models = client.models()
    assert models["directions"] == ["a2m", "m2a"] and models["limits"]["max_samples"] == 8
    assert requests.get(f"{served.url}/docs", timeout=30).status_code == 200
    page = requests.get(f"{served.url}/openapi.json", timeout=30).json()
    assert {"/v1/batch", "/v1/files", "/v1/generate/joint", "/v1/jobs/{job}"} <= set(page["paths"])
    client.generate("joint", seconds=1.5, steps=1)
    assert metric(served.url, "momu_generate_seconds_count") >= 1


def test_a_batch_of_all_tasks(client: Client, music: Path, motion: Path, tmp_path: Path) -> None:
    job = client.batch(
        [
            {
                "task": "a2m",
                "input": music,
                "seconds": 1.5,
                "steps": 2,
                "seed": 1,
                "id": "dance",
                "format": "npz",
            },
            {
                "task": "m2a",
                "input": motion,
                "seconds": 1.5,
                "steps": 2,
                "seed": 2,
                "id": "song",
                "format": "wav",
            },
            {"task": "joint", "seconds": 1.5, "steps": 2, "seed": 3, "n": 2, "format": "wav"},
            {"task": "m2a", "input": music, "id": "wrong"},
        ]
    )
    told: list[Any] = []
    state = job.wait(lambda *values: told.append(values))
    assert state.items["done"] == 3 and state.items["failed"] == 1 and told
    (error,) = state.errors
    assert error["id"] == "wrong" and "no motion" in error["error"]
    files = job.results(tmp_path / "made")
    assert sorted(path.name for path in files.values()) == ["2.zip", "dance.npz", "song.wav"]
    alone = client.generate("a2m", music, seconds=1.5, steps=2, seed=1, format="npz")
    np.testing.assert_allclose(
        joints((tmp_path / "made" / "dance.npz").read_bytes()), joints(alone), atol=1e-2
    )


@pytest.mark.parametrize(
    "headers", [{}, {"X-Request-Disconnect-Disabled": "?1"}], ids=["", "against its will"]
)
def test_who_goes_away_frees_the_place(served: Served, headers: dict[str, str]) -> None:
    """A client that hangs up is not computed for: its samples leave at the next step."""
    asked = {"seconds": 60, "steps": 1000, "n": 8}
    with pytest.raises(requests.exceptions.RequestException):
        requests.post(f"{served.url}/v1/generate/joint", params=asked, headers=headers, timeout=2)
    until(lambda: metric(served.url, "momu_samples_inside") == 0, 30, "its place is still taken")
    assert Client(served.url).generate("joint", seconds=1.5, steps=2)
