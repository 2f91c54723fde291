"""Checkpoints for resuming: written to a temporary name by all workers, committed by one rename, newest wins."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from momu_dist.errors import CheckpointError
from momu_dist.inference.export import file_sha256


class CheckpointStore:
    """The folder `checkpoints/` of a run. A folder `step-N` exists only if every worker had written its part."""

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder = folder
        self.keep_last = keep_last

    def latest(self) -> Path | None:
        """Return the newest committed checkpoint, or None."""
        found = sorted(self.folder.glob("step-*/state.json"))
        return found[-1].parent if found else None

    def latest_step(self) -> int:
        """Return the number of steps that the newest checkpoint has done; 0 where there is none."""
        newest = self.latest()
        return 0 if newest is None else int(self.state(newest)["step"])

    def state(self, checkpoint: Path) -> dict[str, Any]:
        """Return what the loop stored of itself."""
        try:
            state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
            missing = {"step", "plan", "strategy", "world_size", "files"} - set(state)
            if missing:
                raise ValueError(f"{', '.join(sorted(missing))} missing")
            if not isinstance(state["step"], int) or not isinstance(state["files"], dict):
                raise ValueError("step is no number, or files no mapping of names to hashes")
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{checkpoint / 'state.json'} cannot be read ({error}); delete {checkpoint} to fall back to the one before."
            ) from error
        return state

    def save(self, step: int, state: dict[str, Any], write: Callable[[Path], None]) -> Path:
        """Let every worker `write` its part of step `step`, then commit. Every rank must call it."""
        final = self.folder / f"step-{step:09d}"
        temporary = self.folder / f".writing-{step:09d}"
        if _rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        _barrier()
        write(temporary)
        _barrier()
        if _rank() == 0:
            hashed = {**state, "files": _hashes(temporary)}
            (temporary / "state.json").write_text(json.dumps(hashed, indent=2))
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            self._drop_old()
        _barrier()
        return final

    def verify(self, checkpoint: Path) -> None:
        """Raise CheckpointError, on every rank, where a file is not what was written. Every rank must call it."""
        wrong: list[Any] = [None]
        if _rank() == 0:
            promised, found = self.state(checkpoint)["files"], _hashes(checkpoint)
            wrong = [[name for name, digest in promised.items() if found.get(name) != digest]]
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.broadcast_object_list(wrong, src=0)
        if wrong[0]:
            raise CheckpointError(
                f"{checkpoint / wrong[0][0]} is not what was written: it is torn or was changed; delete {checkpoint} to go on "
                "from the one before."
            )

    def _drop_old(self) -> None:
        for old in sorted(self.folder.glob("step-*"))[: -self.keep_last]:
            shutil.rmtree(old)


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "state.json")
    return {str(path.relative_to(folder)): file_sha256(path) for path in files}


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _barrier() -> None:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()
