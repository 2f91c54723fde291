"""Samples a second and waiting times of the service, of a lock around the generator, and of the generator itself.

    python benchmarks/serve_throughput.py --checkpoint runs/demo --out docs/results/serving.md

(a) `momu serve`; (b) FastAPI under uvicorn with one lock around `Generator.generate`; (c) `Generator.generate` called in
this process with batches of 16, the ceiling. One run, side by side, the same requests: joint samples of unlike seeds as
npz. Each of N clients asks again as soon as it is answered.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import torch

from momu_dist.inference.generator import Generator
from momu_dist.inference.outputs import write_as
from momu_dist.inference.request import Request
from report import machine_line, publish, table

CLIENTS = (1, 8, 32)
HEAD = ("clients", "way", "samples/s", "of the ceiling", "p50 s", "p99 s")


def locked_app(checkpoint: str, threads: int) -> Any:
    """(b): what a user would write by hand."""
    from fastapi import FastAPI, Response

    torch.set_num_threads(threads)
    generator, lock, app = Generator.load(checkpoint), threading.Lock(), FastAPI()

    @app.get("/readyz")
    def ready() -> str:
        return "ready"

    @app.post("/v1/generate/joint")
    def joint(seconds: float, steps: int, seed: int, sampler: str, guidance: float) -> Response:
        with lock:
            (sample,) = generator.generate(Request("joint", seed, seconds, steps, guidance, sampler=sampler))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "sample.npz"
            write_as("motion", path, sample)
            return Response(path.read_bytes())

    return app


def serve_locked(port: int, checkpoint: str, threads: int) -> None:
    """Run (b) until it is ended."""
    import uvicorn

    uvicorn.run(locked_app(checkpoint, threads), port=port, log_level="error")


def started(command: list[str], url: str, folder: Path) -> subprocess.Popen[bytes]:
    """The service of `command`, once it is ready."""
    log = (folder / "service.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    while True:
        try:
            if requests.get(f"{url}/readyz", timeout=5).status_code == 200:
                return process
        except requests.RequestException:
            pass
        if process.poll() is not None:
            raise SystemExit((folder / "service.log").read_text())
        time.sleep(0.3)


def load(url: str, clients: int, n: int, query: dict[str, Any]) -> tuple[float, list[float]]:
    """(samples a second, seconds of each request) of `clients` that ask for `n` samples together."""
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(lambda seed: ask(url, seed, query), range(min(clients, 4))))  # warm
        began = time.perf_counter()
        times = list(pool.map(lambda seed: ask(url, seed, query), range(n)))
    return n / (time.perf_counter() - began), times


def ask(url: str, seed: int, query: dict[str, Any]) -> float:
    """The seconds of one request."""
    began = time.perf_counter()
    answer = requests.post(f"{url}/v1/generate/joint", params={**query, "seed": seed}, timeout=900)
    answer.raise_for_status()
    return time.perf_counter() - began


def in_turns(
    urls: tuple[str, str], n: int, queries: tuple[dict[str, Any], dict[str, Any]]
) -> list[tuple[float, list[float]]]:
    """As `load`, of one client of each service; they take turns, so that what else the machine does meets both alike."""
    times: tuple[list[float], list[float]] = ([], [])
    for seed in range(-1, n):
        for way in (0, 1) if seed % 2 else (1, 0):
            seconds = ask(urls[way], max(seed, 0), queries[way])
            if seed >= 0:  # the first is to warm them
                times[way].append(seconds)
    return [(n / sum(each), each) for each in times]


def ceiling(generator: Generator, n: int, query: dict[str, Any]) -> float:
    """Samples a second of the generator, in batches of its `max_batch`, written as npz too."""
    asked = [
        Request("joint", seed, query["seconds"], query["steps"], query["guidance"], sampler=query["sampler"])
        for seed in range(n)
    ]
    generator.generate(asked[:2])
    began = time.perf_counter()
    for start in range(0, n, generator.max_batch):
        for sample in generator.generate(asked[start : start + generator.max_batch]):
            with tempfile.TemporaryDirectory() as folder:
                write_as("motion", Path(folder) / "sample.npz", sample)
    return n / (time.perf_counter() - began)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def service(command: Callable[[int], list[str]]) -> Iterator[str]:
    """The address of the service that `command` starts at a port."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        process = started(command(port), f"http://127.0.0.1:{port}", Path(folder))
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="The service against a lock and against the generator itself."
    )
    parser.add_argument("--checkpoint", required=True, help="a folder with runs of both directions")
    parser.add_argument("-n", type=int, default=64, help="samples a measurement (64; 16 with one client)")
    parser.add_argument("--seconds", type=float, default=8.192)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads of torch (all)")
    parser.add_argument("--out", type=Path, help="where the table goes (the terminal)")
    options = parser.parse_args(arguments)
    query = {
        "seconds": options.seconds,
        "steps": options.steps,
        "sampler": "dpm++",
        "guidance": 2.0,
        "format": "npz",
    }
    counts = {clients: options.n if clients > 1 else max(16, options.n // 4) for clients in CLIENTS}

    plain = {name: value for name, value in query.items() if name != "format"}
    torch.set_num_threads(options.threads)
    generator = Generator.load(options.checkpoint)
    before = ceiling(generator, options.n, query)
    code = f"import serve_throughput as s; s.serve_locked({{}}, {options.checkpoint!r}, {options.threads})"
    os.environ["PYTHONPATH"] = f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"
    found: dict[int, list[tuple[float, list[float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        app = Path(folder) / "app.yaml"
        app.write_text(
            "applications: [{name: momu, import_path: 'momu_dist.serving.app:build', args: {checkpoint: [x]}}]"
        )
        ours = [
            sys.executable, "-m", "momu_dist.cli", "serve", "--config", str(app), "--checkpoint", options.checkpoint,
            f"threads={options.threads}", f"state={folder}/state",
        ]  # fmt: skip
        with (
            service(lambda port: [*ours, "--port", str(port)]) as a,
            service(lambda port: [sys.executable, "-c", code.format(port)]) as b,
        ):
            for clients in CLIENTS:
                if clients == 1:
                    found[1] = in_turns((a, b), counts[1], (query, plain))
                else:
                    ways = ((a, query), (b, plain))
                    found[clients] = [load(url, clients, counts[clients], of) for url, of in ways]
                rates = ", ".join(f"{rate:.2f}" for rate, _ in found[clients])
                print(f"{clients} clients: {rates} samples/s", file=sys.stderr, flush=True)
    top = statistics.fmean([before, ceiling(generator, options.n, query)])
    rows = [["-", "(c) generator, batches of 16", f"{top:.2f}", "1.00", "-", "-"]]
    for clients in CLIENTS:
        for way, (rate, times) in zip(("(a) momu serve", "(b) one lock"), found[clients], strict=True):
            p50, p99 = (statistics.quantiles(times, n=100, method="inclusive")[i] for i in (49, 98))
            rows.append([str(clients), way, f"{rate:.2f}", f"{rate / top:.2f}", f"{p50:.2f}", f"{p99:.2f}"])
    more_ms = 1000 * statistics.median(x - y for x, y in zip(found[1][0][1], found[1][1][1], strict=True))
    text = (
        f"{machine_line(('torch', 'ray'))}, {options.threads} threads.\n\n"
        f"Joint samples of {options.seconds:g} s, DPM-Solver++ {options.steps} steps, answered as npz; {options.n} samples a "
        f"measurement, {counts[1]} with one client. The ceiling is the mean of a measurement before and one after.\n\n"
        f"{table(HEAD, rows)}\n\nOne client waits {more_ms:.0f} ms longer for (a) than for (b): the median of {counts[1]} pairs "
        "that took turns.\n"
    )
    publish("Throughput of the service", text, options.out)


if __name__ == "__main__":
    main()
