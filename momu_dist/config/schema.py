"""The typed shape of a run. Values the paper does not state are DERIVED and say so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Strategy = Literal["local", "ddp", "zero1", "zero2", "zero3"]


@dataclass(frozen=True)
class DataConfig:
    """What is read. Lengths are seconds; a clip shorter than the drawn length is used whole."""

    root: str = "data/prepared"
    length_s: tuple[float, float] = (10.0, 10.0)  # crop length, drawn per sample (VAE crops: DERIVED)
    latents: str | None = (
        None  # folder of cached latents; default: <root>/latents/<fingerprint of weights and data>
    )
    expected_clips: int = 1524  # what --dry-run counts with where `root` is not there yet
    shuffle_row_groups: int = (
        8  # row groups mixed in one shuffle window; each worker keeps that many in memory
    )
    validation_clips: int = 64


@dataclass(frozen=True)
class InputsConfig:
    """Trained weights this run starts from: run folders, export folders, or registered models (`models:/NAME@ALIAS`)."""

    music_vae: str | None = None
    motion_vae: str | None = None
    init_from: str | None = None


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its learning rate over steps (`schedule`: constant, or cosine to zero; both after a linear warm-up)."""

    lr: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01  # NOT STATED in the paper; torch's AdamW default
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    clip_norm: float = 1.0


@dataclass(frozen=True)
class TrainConfig:
    """How the run is executed. The global batch is constant: accumulation = global / (micro x workers)."""

    strategy: Strategy = "zero1"
    workers: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None  # CPU threads of one worker; None leaves torch's default
    worker_cpus: float = 1.0  # logical CPUs that one worker takes from Ray
    global_batch: int = 64
    micro_batch: int | None = None  # samples a worker takes at once; None: global_batch / workers
    epochs: float = 1.0
    max_steps: int | None = None
    precision: Literal["fp32", "bf16"] = (
        "fp32"  # bf16 is autocast around everything a phase computes; weights stay fp32
    )
    ema_decay: float | None = 0.999
    log_every: int = 10
    validate_every: int = 500
    sample_every: int | None = None  # None: only at the end
    checkpoint_every: int = 500
    keep_last: int = 2
    max_failures: int = 3


@dataclass(frozen=True)
class TrackingConfig:
    """Where metrics go: `auto` is an sqlite file beside the runs, `none` only the run folder, or an MLflow URI."""

    uri: str = "auto"
    experiment: str = "momu"
    registered_model: str | None = None  # name of the run's model in the registry; None: momu-<stage>


@dataclass(frozen=True)
class RunConfig:
    """One run. `model` and `loss` are checked against the dataclasses that the stage names in `core.catalog`."""

    stage: str
    name: str
    model: Any
    loss: Any
    seed: int = 0
    out: str = "runs"
    data: DataConfig = field(default_factory=DataConfig)
    inputs: InputsConfig = field(default_factory=InputsConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
