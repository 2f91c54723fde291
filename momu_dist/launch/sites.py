"""One SLURM site: `configs/cluster/<name>.yaml`, or any YAML of that shape by its path."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from momu_dist.config.load import read_yaml
from momu_dist.config.tree import checked
from momu_dist.core.ranges import Checked, Secret
from momu_dist.errors import ConfigError, kind_of
from momu_dist.launch.sbatch import OWN, SITE, VARIABLES, Options, checked_options
from momu_dist.tracking import URI_VARIABLE, is_uri, uri_fault
from momu_dist.train.scratch import SOCKET_CHARACTERS, excess

CONFIGS = Path(__file__).parents[2] / "configs" / "cluster"


@dataclass(frozen=True)
class Site(Checked):
    """What a cluster wants of every job. Everything has a default: a site without a file needs none."""

    sbatch: dict[str, Any] = field(default_factory=dict)
    """Long options of sbatch, without dashes in front; the keys of VARIABLES."""
    env: Annotated[dict[str, str], Secret()] = field(default_factory=dict)
    """Set on every node, such as NCCL_SOCKET_IFNAME."""
    scratch: str = "/tmp"
    """A folder on each node's own disk, short: Ray's sockets lie in it, compiled parts and staged shards."""
    stage_data: bool = False
    """Copy the shards that a training reads to `scratch` of each node first."""
    tracking_uri: Annotated[str | None, Secret()] = None
    """An MLflow server for all runs of this site whose tracking.uri is auto, and for the names of their models."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, value in self.sbatch.items():
            if option not in VARIABLES:
                why = OWN.get(option, "give it to sbatch or `momu submit` on the command line")
                raise ConfigError(
                    f"sbatch.{option} cannot be set for a site: {why}; valid: {', '.join(VARIABLES)}."
                )
            # Of more types pydantic would say what each of them expects, as if there were no other.
            if not isinstance(value, bool | int | str):
                found = "empty" if value is None else repr(value)
                raise ConfigError(f"sbatch.{option} is {found}, expected a text or a whole number.")
        checked_options(self.sbatch)
        for name, value in self.env.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name, re.ASCII):
                raise ConfigError(f"env.{name} is not the name of a variable.")
            if not value.isprintable():
                raise ConfigError(
                    f"env.{name} is {kind_of(value)}, expected a text without control characters."
                )
        if "TMPDIR" in self.env:
            raise ConfigError(
                "env.TMPDIR cannot be set for a site: a job's Ray keeps its temporary files below `scratch`; set that."
            )
        if self.tracking_uri is not None and not is_uri(self.tracking_uri):
            raise ConfigError(f"tracking_uri {uri_fault(self.tracking_uri)}.")
        if self.tracking_uri is not None and URI_VARIABLE in self.env:
            raise ConfigError(f"env.{URI_VARIABLE} and tracking_uri set the same; leave one of them out.")
        too_many = excess(self.scratch)
        if not Path(self.scratch).is_absolute() or too_many > 0:
            most = len(os.fsencode(self.scratch)) - too_many
            raise ConfigError(
                f"scratch is {self.scratch!r}, expected an absolute path of at most {most} characters: the sockets of Ray lie in "
                f"it, and a socket's path may have {SOCKET_CHARACTERS}."
            )

    def options(self) -> Options:
        """Return what this site wants of sbatch."""
        return checked_options(self.sbatch)

    def variables(self) -> dict[str, str]:
        """Return what is set on every node. The tracking URI may hold a password, and is handed on in no other way."""
        return self.env | ({} if self.tracking_uri is None else {URI_VARIABLE: self.tracking_uri})

    def exports(self, name: str) -> str:
        """Return shell lines that make a plain `sbatch jobs/...` a job of this site, for `eval`."""
        values = {VARIABLES[option]: str(value) for option, value in self.options().items()} | {SITE: name}
        others = [variable for variable in VARIABLES.values() if variable not in values]  # of a site before
        exports = "".join(f"export {variable}={shlex.quote(value)}\n" for variable, value in values.items())
        return f"unset {' '.join(others)}\n{exports}"


def load_site(name: str) -> Site:
    """Return the site `name`, or of the YAML at that path; ConfigError names what there is."""
    path = _path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.yaml"))) or "none"
        raise ConfigError(
            f"no site at {path}; there are: {known}. Copy configs/cluster/example.yaml and set your own values."
        )
    site: Site = checked(Site, read_yaml(path, Site), str(path), "")
    return site


def site_name(name: str) -> str:
    """Return a name that means the same site wherever a job runs: a path becomes an absolute one."""
    path = _path(name)
    return name if path.parent == CONFIGS else str(path.absolute())


def _path(name: str) -> Path:
    return Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / f"{name}.yaml"
