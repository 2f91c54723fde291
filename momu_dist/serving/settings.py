"""What an operator sets: `serve/app.yaml` and `momu serve`, checked in one place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from momu_dist.errors import ConfigError
from momu_dist.serving.faults import faults

DEFAULT_CONFIG = Path("serve/app.yaml")

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class ServiceSettings(BaseModel):
    """Settings of the service, with limits on what one client may take of it.

    `checkpoint`: run folders, exports, or names in the registry (models:/NAME@ALIAS), which are looked up again every
    `watch_s`: a new version takes over without a failed request. `state`: folder of uploads, jobs and results.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: list[str] = Field(..., min_length=1)
    vocoder: str | None = None
    device: str | None = None
    threads: Count | None = None
    """CPU threads of torch in a replica; None: the cores, shared by the replicas."""
    tracking_uri: str | None = None
    watch_s: Seconds = 10.0
    state: str = "runs/serve"
    token_file: str | None = None
    """A file with the token that clients must send; without, anyone who reaches the port may ask."""

    replicas: Count = 1
    """Processes that hold the models."""
    cpus: Annotated[float, Field(ge=0)] = 1.0
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """What each of them takes of Ray's resources."""
    max_batch: Count = 16
    """Samples that share network calls in one replica."""
    queue: Count = 64
    """Samples that are accepted and not yet answered; more are refused with 429. Items of jobs do not count."""
    receive_s: Seconds = 60.0
    """A body that takes longer to come is given up with 408; until it is there, it holds no place of others."""
    deadline_s: Seconds = 600.0
    """A request that takes longer from then on is given up with 504; an item of a job, for this time."""
    stall_s: Seconds = 120.0
    """A replica with work that makes no step for so long, or reads or writes one sample for so long, is replaced; while none
    comes further for so long, the service is not ready."""

    max_seconds: Seconds = 120.0
    max_steps: Count = 1000
    max_samples: Count = 8
    """Samples of one item."""
    max_body_mb: Seconds = 64.0

    max_items: Count = 10_000
    """Items of one job."""
    max_pending: Count = 20_000
    """Items of all jobs that wait or are in work."""
    jobs_at_once: Count = 8
    """Items of jobs in work at a time, and samples of theirs under way in one replica: below `max_batch`, or requests
    wait until one of them ends."""
    keep_s: Seconds = 7 * 24 * 3600.0
    """Uploads, jobs and results go after this time."""
    max_stored_gb: Seconds = 50.0
    """Uploads and results that are kept together; beyond it uploads and batches get 507, and jobs wait until some expire."""


def settings_from(values: dict[str, Any]) -> ServiceSettings:
    """The settings that `values` give. Raises ConfigError that names each fault."""
    try:
        return ServiceSettings(**values)
    except ValidationError as error:
        known = ", ".join(ServiceSettings.model_fields)
        raise ConfigError(
            f"the service's settings cannot be used ({faults(error.errors())}); it knows {known}."
        ) from error


def read_config(path: Path | None, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings (`args` of the one application) and the HTTP options of a Serve config file, `key=value` on top.

    None is the working directory's serve/app.yaml, where there is one. Raises ConfigError for a file that is missing or of
    another shape.
    """
    args, http = ({}, {}) if path is None and not DEFAULT_CONFIG.exists() else _read(path or DEFAULT_CONFIG)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"{override!r} is no setting, expected key=value such as queue=16.")
        args[key] = yaml.safe_load(value)
    return args, http


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        tree = yaml.safe_load(path.read_text())
        (application,) = tree["applications"]
        return dict(application.get("args") or {}), dict(tree.get("http_options") or {})
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); give a Serve config such as serve/app.yaml."
        ) from error
    except (yaml.YAMLError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path} is no Serve config with one application and its args; see serve/app.yaml."
        ) from error
