"""Using trained models: generation, files that a person can watch and hear, scores."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from momu_dist.data.audio_io import read_audio
    from momu_dist.inference.generator import Generator
    from momu_dist.inference.outputs import write_sample
    from momu_dist.inference.request import Request, Sample

__all__ = ["Generator", "Request", "Sample", "read_audio", "write_sample"]

# Fetched when they are asked for: every worker of a training imports `inference.export` from here, and the libraries
# of sound and pictures behind these names would double the seconds before its first step.
_PLACES = {
    "Generator": "momu_dist.inference.generator",
    "Request": "momu_dist.inference.request",
    "Sample": "momu_dist.inference.request",
    "read_audio": "momu_dist.data.audio_io",
    "write_sample": "momu_dist.inference.outputs",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
