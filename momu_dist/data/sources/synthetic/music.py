"""The sound of a score: drums, bass and chords, additive and quick (every note is rendered once and kept)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from momu_dist.core.seeds import numpy_rng
from momu_dist.data.sources.synthetic.styles import Score

SAMPLE_RATE = 16000

# Roots (semitones above the key) and thirds of four common progressions.
PROGRESSIONS: tuple[tuple[tuple[int, int], ...], ...] = (
    ((0, 4), (7, 4), (9, 3), (5, 4)),
    ((0, 3), (8, 4), (3, 4), (10, 4)),
    ((0, 4), (9, 3), (5, 4), (7, 4)),
    ((0, 3), (5, 3), (10, 4), (7, 3)),
)


def _time_s(length_s: float) -> np.ndarray:
    return np.arange(int(length_s * SAMPLE_RATE)) / SAMPLE_RATE


def _fade_out(wave: np.ndarray) -> np.ndarray:
    """The wave with its last 10 ms faded, so that a cut tail does not click (a click is an onset)."""
    n = min(len(wave), SAMPLE_RATE // 100)
    wave = wave.copy()
    wave[len(wave) - n :] *= np.linspace(1.0, 0.0, n)
    return wave


@lru_cache(maxsize=64)
def _drum(name: str) -> np.ndarray:
    """One drum hit, (n,) float64, peak about 1."""
    noise = numpy_rng("synthetic drum", name).standard_normal(SAMPLE_RATE)
    high = np.diff(noise, prepend=0.0) * 0.5
    if name in ("kick", "boom", "tom"):
        low_hz, sweep_hz, decay_s = {"kick": (50, 130, 0.09), "boom": (42, 70, 0.16), "tom": (95, 60, 0.10)}[
            name
        ]
        t = _time_s(0.35)
        phase = 2 * np.pi * (low_hz * t + sweep_hz * 0.03 * (1 - np.exp(-t / 0.03)))
        click = 0.35 * noise[: len(t)] * np.exp(-t / 0.004)
        return _fade_out(np.sin(phase) * np.exp(-t / decay_s) + click)
    decay_s, tone_hz, tone, bright = {
        "snare": (0.07, 190.0, 0.5, 0.5),
        "clap": (0.05, 950.0, 0.1, 0.9),
        "rim": (0.02, 1700.0, 0.6, 0.4),
    }[name]
    t = _time_s(0.25)
    body = tone * np.sin(2 * np.pi * tone_hz * t) * np.exp(-t / decay_s)
    air = (bright * high[: len(t)] + 0.25 * noise[: len(t)]) * np.exp(-t / decay_s)
    return _fade_out(0.7 * (body + air))


@lru_cache(maxsize=1024)
def _note(midi: int, kind: str) -> np.ndarray:
    """One struck note, (n,) float64: a sharp attack and a decay that ends inside the note."""
    length_s, decay_s, slope, partials = {
        "bass": (0.6, 0.22, 1.3, 6),
        "low": (0.6, 0.30, 2.0, 3),
        "chord": (0.7, 0.25, 1.6, 6),
        "keys": (0.5, 0.14, 1.1, 7),
        "skank": (0.22, 0.06, 0.9, 9),
    }[kind]
    t = _time_s(length_s)
    hz = 440.0 * 2.0 ** ((midi - 69) / 12)
    wave = np.zeros(len(t))
    for k in range(1, partials + 1):
        if k * hz < 0.45 * SAMPLE_RATE:
            wave += np.sin(2 * np.pi * k * hz * t + 0.3 * k * k) * k**-slope * np.exp(-t * (k - 1) * 4.0)
    return _fade_out(wave * np.minimum(t / 0.003, 1.0) * np.exp(-t / decay_s))


# Levels that make every sound an onset of about the same strength.
_LEVEL = {
    "kick": 0.9, "boom": 0.9, "tom": 0.8, "snare": 0.8, "clap": 0.8, "rim": 0.5,
    "bass": 0.30, "low": 0.35, "chord": 0.10, "keys": 0.11, "skank": 0.20, "pad": 0.012,
}  # fmt: skip
_DRUMS = frozenset(("kick", "boom", "tom", "snare", "clap", "rim"))


def render(score: Score, rng: np.random.Generator, clip_s: float) -> np.ndarray:
    """The clip's music, (n,) float32 at 16 kHz, peak 0.8: the score from 0 to `clip_s` seconds."""
    n = int(round(clip_s * SAMPLE_RATE))
    out = np.zeros(n)
    key = int(rng.integers(-5, 6))
    progression = PROGRESSIONS[int(rng.integers(len(PROGRESSIONS)))]
    level = {name: gain * float(rng.uniform(0.85, 1.15)) for name, gain in _LEVEL.items()}
    for time_s, instruments, bar in score.hits:
        root, third = progression[bar % len(progression)]
        for name in instruments.split():
            if name in _DRUMS:
                _add(out, _drum(name), level[name], time_s)
            elif name in ("bass", "low"):
                _add(out, _note(36 + (key + root) % 12, name), level[name], time_s)
            else:
                for step in (0, third, 7):
                    _add(out, _note(57 + (key + root + step) % 12, name), level[name], time_s)
    _add_pad(out, score, key, progression, level["pad"])
    out += 2e-4 * rng.standard_normal(n, dtype=np.float32)
    peak = float(np.abs(out).max())
    return (out * (0.8 / peak) if peak > 0 else out).astype(np.float32)


@lru_cache(maxsize=32)
def _held(midi: int) -> np.ndarray:
    """A held tone, 4 s, (n,) float64: as long as the slowest bar and its crossfade."""
    phase = 2 * np.pi * 440.0 * 2.0 ** ((midi - 69) / 12) * _time_s(4.0)
    return np.asarray(np.sin(phase) + 0.4 * np.sin(2 * phase))


def _add_pad(
    out: np.ndarray, score: Score, key: int, progression: tuple[tuple[int, int], ...], level: float
) -> None:
    """Adds held chords under the music, crossfading over 0.3 s at each bar: heard, but never an onset."""
    bar_s = score.bars[1] - score.bars[0]
    n, fade = int((bar_s + 0.3) * SAMPLE_RATE), int(0.3 * SAMPLE_RATE)
    gate = np.ones(n)
    gate[:fade] = np.linspace(0.0, 1.0, fade)
    gate[n - fade :] = gate[:fade][::-1]
    for bar, start_s in enumerate(score.bars):
        root, third = progression[bar % len(progression)]
        chord = sum(_held(57 + (key + root + step) % 12)[:n] for step in (0, third, 7))
        _add(out, gate * chord, level, start_s)


def _add(out: np.ndarray, wave: np.ndarray, gain: float, time_s: float) -> None:
    """Adds a sound at its time, cut at both ends of the clip."""
    start = int(round(time_s * SAMPLE_RATE))
    lo, hi = max(start, 0), min(start + len(wave), len(out))
    if lo < hi:
        out[lo:hi] += gain * wave[lo - start : hi - start]
