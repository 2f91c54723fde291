"""Real music through a2m: do the generated dancers set off on the onsets of their own music?

    python benchmarks/music_to_motion.py --checkpoint runs/demo/dit_a2m --music FOLDER [-n 16] [--seconds 8] > table.md

From the middle third of each piece a stretch is taken, motion is generated from it, and its kinematic beats are set against the
onsets of that music (one-to-one, +-0.07 s) and, as `shuffled`, against those of all the others.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch

from momu_dist.core.metrics.beats import beat_score
from momu_dist.data.audio_io import read_audio
from momu_dist.data.sources.music import SUFFIXES
from momu_dist.inference.generator import Generator
from momu_dist.inference.request import Request
from report import machine_line, table

RATE_HZ = 16000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a run of stage dit_a2m")
    parser.add_argument("--music", required=True, type=Path, help="a folder of audio files")
    parser.add_argument("-n", type=int, default=16, help="number of pieces, in the order of their names (16)")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--guidance", type=float, default=2.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = sorted(path for path in options.music.rglob("*") if path.suffix.lower() in SUFFIXES)[: options.n]
    requests = []
    for seed, path in enumerate(files):
        audio = read_audio(path, RATE_HZ)
        first = len(audio) // 3
        part = audio[first : first + round(options.seconds * RATE_HZ)]
        requests.append(
            Request("a2m", seed, options.seconds, 15, options.guidance, sampler="dpm++", audio=part)
        )
    samples = Generator.load(options.checkpoint).generate(requests)
    own, shuffled, rows = [], [], []
    for path, sample in zip(files, samples, strict=True):
        own.append(beat_score(sample.onsets_s, sample.beats_s).f1)
        others = [beat_score(other.onsets_s, sample.beats_s).f1 for other in samples if other is not sample]
        shuffled.append(statistics.fmean(others))
        rows.append(
            [path.stem, len(sample.onsets_s), len(sample.beats_s), f"{own[-1]:.3f}", f"{shuffled[-1]:.3f}"]
        )
    rows.append(
        ["**mean**", "", "", f"**{statistics.fmean(own):.3f}**", f"**{statistics.fmean(shuffled):.3f}**"]
    )
    print(machine_line() + "\n")
    print(table(["piece", "onsets", "kinematic beats", "F1, own music", "F1, shuffled"], rows))


if __name__ == "__main__":
    main()
