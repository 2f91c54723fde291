"""What a client may ask for one item, checked: the query of a request and a line of a batch are the same thing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, field_validator
from pydantic_core import PydanticCustomError

from momu_dist.inference.request import MAX_SECONDS, MIN_SECONDS, Request, Task
from momu_dist.serving.store_schema import DDPM_STEPS, steps_of

Format = Literal["wav", "npz", "json", "bvh", "csv", "mp4", "png"]
MEDIA_TYPES: dict[Format, str] = {
    "wav": "audio/wav",
    "npz": "application/octet-stream",
    "json": "application/json",
    "bvh": "text/plain; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "mp4": "video/mp4",
    "png": "image/png",
}
ZIP = "application/zip"
"""What several samples of one item come as."""

PATHS: dict[Task, str] = {"m2a": "motion-to-music", "a2m": "music-to-motion", "joint": "joint"}
FILE_ID = r"^[0-9a-f]{32}$"


def _plus(name: Any) -> Any:
    """In a query a plus that is not written %2B means a space."""
    return name.replace(" ", "+") if isinstance(name, str) else name


class Settings(BaseModel):
    """How one item is to be sampled and what it is to come as; the fields mean what those of `Request` mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Format = Field("mp4", description="what the answer is; several samples come as a zip of them")
    seconds: Annotated[float, Field(ge=MIN_SECONDS, le=MAX_SECONDS, allow_inf_nan=False)] | None = Field(
        None, description="length; cuts a longer input, and must be given where there is no input"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="of the noise: the same seed gives the same sample")
    n: int = Field(1, ge=1, le=64, description="number of samples, seeds counted up from `seed`")
    steps: int = Field(
        50, ge=1, le=1000, description=f"sampling steps; ddpm takes {DDPM_STEPS}, whatever is given"
    )
    sampler: Annotated[Literal["ddim", "dpm++", "ddpm"], BeforeValidator(_plus)] = Field(
        "ddim", description="joint takes ddim or dpm++"
    )
    guidance: float = Field(3.0, ge=-100, le=100, allow_inf_nan=False, description="guidance scale")

    @field_validator(
        "seconds", "seed", "n", "steps", "guidance", "fps", "gamma", mode="before", check_fields=False
    )
    @classmethod
    def _number(cls, value: Any) -> Any:
        """Refuse what Python takes for a number, and nobody else."""
        if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
            raise PydanticCustomError("number", "Input should be a number")
        return value

    @property
    def steps_each(self) -> int:
        """Sampler steps of one sample."""
        return steps_of({"steps": self.steps, "sampler": self.sampler})


class FromMusic(Settings):
    """Motion from music: `file` names an uploaded one where the request's body is not the music itself."""

    file: str | None = Field(None, pattern=FILE_ID, description="id of an uploaded audio or video file")


class FromMotion(Settings):
    """Music from motion."""

    file: str | None = Field(None, pattern=FILE_ID, description="id of an uploaded motion file")
    fps: float | None = Field(None, ge=1, le=10_000, description="rate of motion whose file does not hold it")


class Joint(Settings):
    """Music and motion from nothing."""

    seconds: float = Field(..., ge=MIN_SECONDS, le=MAX_SECONDS, allow_inf_nan=False)
    gamma: float = Field(0.5, ge=0, le=1, description="share of steps under cross guidance")


class MusicItem(FromMusic):
    """A line of a batch: motion from music."""

    task: Literal["a2m"]
    id: str | None = Field(None, max_length=200, description="your own name of the item, given back with it")
    file: str = Field(..., pattern=FILE_ID)


class MotionItem(FromMotion):
    """A line of a batch: music from motion."""

    task: Literal["m2a"]
    id: str | None = Field(None, max_length=200)
    file: str = Field(..., pattern=FILE_ID)


class JointItem(Joint):
    """A line of a batch: both from nothing."""

    task: Literal["joint"]
    id: str | None = Field(None, max_length=200)


ITEM: TypeAdapter[Any] = TypeAdapter(
    Annotated[MusicItem | MotionItem | JointItem, Field(discriminator="task")]
)
"""One line of a batch."""
SETTINGS: dict[Task, type[Settings]] = {"a2m": FromMusic, "m2a": FromMotion, "joint": Joint}
"""What may be set for each task."""


def request_of(task: Task, settings: Settings, inputs: dict[str, Any]) -> Request:
    """The request of the first sample; `inputs` are the fields that the item's file gives (`reading.read_bytes`)."""
    names = ("seconds", "seed", "steps", "sampler", "guidance", "gamma")
    values = {name: getattr(settings, name) for name in names if hasattr(settings, name)}
    return Request(task, **values, **inputs)
