"""Using trained models: generation, files that a person can watch and hear, scores."""

from momu_dist.data.audio_io import read_audio
from momu_dist.inference.generator import Generator, Request, Sample
from momu_dist.inference.outputs import write_sample

__all__ = ["Generator", "Request", "Sample", "read_audio", "write_sample"]
