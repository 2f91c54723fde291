"""The synthetic source: clip k of seed s is a function of (s, k) alone, on any machine and in any order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from momu_dist.core.seeds import numpy_rng
from momu_dist.data.record import ClipRef, Record, cut
from momu_dist.data.sources import Missing
from momu_dist.data.sources.synthetic.dancer import dance
from momu_dist.data.sources.synthetic.music import render
from momu_dist.data.sources.synthetic.styles import STYLES, compose
from momu_dist.errors import DataError

FPS = 60.0


@dataclass(frozen=True)
class SyntheticClip:
    """A record and what is true of it: `moves_s` and `hits_s` in seconds within the clip, tempo, style."""

    record: Record
    moves_s: np.ndarray
    hits_s: np.ndarray
    bpm: float
    style: str


class Synthetic:
    """Music in four styles at 80-150 bpm with a dancer who moves on, before or between its sounds.

    root is not used (there is nothing to download). Each clip is its own group. clip_s is the length of
    every clip; jitter_px the noise of the imagined detector. 864 clips take about 5 s on one core.
    """

    name = "synthetic"

    def __init__(
        self,
        root: Path | None = None,
        n_clips: int = 864,
        clip_s: float = 8.192,
        seed: int = 0,
        jitter_px: float = 1.0,
    ) -> None:
        if isinstance(n_clips, bool) or not isinstance(n_clips, int) or not isinstance(seed, int):
            raise DataError(f"synthetic: n_clips={n_clips!r}, seed={seed!r}; give whole numbers.")
        if n_clips < 1 or not 0 < clip_s < math.inf or not math.isfinite(jitter_px):
            raise DataError(
                f"synthetic: n_clips={n_clips}, clip_s={clip_s}, jitter_px={jitter_px}; give at least one clip "
                "longer than 0 s, and finite numbers."
            )
        self.n_clips, self.clip_s, self.seed, self.jitter_px = (
            int(n_clips),
            float(clip_s),
            int(seed),
            float(jitter_px),
        )
        self.options = {"n_clips": n_clips, "clip_s": clip_s, "seed": seed, "jitter_px": jitter_px}

    def refs(self) -> list[ClipRef]:
        """All clips, in order of their index."""
        names = [f"synthetic_s{self.seed}_{index:05d}" for index in range(self.n_clips)]
        return [ClipRef(name, name, 0.0, self.clip_s, {"index": str(k)}) for k, name in enumerate(names)]

    def load(self, ref: ClipRef) -> Record:
        """The clip's record, composed now."""
        record = self.clip(int(ref.locator["index"])).record
        whole = ref.start_s == 0.0 and ref.end_s == self.clip_s
        return record if whole else cut(record, ref.start_s, ref.end_s, ref.clip_id)

    def missing(self) -> list[Missing]:
        """Nothing: every clip is composed when it is asked for."""
        return []

    def clip(self, index: int) -> SyntheticClip:
        """Clip `index` with its true times."""
        rng = numpy_rng("synthetic", self.seed, index)
        score = compose(rng, self.clip_s)
        audio = render(score, rng, self.clip_s)
        motion_px, conf = dance(score, rng, self.clip_s, FPS, self.jitter_px)
        name = f"synthetic_s{self.seed}_{index:05d}"
        beats_s = _inside(score.beats_s, self.clip_s).astype(np.float32)
        record = Record(name, name, motion_px, conf, FPS, audio, beats_s)
        moves_s, hits_s = _inside(score.moves_s, self.clip_s), _inside(score.hits_s, self.clip_s)
        return SyntheticClip(record, moves_s, hits_s, score.bpm, STYLES[score.style].name)


def _inside(times_s: np.ndarray, clip_s: float) -> np.ndarray:
    """The times within the clip, ascending."""
    return np.sort(times_s[(times_s >= 0.0) & (times_s < clip_s)])
