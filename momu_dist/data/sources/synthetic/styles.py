"""The four styles: where a bar has its sounds, and by which rule the dancer answers them.

Times are in beats from the start of the bar; 0.5 is the off-beat, which swing delays (0.5 -> swing). Few
sounds a bar on purpose: with hats on all off-beats a wrong partner already scores near 0.6 within +-0.07 s,
and nothing could be shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Style:
    """One style.

    `bars`: variants of a bar, each a tuple of (beat, instruments); `answer`: "hits" (a move for each sound)
    or "offbeats" (moves between the beats only); `lead_beats`: how long before its sound a move comes.
    """

    name: str
    bpm: tuple[float, float]
    swing: tuple[float, float]
    beats_per_bar: int
    bars: tuple[tuple[tuple[float, str], ...], ...]
    answer: str
    lead_beats: float


STYLES: tuple[Style, ...] = (
    Style(
        "pop", (105.0, 150.0), (0.5, 0.5), 4,
        (
            ((0.0, "kick bass chord"), (1.0, "snare bass"), (2.0, "kick bass chord"), (3.0, "snare bass")),
            ((0.0, "kick bass chord"), (1.0, "snare bass"), (2.5, "kick bass chord"), (3.0, "snare bass")),
        ),
        "hits", 0.0,
    ),
    Style(
        "shuffle", (90.0, 135.0), (0.6, 0.67), 4,
        (
            ((0.0, "tom bass keys"), (1.0, "clap keys"), (1.5, "tom bass"), (3.0, "clap keys")),
            ((0.0, "tom bass keys"), (1.0, "clap keys"), (2.5, "tom bass"), (3.0, "clap keys")),
        ),
        "hits", 0.0,
    ),
    Style(
        "one_drop", (80.0, 112.0), (0.5, 0.6), 4,
        (
            ((0.5, "skank"), (1.5, "skank"), (2.0, "kick rim bass"), (2.5, "skank"), (3.5, "skank")),
            ((0.0, "kick bass"), (0.5, "skank"), (1.5, "skank"), (2.5, "skank rim"), (3.5, "skank")),
        ),
        "offbeats", 0.0,
    ),
    Style(
        "hip_hop", (80.0, 112.0), (0.5, 0.6), 4,
        (
            ((0.0, "boom low"), (1.0, "clap"), (1.5, "boom low"), (2.0, "boom"), (3.0, "clap low")),
            ((0.0, "boom low"), (1.0, "clap"), (2.5, "boom low"), (3.0, "clap")),
        ),
        "hits", 0.25,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Score:
    """What happens in a clip; times in s, some before 0 or after the end; `hits`: (time, instruments, bar)."""

    style: int
    bpm: float
    bars: tuple[float, ...]
    beats_s: np.ndarray
    hits: tuple[tuple[float, str, int], ...]
    moves_s: np.ndarray
    moves_place: np.ndarray

    @property
    def hits_s(self) -> np.ndarray:
        """Times of the sounds, ascending."""
        return np.array([time for time, _, _ in self.hits])


def compose(rng: np.random.Generator, clip_s: float, rest: float = 0.06, human_s: float = 0.005) -> Score:
    """A score that covers the clip with a bar to spare on both sides.

    The clip begins anywhere in a bar. With probability `rest` a sound and the move that answers it are both
    left out, so that a partner cannot be guessed from tempo and phase alone; moves are early or late by
    `human_s` (std, seconds).
    """
    index = int(rng.integers(len(STYLES)))
    style = STYLES[index]
    bpm = float(rng.uniform(*style.bpm))
    beat_s = 60.0 / bpm
    swing = float(rng.uniform(*style.swing))
    bar_s = style.beats_per_bar * beat_s
    start_s = -float(rng.uniform(1.0, 2.0)) * bar_s
    n_bars = int(np.ceil((clip_s - start_s) / bar_s)) + 1
    first, second = rng.integers(len(style.bars), size=2)
    bars = tuple(start_s + k * bar_s for k in range(n_bars))
    hits: list[tuple[float, str, int]] = []
    moves: list[tuple[float, int]] = []
    for k, bar_start_s in enumerate(bars):
        for place, instruments in style.bars[second if k % 4 == 3 else first]:
            if rng.random() < rest:
                continue
            straight = np.floor(place) + (swing if place % 1.0 else 0.0)
            hits.append((bar_start_s + float(straight) * beat_s, instruments, k))
            if style.answer == "hits" or place % 1.0:
                time_s = hits[-1][0] - style.lead_beats * beat_s + human_s * float(rng.standard_normal())
                moves.append((time_s, int(2 * place) + 8 * (k % 2)))
    beats_s = start_s + beat_s * np.arange(n_bars * style.beats_per_bar)
    return Score(
        style=index,
        bpm=bpm,
        bars=bars,
        beats_s=beats_s,
        hits=tuple(hits),
        moves_s=np.array([time for time, _ in moves]),
        moves_place=np.array([place for _, place in moves], dtype=np.int64),
    )
