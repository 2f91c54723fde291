"""The typed shape of a run. Values the paper does not state are DERIVED and say so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from momu_dist.core.ranges import Checked, Count, Decay, Name, Range, Secret, Weight

Strategy = Literal["local", "ddp", "zero1", "zero2", "zero3"]
Interval = Annotated[int, Range(1)]
Seconds = Annotated[float, Range(0.032, 86_400)]  # from one latent to a day


@dataclass(frozen=True)
class DataConfig(Checked):
    """What is read. Lengths are seconds; a clip shorter than the drawn length is used whole."""

    root: str = "data/prepared"
    length_s: tuple[Seconds, Seconds] = (10.0, 10.0)  # crop length, drawn per sample (VAE crops: DERIVED)
    latents: str | None = (
        None  # folder of cached latents; default: <root>/latents/<fingerprint of weights and data>
    )
    expected_clips: Count = 1524  # what --dry-run counts with where `root` is not there yet
    shuffle_row_groups: Count = (
        8  # row groups mixed in one shuffle window; each worker keeps that many in memory, more with buckets
    )
    # Clips are batched with clips of their length, from at most so many buckets of nearly equal count; 1 takes them as they
    # come. DERIVED: of 1,524 clips of 7 to 25 s in batches of 64, 12 % of a batch is padding with 4 and 35 % with 1, while a
    # worker keeps 19 row groups in place of 10.
    length_buckets: Count = 4
    validation_clips: Annotated[int, Range(0)] = 64


@dataclass(frozen=True)
class InputsConfig(Checked):
    """Trained weights this run starts from: run folders, export folders, or registered models (`models:/NAME@ALIAS`)."""

    music_vae: str | None = None
    motion_vae: str | None = None
    init_from: str | None = None


@dataclass(frozen=True)
class OptimConfig(Checked):
    """AdamW and its learning rate over steps (`schedule`: constant, or cosine to zero; both after a linear warm-up)."""

    lr: Weight = 2e-4
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: Weight = 0.01  # NOT STATED in the paper; torch's AdamW default
    warmup_steps: Annotated[int, Range(0)] = 0
    schedule: Literal["constant", "cosine"] = "constant"
    clip_norm: Annotated[float, Range(0, above=True)] = 1.0


@dataclass(frozen=True)
class TrainConfig(Checked):
    """How the run is executed. The global batch is constant: accumulation = global / (micro x workers)."""

    strategy: Strategy = "zero1"
    workers: Count = 1
    min_workers: Count | None = (
        None  # goes on with as few where machines are lost, and with more when they are back; None: `workers` always
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Range(1, 1024)] | None = (
        None  # CPU threads of one worker; None leaves torch's default
    )
    worker_cpus: Annotated[float, Range(0, above=True)] = 1.0  # logical CPUs that one worker takes from Ray
    global_batch: Count = 64
    micro_batch: Count | None = (
        None  # samples a worker takes at once; None: global_batch / workers, also on fewer
    )
    epochs: Annotated[float, Range(0, 1e9, above=True)] = 1.0
    max_steps: Annotated[int, Range(1, 1e12)] | None = None
    precision: Literal["fp32", "bf16"] = (
        "fp32"  # bf16 is autocast around everything a phase computes; weights stay fp32
    )
    ema_decay: Decay | None = 0.999
    log_every: Interval = 10
    validate_every: Interval = 500
    sample_every: Interval | None = None  # None: only at the end
    previews: bool = True  # False: no samples at all, not even at the end
    checkpoint_every: Interval = 500
    keep_last: Interval = 2  # checkpoints
    keep_best: Annotated[int, Range(0)] = 1  # checkpoints with the lowest validation values, besides
    record_samples: bool = False  # keep which samples each step saw, in samples-seen/ of the run folder
    max_failures: int = 3
    stall_s: Annotated[float, Range(0, above=True)] = (
        1800.0  # without a sign of progress for so long, the workers are restarted (DERIVED)
    )

    def usable(self, available: int) -> int:
        """The largest number of workers, of at most `available`, among which the global batch divides; at least 1."""
        micro = self.micro_batch or 1
        return next(n for n in range(available, 0, -1) if n == 1 or self.global_batch % (n * micro) == 0)

    @property
    def micro(self) -> int:
        """Samples a worker takes at once, however many workers there are at the time."""
        return self.micro_batch or self.global_batch // self.usable(self.workers)

    @property
    def fewest(self) -> int:
        """Workers without which the run cannot go on: those it starts with, but for one whose number may change."""
        usable = self.usable(self.workers)
        least = usable if self.min_workers is None else min(self.min_workers, usable)
        return next(n for n in range(least, usable + 1) if self.fits(n))

    def fits(self, workers: int) -> bool:
        """Whether so many workers can share the global batch in whole micro-batches."""
        return self.global_batch % (workers * self.micro) == 0


@dataclass(frozen=True)
class TrackingConfig(Checked):
    """Where metrics go: `none` is only the run folder, else an MLflow URI.

    `auto` is that of MLFLOW_TRACKING_URI, else an sqlite file beside the runs.
    """

    uri: Annotated[str, Secret()] = "auto"
    experiment: str = "momu"
    registered_model: Annotated[str, Name()] | None = (
        None  # name of the run's model in the registry; None: momu-<stage>
    )


@dataclass(frozen=True)
class RunConfig(Checked):
    """One run. `model` and `loss` are checked against the dataclasses that the stage names in `core.catalog`."""

    stage: str
    name: Annotated[str, Name()]  # of the run folder in `out`
    model: Any
    loss: Any
    seed: int = 0
    out: str = "runs"
    data: DataConfig = field(default_factory=DataConfig)
    inputs: InputsConfig = field(default_factory=InputsConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
