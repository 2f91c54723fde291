"""Samples a second and waiting times of the service, of a lock around the generator, and of the generator itself.

    python benchmarks/serve_throughput.py --checkpoint runs/demo --out docs/results/serving.md

(a) `momu serve`; (b) FastAPI under uvicorn with one lock around `Generator.generate`; (c) `Generator.generate` called in
this process with batches of 16, the ceiling. One run, side by side, the same requests: joint samples of unlike seeds as
npz. Each of N clients asks again as soon as it is answered.
"""

from __future__ import annotations

import argparse
import io
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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

    def ask(seed: int) -> float:
        began = time.perf_counter()
        answer = requests.post(f"{url}/v1/generate/joint", params={**query, "seed": seed}, timeout=900)
        answer.raise_for_status()
        return time.perf_counter() - began

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(min(clients, 4))))  # warm
        began = time.perf_counter()
        times = list(pool.map(ask, range(n)))
    return n / (time.perf_counter() - began), times


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


def with_service(
    command: Callable[[int], list[str]], use: Callable[[str], dict[int, tuple[float, list[float]]]]
) -> dict[int, tuple[float, list[float]]]:
    """What `use` measures of the service that `command` starts at a port."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        process = started(command(port), f"http://127.0.0.1:{port}", Path(folder))
        try:
            return use(f"http://127.0.0.1:{port}")
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

    def all_clients(url: str, of: dict[str, Any]) -> dict[int, tuple[float, list[float]]]:
        found = {}
        for clients in CLIENTS:
            found[clients] = load(url, clients, counts[clients], of)
            print(f"{clients} clients: {found[clients][0]:.2f} samples/s", file=sys.stderr, flush=True)
        return found

    torch.set_num_threads(options.threads)
    generator = Generator.load(options.checkpoint)
    before = ceiling(generator, options.n, query)
    config = io.StringIO(
        "applications: [{name: momu, import_path: 'momu_dist.serving.app:build', args: {checkpoint: [x]}}]"
    )
    with tempfile.TemporaryDirectory() as folder:
        app = Path(folder) / "app.yaml"
        app.write_text(config.getvalue())
        service = with_service(
            lambda port: [
                sys.executable, "-m", "momu_dist.cli", "serve", "--config", str(app), "--port", str(port), "--checkpoint",
                options.checkpoint, f"threads={options.threads}", f"state={folder}/state",
            ],
            lambda url: all_clients(url, query),
        )  # fmt: skip
    plain = {name: value for name, value in query.items() if name != "format"}
    code = f"import serve_throughput as s; s.serve_locked({{}}, {options.checkpoint!r}, {options.threads})"
    os.environ["PYTHONPATH"] = f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"
    locked = with_service(
        lambda port: [sys.executable, "-c", code.format(port)], lambda url: all_clients(url, plain)
    )
    top = statistics.fmean([before, ceiling(generator, options.n, query)])
    rows = [["-", "(c) generator, batches of 16", f"{top:.2f}", "1.00", "-", "-"]]
    for clients in CLIENTS:
        for way, found in (("(a) momu serve", service), ("(b) one lock", locked)):
            rate, times = found[clients]
            p50, p99 = (statistics.quantiles(times, n=100, method="inclusive")[i] for i in (49, 98))
            rows.append([str(clients), way, f"{rate:.2f}", f"{rate / top:.2f}", f"{p50:.2f}", f"{p99:.2f}"])
    more_ms = 1000 * (statistics.median(service[1][1]) - statistics.median(locked[1][1]))
    text = (
        f"{machine_line(('torch', 'ray'))}, {options.threads} threads.\n\n"
        f"Joint samples of {options.seconds:g} s, DPM-Solver++ {options.steps} steps, answered as npz; {options.n} samples a "
        f"measurement, {counts[1]} with one client. The ceiling is the mean of a measurement before and one after.\n\n"
        f"{table(HEAD, rows)}\n\nOne client waits {more_ms:.0f} ms longer for (a) than for (b), median.\n"
    )
    publish("Throughput of the service", text, options.out)


if __name__ == "__main__":
    main()
