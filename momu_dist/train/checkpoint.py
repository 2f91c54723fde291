"""Checkpoints for resuming as they lie on disk: what counts, and how it is told from what is torn. No torch."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from momu_dist.errors import CheckpointError, DiskError

logger = logging.getLogger(__name__)

STATE = "state.json"
EXPORT = "export"
_FORM = {"local": "torch", "ddp": "torch"}  # strategies that write the same files
_NAME = re.compile(r"step-\d{9,}")  # a copy that somebody made beside it has another


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
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    """Return the step of the checkpoint at `folder` by its name, without a look into it."""
    return int(folder.name.removeprefix("step-"))


def newest_checkpoint(folder: Path, tell: Callable[[str], None] = logger.warning) -> Checkpoint | None:
    """Return the newest checkpoint in `folder` that is whole; None where none was ever committed.

    What is torn or altered is told of and passed over. Raises CheckpointError where all are: a run of days should not
    start anew without having been asked to.
    """
    found = checkpoint_folders(folder)
    for path in found:
        try:
            return verified(path)
        except CheckpointError as error:
            if path == found[-1]:
                raise CheckpointError(
                    f"no checkpoint of {len(found)} in {folder} is whole; the last that was tried: {error} Bring one back from a "
                    f"copy, or delete {folder} to start anew."
                ) from error
            tell(f"{error} {path.name} is passed over for the one before.")
    return None


def committed_step(folder: Path) -> int:
    """Return the step of the newest checkpoint in `folder` by its name, without a look into it; 0 where there is none."""
    found = checkpoint_folders(folder)
    return step_of(found[0]) if found else 0


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
        if state["step"] != step_of(folder):
            raise ValueError("it is of another step")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing.") from error
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is torn or was changed ({error}).") from error
    return state


def unreadable(path: Path, error: OSError) -> DiskError:
    """Return the error for a file that the system does not give, which says nothing about what is in it."""
    return DiskError(
        f"{path} cannot be read ({error.strerror}); mend the disk or the permissions and run the same command."
    )


def verified(folder: Path) -> Checkpoint:
    """Return the checkpoint at `folder`; CheckpointError where any file of it is not what was written."""
    state = read_state(folder)
    check_files(folder, state["files"])
    return Checkpoint(folder, state)


def check_files(folder: Path, hashes: Mapping[str, str]) -> None:
    """CheckpointError where a file of `folder` is not what was written; DiskError where the system does not give it."""
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing.")
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise unreadable(path, error) from error
        if found != expected:
            raise CheckpointError(f"{path} is torn or was changed.")


def check_continues(newest: Checkpoint, strategy: str, total_steps: int) -> None:
    """Refuse to go on at a checkpoint of another strategy, or of more steps (CheckpointError).

    Another number of workers is no other run.
    """
    there = newest.state["strategy"]
    if _FORM.get(strategy, strategy) != _FORM.get(there, there):
        raise CheckpointError(
            f"{newest.folder} was written by {there}, this run is {strategy}; continue as it was, or start a new run with "
            "inputs.init_from."
        )
    if newest.step > total_steps:
        raise CheckpointError(
            f"{newest.folder} has done {newest.step} steps, this run ends at {total_steps}; raise train.max_steps or "
            "train.epochs, or choose another name=..."
        )


def check_order(newest: Checkpoint, plan: str) -> None:
    """Refuse to go on at a checkpoint of another order of samples than that with this fingerprint (CheckpointError)."""
    if newest.state["plan"] != plan:
        raise CheckpointError(
            f"{newest.folder} was written with another order of samples (data, seed, train.global_batch, data.length_s, "
            "data.length_buckets, or the version of NumPy or of this program changed); "
            "continue with the same values, or start a new run with inputs.init_from."
        )


def digest(state: Mapping[str, Any]) -> str:
    """Return the hash that a state holds of itself."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
