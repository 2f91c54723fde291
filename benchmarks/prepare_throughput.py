"""How fast raw clips become parquet, and the mel front end beside librosa's, in one run.

    python benchmarks/prepare_throughput.py [--clips 96] [--rounds 3] [--mel-rounds 25] > table.md

Clips/s of `prepare` in one process and through Ray with one and two workers at a time, on the synthetic source (its clips
are composed while they are loaded; the time without features is shown beside, so that what the source takes is seen).
The mel: `momu_dist.core.audio.mel.log_mel` against `librosa.feature.melspectrogram` with the same settings, one thread,
turn by turn: medians over the rounds, and the range of the rounds' own quotients.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import librosa
import numpy as np
import ray
import torch
from threadpoolctl import threadpool_limits

from momu_dist.core.audio.mel import EDGE, HOP, N_FFT, N_MELS, SAMPLE_RATE, log_mel
from momu_dist.data.prepare import PrepareOptions, prepare
from momu_dist.data.ray_pipeline import map_units
from momu_dist.data.sources import make_source
from momu_dist.data.sources.synthetic.source import Synthetic
from momu_dist.train.ray_session import ray_session
from report import machine_line, table

MEL_CLIP_S = 25.0
MEL_WARM_UP = 3  # rounds that are not counted


def seconds(body: Callable[[], object]) -> float:
    began = time.perf_counter()
    body()
    return time.perf_counter() - began


def librosa_mel(audio: np.ndarray) -> np.ndarray:
    """The same mel by librosa: reflect padding outside, no centring, magnitudes, Slaney bands, log10."""
    mel = librosa.feature.melspectrogram(
        y=np.pad(audio, EDGE, mode="reflect"), sr=SAMPLE_RATE, n_fft=N_FFT, hop_length=HOP, center=False,
        power=1.0, n_mels=N_MELS, fmin=0, fmax=SAMPLE_RATE / 2,
    )  # fmt: skip
    out: np.ndarray = np.log10(np.maximum(mel, 1e-5))
    return out


@threadpool_limits.wrap(limits=1)  # librosa's and our matrix products; torch is set in `main`
def compare_mels(rounds: int, clips: int = 16) -> list[list[str]]:
    rng = np.random.default_rng(0)
    audio = (0.1 * rng.standard_normal((clips, int(MEL_CLIP_S * SAMPLE_RATE)))).astype(np.float32)
    batch = torch.from_numpy(audio)
    difference = np.abs(log_mel(batch[0]).numpy() - librosa_mel(audio[0])).max()
    assert difference < 1e-3, f"the two mels differ by {difference}: nothing to compare"
    variants = {
        "librosa, clip by clip": lambda: [librosa_mel(clip) for clip in audio],
        "ours, clip by clip": lambda: [log_mel(clip) for clip in batch],
        "ours, one batch": lambda: log_mel(batch),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(MEL_WARM_UP + rounds):
        for name, body in variants.items():
            took = seconds(body)
            if turn >= MEL_WARM_UP:
                times[name].append(took)
    base = times["librosa, clip by clip"]
    rows = []
    for name, values in times.items():
        clip_s = statistics.median(values) / clips
        quotients = [theirs / ours for theirs, ours in zip(base, values, strict=True)]
        speed = f"{statistics.median(base) / statistics.median(values):.2f}"
        spread = f"{min(quotients):.2f} to {max(quotients):.2f}"
        rows.append([name, f"{clip_s * 1e3:.1f}", f"{MEL_CLIP_S / clip_s:.0f}", speed, spread])
    return rows


def compare_prepare(rounds: int, clips: int) -> list[list[str]]:
    found: dict[str, list[float]] = {"source alone": [], "one process": []}

    def load_all() -> None:
        source = Synthetic(n_clips=clips)
        for ref in source.refs():
            source.load(ref)

    def run(runner: Callable[..., object] | None) -> float:
        with tempfile.TemporaryDirectory(prefix="momu-bench-") as folder:
            options = PrepareOptions(shard_mb=2.0)
            source = make_source("synthetic", n_clips=clips)
            return seconds(
                lambda: prepare(source, Path(folder) / "data", options, progress=False, runner=runner)  # type: ignore[arg-type]
            )

    with ray_session():
        cpus = ray.cluster_resources()["CPU"]
        for turn in range(rounds + 1):
            taken = {"source alone": seconds(load_all), "one process": run(None)}
            for n in (1, 2):
                taken[f"Ray, {n} at a time"] = run(partial(map_units, num_cpus=cpus / n))
            if turn:
                for name, value in taken.items():
                    found.setdefault(name, []).append(value)
    middle = {name: statistics.median(values) for name, values in found.items()}
    base = middle["Ray, 1 at a time"]
    return [
        [
            name,
            f"{clips / value:.1f}",
            " ".join(f"{clips / v:.1f}" for v in found[name]),
            f"{base / value:.2f}",
        ]
        for name, value in middle.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mel-rounds", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine_line() + "\n")
    head = ["mel", "ms a clip of 25 s", "times real time", "times librosa's speed", "in single rounds"]
    print(table(head, compare_mels(options.mel_rounds)))
    rows = compare_prepare(options.rounds, options.clips)
    print("\n" + table(["preparation", "clips/s", "each round", "of one Ray worker"], rows))


if __name__ == "__main__":
    main()
