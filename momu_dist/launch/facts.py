"""The files that a job has in `runs/slurm/<job>/`, as others read them. Whatever stands in one, it ends in no traceback."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, ValidationError

from momu_dist.errors import DataError
from momu_dist.launch.status import JOBS, RAY, RECORD, STATUS
from momu_dist.launch.terminal import one_line

HERE = "momu looks in the folder that it is called from: call it in the checkout from which the job was submitted"

_CLOCKS_S = 30.0
"""How far the clocks of a node and of the login node may be apart; more is wrong for the doctor too."""

Text = Annotated[str, AfterValidator(one_line)]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True)


class Ended(_File):
    code: int
    why: Text
    first_failure: Text | None = None
    requeued: bool | None = None


class Node(_File):
    name: Text


class Facts(_File):
    """What the launcher tells of its newest attempt; all of it is empty before it has told anything."""

    name: Text = ""
    restart: int = 0
    work: tuple[Text, ...] = ()
    nodes: tuple[Node, ...] = ()
    phase: Text = ""
    phases_s: dict[Text, float] = {}
    run: Text | None = None
    step: int = 0
    total_steps: int | None = None
    failures: int = 0
    ended: Ended | None = None


class Record(_File):
    """What `momu submit` writes down of a job that SLURM has taken: all that is known of one that never begins."""

    submitted: AwareDatetime
    name: Text
    work: tuple[Text, ...] = ()
    """Of a job that is no array."""
    after: tuple[Text, ...] = ()
    elements: tuple[Text, ...] = ()
    """Names of the elements of an array."""


class RayOfJob(_File):
    """How the Ray of a running job is reached."""

    head: str
    address: str
    """Of Ray itself, for what runs on the job's nodes."""
    dashboard: str
    token_file: str


_Kind = TypeVar("_Kind", bound=_File)


def read_facts(job: str) -> Facts:
    """Return what a job's launcher tells. DataError where the file is something else."""
    return _read(job, STATUS, Facts) or Facts()


def read_record(job: str) -> Record | None:
    """Return what was written down of a job when it was submitted; None for a plain sbatch. DataError as `read_facts`."""
    return _read(job, RECORD, Record)


def read_ray(job: str) -> RayOfJob | None:
    """Return how the Ray of a job is reached; None before it is up. DataError as `read_facts`."""
    return _read(job, RAY, RayOfJob)


def write_record(job: str, record: Record) -> None:
    """Write that down; the disk that refuses it raises OSError."""
    path = JOBS / job / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".writing")
    temporary.write_text(record.model_dump_json(indent=2) + "\n")
    os.replace(temporary, path)


def of_older_job(path: Path, job: str) -> bool:
    """Return whether a file was written last before a job was submitted: a cluster that is set up anew counts from 1 again.

    Nobody knows of a plain sbatch.
    """
    try:
        return path.stat().st_mtime < (JOBS / job / RECORD).stat().st_mtime - _CLOCKS_S
    except OSError:
        return False


def _read(job: str, name: str, kind: type[_Kind]) -> _Kind | None:
    path: Path = JOBS / job / name
    if of_older_job(path, job):
        return None
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is no file, as a job writes there.")
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(
            one_line(
                f"{path} is not what a job writes there ({f'{place}: ' if place else ''}{first['msg']})."
            )
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error
