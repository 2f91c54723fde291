"""The one owner of a run's checkpoints: written to a temporary name, hashed, committed by one rename.

`save` returns at once: every worker writes its own files from memory on a thread and leaves a receipt; rank 0 commits when
all receipts are there. The newest checkpoint that verifies is the one a run goes on from.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from momu_dist.data.hashes import file_sha256
from momu_dist.errors import CheckpointError, Superseded
from momu_dist.train.checkpoint import (
    STATE,
    Checkpoint,
    checkpoint_folders,
    digest,
    logger,
    newest_checkpoint,
    read_state,
    step_of,
    verified,
)
from momu_dist.train.collective import from_rank_0, rank, world_size

ATTEMPT = ".attempt"
"""A file that names the attempt that may write: one that lost touch with its driver and lives on may not."""
COMMIT_TIMEOUT_S = 1800.0  # the slowest worker's file on a busy shared disk
LINGER_S = 10.0
_POLL_S = 0.02
_WRITING, _DROPPED = ".writing-", ".dropped-"

Files = Mapping[str, bytes | memoryview]
"""What a checkpoint holds, by path in its folder."""


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay: the newest `last`, and the `best` with the lowest validation values."""

    last: int
    best: int = 0

    def kept(self, found: list[Checkpoint]) -> set[Path]:
        """Return the folders to keep of `found`, which are in the order of their steps."""

        def value(checkpoint: Checkpoint) -> float:
            validation = checkpoint.state.get("validation")
            return validation if isinstance(validation, float) and math.isfinite(validation) else math.inf

        ranked = sorted((c for c in found if value(c) < math.inf), key=value)
        return {c.folder for c in [*found[-self.last :], *ranked[: self.best]]}


class CheckpointStore:
    """The folder `checkpoints/` of a run. A folder `step-N` exists only if every worker had written its part.

    `tell` is given a sentence for the user where something had to be passed over.
    """

    def __init__(
        self, folder: Path, retention: Retention, tell: Callable[[str], None] = logger.warning
    ) -> None:
        self.folder = folder
        self.retention = retention
        self.tell = tell
        self._rank, self._world_size = rank(), world_size()
        self._attempt = ""
        self._writing: threading.Thread | None = None
        self._failure: BaseException | None = None

    # ------------------------------------------------------------------------------------------------ reading

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint that is whole, or None; what is torn or altered is told of and passed over."""
        return newest_checkpoint(self.folder, self.tell)

    def begin(self) -> Checkpoint | None:
        """Agree with all ranks on where to go on, and put aside what cannot be used. Every rank must call it."""
        found: Checkpoint | None = None
        if rank() == 0:
            found = self.newest()
            self.folder.mkdir(exist_ok=True)
            token = _follow(self.folder)
            for folder in checkpoint_folders(self.folder):
                if found is not None and step_of(folder) > found.step:
                    folder.rename(folder.with_name(f".torn-{folder.name}-{secrets.token_hex(4)}"))
            _remove_unfinished(self.folder)
            for made in self.folder.glob(".*-of-step-*"):
                if not (self.folder / made.name.partition("-of-")[2]).is_dir():
                    shutil.rmtree(made, ignore_errors=True)
            found, self._attempt = from_rank_0((found, token))
        else:
            found, self._attempt = from_rank_0((found, ""))
        return found

    def path_of(self, step: int) -> Path:
        """Return where the checkpoint of `step` is once it is committed."""
        return self.folder / f"step-{step:09d}"

    # ------------------------------------------------------------------------------------------------ writing

    def save(
        self,
        step: int,
        state: Mapping[str, Any],
        files: Files,
        write_more: Callable[[Path], None] = lambda folder: None,
        committed: Callable[[Checkpoint], None] = lambda checkpoint: None,
    ) -> None:
        """Begin to write step `step`: this rank's `files`, and on rank 0 what `write_more` puts into the folder.

        Every rank must call it. It waits for the save before it, and raises what went wrong there. `committed` is called on
        rank 0's thread once the checkpoint counts.
        """
        self.wait()
        job = (step, dict(state), files, write_more, committed)
        self._writing = threading.Thread(target=self._run, args=job, name=f"checkpoint-{step}", daemon=True)
        self._writing.start()

    def wait(self) -> None:
        """Return when this rank's part is written (on rank 0: when the checkpoint is committed); raise what went wrong."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        self.raise_failure()

    def linger(self) -> None:
        """Give a save that is under way a moment to end, where the run ends by an error; it may be waiting for the dead."""
        if self._writing is not None:
            self._writing.join(LINGER_S)

    def raise_failure(self) -> None:
        """Raise what went wrong on the thread, if anything did."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _run(self, *job: Any) -> None:
        try:
            self._write(*job)
        except BaseException as error:  # raised again where the loop is
            self._failure = self._superseded() or error

    def _write(
        self, step: int, state: dict[str, Any], files: Files, write_more: Callable[[Path], None],
        committed: Callable[[Checkpoint], None],
    ) -> None:  # fmt: skip
        temporary = self.folder / f"{_WRITING}{step:09d}-{self._attempt}"
        temporary.mkdir(exist_ok=True)  # nothing above it: a run folder that was moved away is not made anew
        hashes = {name: _write_file(temporary, name, data) for name, data in files.items()}
        if self._rank == 0:
            write_more(temporary)
        _write_file(temporary, _receipt(self._rank), json.dumps(hashes).encode(), whole=True)
        if self._rank == 0:
            _await_receipts(temporary, self._world_size)
            checkpoint = self._commit(step, state, temporary)
            self._drop_old()
            committed(checkpoint)

    def _commit(self, step: int, state: dict[str, Any], temporary: Path) -> Checkpoint:
        final = self.path_of(step)
        hashes: dict[str, str] = {}
        for one in range(self._world_size):
            receipt = temporary / _receipt(one)
            hashes |= json.loads(receipt.read_text())
            receipt.unlink()
        for path in _files(temporary):
            name = str(path.relative_to(temporary))
            if name not in hashes:  # the export, which others write
                hashes[name] = file_sha256(path)
                _sync(path)
        whole = {**state, "step": step, "world_size": self._world_size, "files": hashes}
        _write_file(temporary, STATE, json.dumps({**whole, "sha256": digest(whole)}, indent=2).encode())
        for folder in (temporary, *(path for path in temporary.rglob("*") if path.is_dir())):
            _sync(folder)
        if superseded := self._superseded():
            raise superseded
        if final.exists():  # of an attempt that another process ended: the same step of the same run
            with suppress(CheckpointError):
                there = verified(final)
                shutil.rmtree(temporary)
                return there
            final.rename(final.with_name(f".torn-{final.name}-{secrets.token_hex(4)}"))
        temporary.rename(final)
        _sync(self.folder)
        return Checkpoint(final, whole)

    def _superseded(self) -> Superseded | None:
        """Return the error for an attempt that another has followed, None for the last one."""
        try:
            last = (self.folder / ATTEMPT).read_text()
        except OSError:
            return None  # no proof; what the disk says is told by who writes
        if not self._attempt or last == self._attempt:
            return None
        return Superseded(f"another attempt of this run has begun in {self.folder}; this one writes no more.")

    def _drop_old(self) -> None:
        found = []
        for folder in reversed(checkpoint_folders(self.folder)):
            try:
                found.append(Checkpoint(folder, read_state(folder)))
            except CheckpointError:
                continue  # neither counted nor dropped
        kept = self.retention.kept(found)
        for checkpoint in found:
            if checkpoint.folder not in kept:
                # First out of the way: one that is half gone would count as torn, and stay.
                dropped = self.folder / f"{_DROPPED}{checkpoint.folder.name}-{secrets.token_hex(4)}"
                with suppress(OSError):
                    checkpoint.folder.rename(dropped)
                shutil.rmtree(dropped, ignore_errors=True)
                for made in self.folder.glob(f".*-of-{checkpoint.folder.name}"):
                    shutil.rmtree(made, ignore_errors=True)
        if len(found) > 1:  # two whole ones are worth more than what cannot be read
            for torn in self.folder.glob(".torn-*"):
                shutil.rmtree(torn, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what saves that were killed have left in the folder `checkpoints/` of a run that nobody else writes.

    A start does it first of all: on a full disk it may be the only room there is.
    """
    if any(folder.glob(f"{_WRITING}*")):
        # Not on a full disk; who could mind is a worker whose machine was cut off and lost its lock.
        with suppress(OSError):
            _follow(folder)
    _remove_unfinished(folder)


def _follow(folder: Path) -> str:
    """Begin an attempt and return its name: one that still writes finds itself followed before it finds its files gone."""
    token = secrets.token_hex(4)
    _write_file(folder, ATTEMPT, token.encode(), whole=True)
    return token


def _remove_unfinished(folder: Path) -> None:
    for pattern in (_WRITING, _DROPPED):
        for left in folder.glob(f"{pattern}*"):
            shutil.rmtree(left, ignore_errors=True)


def _receipt(of: int) -> str:
    return f"receipt-{of}.json"


def _await_receipts(folder: Path, count: int) -> None:
    until = time.monotonic() + COMMIT_TIMEOUT_S
    missing = set(range(count))
    while missing := {one for one in missing if not (folder / _receipt(one)).is_file()}:
        if time.monotonic() > until:
            raise CheckpointError(
                f"workers {sorted(missing)} did not write their part of {folder} within {COMMIT_TIMEOUT_S:.0f} s; look at the "
                "disk of the run folder."
            )
        time.sleep(_POLL_S)


def _write_file(folder: Path, name: str, data: bytes | memoryview, whole: bool = False) -> str:
    """Write and flush a file of `folder`, under another name first if it must appear `whole`; return its SHA-256."""
    path = folder / name
    for inner in reversed(Path(name).parents[:-1]):
        (folder / inner).mkdir(exist_ok=True)
    target = path.with_name(f".{path.name}.part") if whole else path
    with target.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if whole:
        target.rename(path)
    return hashlib.sha256(data).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != STATE)


def _sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk itself: a power cut may come."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
