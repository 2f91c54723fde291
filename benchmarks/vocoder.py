"""How near a trained vocoder comes to held-out music, beside Griffin-Lim: mel distance and multi-resolution STFT distance.

    python benchmarks/vocoder.py --checkpoint runs/vocoder/small --data data/music -n 64 --out docs/results/vocoder.md

Each vocoder is given the mel of every clip and compared with the clip's own sound (`momu_dist.core.metrics.spectral`; lower is
better). `silence` is what saying nothing scores. Seconds are those of the vocoder alone, per second of sound, one clip after
the other, on the threads that torch has.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from momu_dist.core.audio.mel import HOP, MEL_RATE_HZ
from momu_dist.core.audio.vocoder import GriffinLim, Vocoder
from momu_dist.core.metrics.spectral import mel_distance, stft_distance
from momu_dist.data.clips import PreparedClip, first_clips
from momu_dist.data.manifest import SPLITS
from momu_dist.errors import ConfigError, exit_code
from momu_dist.inference.vocoders import load_vocoder
from report import machine_line, table

HEAD = (
    "vocoder", "mel distance, log10", "STFT distance", "clips better than Griffin-Lim (mel, STFT)", "s per s of sound",
)  # fmt: skip


class Silence:
    """What every clip is compared with besides: a vocoder that says nothing."""

    name = "silence"

    def __call__(self, log10_mel: Tensor, seeds: Sequence[int]) -> Tensor:
        return torch.zeros(len(log10_mel), HOP * log10_mel.shape[2])


@dataclass
class Scores:
    """A vocoder's distances, one a clip, and the time it took."""

    mel: list[float] = field(default_factory=list)
    stft: list[float] = field(default_factory=list)
    seconds: float = 0.0


def measure(vocoder: Vocoder, clips: Sequence[PreparedClip]) -> Scores:
    """Distances of what `vocoder` makes of each clip's mel; clip i with seed i."""
    scores = Scores()
    for seed, clip in enumerate(clips):
        mel, sound = torch.tensor(clip.mel)[None], torch.tensor(clip.audio)[None]
        began = time.perf_counter()
        made = vocoder(mel, [seed]).cpu()
        scores.seconds += time.perf_counter() - began
        scores.mel.append(float(mel_distance(sound, made)))
        scores.stft.append(float(stft_distance(sound, made)))
    return scores


def row(name: str, scores: Scores, baseline: Scores, sound_s: float) -> list[str]:
    """One line of the table."""
    better = [
        sum(ours < theirs for ours, theirs in zip(mine, base, strict=True))
        for mine, base in ((scores.mel, baseline.mel), (scores.stft, baseline.stft))
    ]
    return [
        name,
        *(f"{statistics.fmean(v):.3f} (sd {statistics.pstdev(v):.3f})" for v in (scores.mel, scores.stft)),
        "" if scores is baseline else f"{better[0]}, {better[1]} of {len(scores.mel)}",
        f"{scores.seconds / sound_s:.3f}",
    ]


def report(checkpoint: str, data: str, split: str, n: int) -> str:
    """The markdown text of the whole comparison."""
    clips = first_clips(data, split, n)
    sound_s = sum(clip.mel.shape[1] for clip in clips) / MEL_RATE_HZ
    vocoders: tuple[Vocoder, ...] = (
        load_vocoder(checkpoint, "cpu"),
        GriffinLim(32),
        GriffinLim(100),
        Silence(),
    )
    scores = [measure(vocoder, clips) for vocoder in vocoders]
    rows = [row(v.name, s, scores[1], sound_s) for v, s in zip(vocoders, scores, strict=True)]
    groups = len({clip.group_id for clip in clips})
    return "\n".join(
        [
            f"{len(clips)} clips of split {split} of {Path(data).name}, {groups} groups, {sound_s:.0f} s of sound. Means over "
            "clips (standard deviation over clips); lower is better.",
            "",
            table(HEAD, rows),
            "",
            f"{machine_line(('torch', 'librosa', 'numpy'))}, {torch.get_num_threads()} threads.",
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; print the table, and write it to --out."""
    parser = argparse.ArgumentParser(description="A trained vocoder against Griffin-Lim on held-out clips.")
    parser.add_argument(
        "--checkpoint", required=True, help="a run of stage vocoder, or another vocoder's folder"
    )
    parser.add_argument("--data", required=True, help="a prepared folder; its music was not trained on")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("-n", type=int, default=64, help="number of clips, spread over the split (64)")
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args(arguments)

    def run() -> None:
        if options.n < 1:
            raise ConfigError(f"-n is {options.n}, expected at least 1.")
        text = report(options.checkpoint, options.data, options.split, options.n)
        print(text, end="")
        if options.out is not None:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(text)

    return exit_code(run, "stopped")


if __name__ == "__main__":
    raise SystemExit(main())
