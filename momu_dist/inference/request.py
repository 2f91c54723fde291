"""What is asked of a generator, and what it gives."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from momu_dist.core.audio.mel import MEL_RATE_HZ
from momu_dist.inference.likeness import Like

Task = Literal["a2m", "m2a", "joint"]
# Directions whose networks a task asks.
DIRECTIONS_OF: dict[Task, tuple[str, ...]] = {"a2m": ("a2m",), "m2a": ("m2a",), "joint": ("m2a", "a2m")}
MIN_SECONDS, MAX_SECONDS = 1.0, 600.0


@dataclass(frozen=True)
class Request:
    """One sample to make. `a2m` needs `audio` (n,) at 16 kHz, `m2a` needs `motion_px` (T, 14, 2) at `fps`, `joint` `seconds`.

    `seconds` cuts a given input. The same request gives the same sample, alone or in a batch.

    Motion at exactly 62.5 fps is on the mel grid (frame i at (i + 0.5) / 62.5 s, as prepared clips and our own files are;
    no camera runs at that rate) and is kept to the bit; at any other rate frame i is at i / fps s and is resampled.
    `sampler` is a name of `core.catalog.SAMPLERS`; `ddpm` takes all steps of the schedule, whatever `steps` says.
    `joint` takes a deterministic one, ddim or dpm++. `like` mixes the noise of a liked sample into that of `seed`.
    """

    task: Task
    seed: int = 0
    seconds: float | None = None
    steps: int = 50
    guidance: float = 3.0
    gamma: float = 0.5
    sampler: str = "ddim"
    audio: np.ndarray | None = None
    motion_px: np.ndarray | None = None
    fps: float = MEL_RATE_HZ
    like: Like | None = None


@dataclass(frozen=True)
class Sample:
    """Motion (T, 14, 2) px at 62.5 Hz with music: mel (80, T) log10, audio (256 T,) at 16 kHz, and their beats in s."""

    request: Request
    motion_px: np.ndarray
    mel: np.ndarray
    audio: np.ndarray
    onsets_s: np.ndarray
    beats_s: np.ndarray
    vocoder: str | None

    def recipe(self) -> dict[str, Any]:
        """Return what is needed to make the sample again, besides its input and the weights."""
        request = self.request
        names = ["task", "seed", "steps", "guidance", "sampler"]
        if request.task == "joint":
            names.append("gamma")
        if request.motion_px is not None:
            names.append("fps")
        made = {name: getattr(request, name) for name in names}
        if request.like is not None:
            made["like"] = asdict(request.like)
        return {**made, "seconds": len(self.motion_px) / MEL_RATE_HZ, "vocoder": self.vocoder}


def variations(request: Request, n: int) -> list[Request]:
    """Return `n` requests like `request` with seeds seed, seed + 1, ..."""
    return [replace(request, seed=request.seed + i) for i in range(n)]
