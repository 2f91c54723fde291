"""Checkpoints for resuming as they lie on disk: what counts, and how it is told from what is torn. No torch."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from momu_dist.data.hashes import file_sha256
from momu_dist.errors import CheckpointError

logger = logging.getLogger(__name__)

STATE = "state.json"
EXPORT = "export"


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint; `state` is what the loop stored of itself."""

    folder: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """The number of steps that are done."""
        return int(self.state["step"])

    @property
    def world_size(self) -> int:
        """The number of workers that wrote it."""
        return int(self.state["world_size"])

    @property
    def export(self) -> Path:
        """The same weights (their average, where the run has one) as safetensors and JSON."""
        return self.folder / EXPORT


def checkpoint_folders(folder: Path) -> list[Path]:
    """Return the committed checkpoints in the folder `checkpoints/` of a run, whole or not, the newest first."""
    return sorted((path for path in folder.glob("step-*") if path.is_dir()), reverse=True)


def newest_checkpoint(folder: Path, tell: Callable[[str], None] = logger.warning) -> Checkpoint | None:
    """Return the newest checkpoint in `folder` that is whole, or None; what is torn or altered is told of and passed over."""
    for path in checkpoint_folders(folder):
        try:
            return verified(path)
        except CheckpointError as error:
            tell(f"{error} It is passed over for the one before.")
    return None


def derived_folder(checkpoint: Path, name: str) -> Path:
    """Return where `name`, made from the checkpoint at that folder, lies; it is dropped together with it."""
    return checkpoint.with_name(f".{name}-of-{checkpoint.name}")


def read_state(folder: Path) -> dict[str, Any]:
    """Return the state of the checkpoint at `folder`; CheckpointError where it is not what was written."""
    path = folder / STATE
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        if digest({key: value for key, value in state.items() if key != "sha256"}) != state["sha256"]:
            raise ValueError("it does not have the hash written with it")
        if state["step"] != int(folder.name.removeprefix("step-")):
            raise ValueError("it is of another step")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is torn or was changed ({error}).") from error
    return state


def verified(folder: Path) -> Checkpoint:
    """Return the checkpoint at `folder`; CheckpointError where any file of it is not what was written."""
    state = read_state(folder)
    for name, digest in state["files"].items():
        if not (folder / name).is_file() or file_sha256(folder / name) != digest:
            raise CheckpointError(f"{folder / name} is torn or was changed.")
    return Checkpoint(folder, state)


def digest(state: Mapping[str, Any]) -> str:
    """Return the hash that a state holds of itself."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
