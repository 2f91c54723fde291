"""The folder of a run: `out`/`name`, the one place where a run's files are named."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import yaml
from safetensors import SafetensorError

from momu_dist.config.load import resolved_dict
from momu_dist.config.schema import RunConfig
from momu_dist.errors import ConfigError, DiskError
from momu_dist.train.checkpoint import unreadable

logger = logging.getLogger(__name__)

# What a continued run may not change: anything else (workers' threads, intervals, tracking) it may. Data and input weights
# are told apart by their fingerprints, not by where they lie.
_FIXED = ("stage", "seed", "model", "loss", "optim", "data.length_s", "train.precision", "train.ema_decay")


_CONFIG = "config.yaml"
WRITER_S = 120.0
"""How long a worker waits for the one before it to end."""


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, config: RunConfig) -> None:
        self.path = Path(config.out).absolute() / config.name
        self.checkpoints = self.path / "checkpoints"
        self.export = self.path / "export"
        self.best = self.path / "best"
        self.registered = self.path / "registered"
        self.inputs = self.path / "inputs"
        self.samples = self.path / "samples"
        self.metrics = self.path / "metrics.jsonl"
        self._config = self.path / _CONFIG
        self._origin = self.path / "origin.json"
        self._finished = self.path / "finished.json"
        self._failure = self.path / "failure.txt"
        self._tracking = self.path / "tracking-id.txt"
        self._lock = self.path / "train.lock"
        self._writer = self.path / "writer.lock"
        self._dropped = self.path / "metrics-dropped.jsonl"
        self._stop = self.path / "stop"
        self.events = self.path / "events.log"
        self.stalls = self.path / "stalls"
        self.samples_seen = self.path / "samples-seen"

    def check(self, config: RunConfig, origin: Mapping[str, str]) -> None:
        """Refuse a run of the same name with other settings, data or input weights (ConfigError).

        `origin` holds the fingerprints of the data and of the weights the run starts from.
        """
        tree = resolved_dict(config)
        changed = []
        if self._config.is_file():
            before = self._read(self._config, yaml.safe_load)
            if not before.keys() >= tree.keys():
                raise ConfigError(
                    f"{self._config} has no {', '.join(sorted(tree.keys() - before.keys()))}, it is torn; delete that file, "
                    "and the run goes on with the settings of the command."
                )
            changed += [key for key in _FIXED if _dotted(before, key) != _dotted(tree, key)]
        if self._origin.is_file():
            then = self._read(self._origin, json.loads)
            changed += [name for name in sorted({*then, *origin}) if then.get(name) != origin.get(name)]
        if changed:
            raise ConfigError(
                f"{self.path} holds a run with another {', '.join(changed)}; choose another name=..., "
                "or delete that folder."
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make the folder and hold its lock; ConfigError if another training holds it.

        Two trainings of one name would write the same metrics and checkpoints. The system lets go of the lock when its
        holder dies.
        """
        with writing_to(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = self._lock.open("w")
        with lock:
            if not _locked(lock):
                raise ConfigError(
                    f"another training works in {self.path}; wait for it, stop it, or choose another name=..."
                )
            yield

    @contextmanager
    def written_alone(self) -> Iterator[None]:
        """Hold the lock of the process that logs and saves, once the one of an attempt before has let go of it.

        The workers of a driver that was killed end some seconds after it. The wait has an end, for one that cannot.
        """
        with self._writer.open("w") as lock:
            if not _locked(lock):
                self.tell("waits for the workers of an attempt before to end")
                until = time.monotonic() + WRITER_S
                while not (free := _locked(lock)) and time.monotonic() < until:
                    time.sleep(0.1)
                if not free:
                    self.tell(
                        f"they have not ended within {WRITER_S:.0f} s; their checkpoints no longer count"
                    )
            yield

    @contextmanager
    def unwritten(self) -> Iterator[bool]:
        """Give whether no worker of an attempt before logs and saves any more, and keep it so in the body."""
        with writing_to(self.path):
            lock = self._writer.open("w")
        with lock:
            yield _locked(lock)

    def open(self, config: RunConfig, origin: Mapping[str, str]) -> None:
        """Create the folder, or continue in it after `check`."""
        self.check(config, origin)
        with writing_to(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            _write(self._config, yaml.safe_dump(resolved_dict(config), sort_keys=False))
            _write(self._origin, json.dumps(dict(origin), indent=2))
            self._failure.unlink(missing_ok=True)

    def named_inputs(self) -> dict[str, Any]:
        """Return where the inputs of a run lay that has begun, as the command named them."""
        named = self._read(self._config, yaml.safe_load).get("inputs") if self._config.is_file() else None
        return named if isinstance(named, dict) else {}

    def gone(self) -> bool:
        """Return whether the folder of a run that has begun was moved or deleted; what Ray may have made anew is none."""
        return _gone(self.path)

    def remove_rays_own(self) -> None:
        """Remove what Ray, which keeps its state in `ray/`, has made anew where the run folder was, if there is no more.

        A run that is brought back would be moved into it.
        """
        with suppress(OSError):
            if self.gone() and {path.name for path in self.path.iterdir()} <= {"ray", self._writer.name}:
                shutil.rmtree(self.path)

    def finished(self) -> dict[str, Any] | None:
        """Return what the run wrote at its end, or None."""
        if not self._finished.is_file():
            return None
        finished = self._read(self._finished, json.loads)
        if not isinstance(finished.get("steps"), int) or "export" not in finished:
            raise ConfigError(
                f"{self._finished} does not say how many steps were done and where the model is, it is torn; delete that "
                "file, and the run goes on from its newest checkpoint."
            )
        return finished

    def finish(self, facts: dict[str, Any]) -> None:
        """Mark the run as done."""
        _write(self._finished, json.dumps(facts, indent=2))

    def fail(self, sentence: str) -> None:
        """Leave the reason why a run stopped, for the process that started it."""
        try:
            with self._failure.open("x") as file:
                file.write(sentence)
        except FileExistsError:
            return  # the first reason is the cause, later ones follow from it
        except OSError as error:  # a full disk has room for an empty file at least
            logger.info("the reason could not be kept in %s (%s): %s", self._failure, error, sentence)

    def failure(self) -> str | None:
        """Return the reason why the last attempt stopped, or None."""
        if not self._failure.is_file():
            return None
        return self._failure.read_text(errors="replace") or (
            f"the run stopped and {self._failure} has no reason, as on a full disk; make room and run the same command again."
        )

    def request_stop(self, reason: str) -> None:
        """Ask the workers, wherever they are, to save and stop; a file named `stop` in the run folder does the same."""
        self._stop.write_text(reason)

    def withdraw_stop(self, before: float) -> None:
        """Forget that the run was asked to stop before that moment (`time.time()`); a younger wish holds.

        The moment is compared by the clock of the disk, which may be another machine's.
        """
        self._lock.touch()
        ahead = self._lock.stat().st_mtime - time.time()
        with suppress(FileNotFoundError):
            if self._stop.stat().st_mtime < before + ahead:
                self._stop.unlink()

    def stop_requested(self) -> bool:
        """Return whether the run was asked to stop."""
        return self._stop.exists()

    def tell(self, text: str) -> None:
        """Add a line to events.log, which the process that started the run shows."""
        with self.events.open("a") as file:
            file.write(f"{datetime.now(UTC).strftime('%Y-%m-%dT%H:%M:%SZ')} {text}\n")

    def tracking_id(self) -> str | None:
        """Return the tracker's id of this run, so that a restart goes on in the same one."""
        return self._tracking.read_text(errors="replace").strip() if self._tracking.is_file() else None

    def keep_tracking_id(self, run_id: str) -> None:
        """Store the tracker's id of this run."""
        if run_id != self.tracking_id():
            _write(self._tracking, run_id)

    def tracked_at(self) -> str | None:
        """Return the tracking URI of the attempt before, without a login; None for a run that was not tracked yet."""
        if not (self._tracking.is_file() and self._config.is_file()):
            return None
        uri = _dotted(self._read(self._config, yaml.safe_load), "tracking.uri")
        return None if uri in (None, "none") else str(uri)

    def rewind_metrics(self, step: int) -> Relogged:
        """Drop what an attempt logged after `step`, the checkpoint from which the run goes on; return when that was."""
        if not self.metrics.is_file():
            return Relogged([], {})
        logged = read_metrics(self.metrics)
        kept = [entry for entry in logged if 0 < step >= entry["step"]]
        # Kept until they are logged again: a second kill may come before that.
        before = read_metrics(self._dropped) if self._dropped.is_file() else []
        dropped = [entry for entry in (*logged, *before) if not 0 < step >= entry["step"]]
        first = {_kind(entry["step"], entry): entry for entry in reversed(dropped)}
        for path, entries in ((self._dropped, first.values()), (self.metrics, kept)):
            _write(path, "".join(json.dumps(entry) + "\n" for entry in entries))
        return Relogged(kept, {kind: entry.get("time", 0.0) for kind, entry in first.items()})

    def append_metrics(self, step: int, values: Mapping[str, float], time_s: float) -> None:
        """Add one line to metrics.jsonl."""
        line = json.dumps({"step": step, "time": time_s, **values})
        with self.metrics.open("a") as file:
            file.write(line + "\n")

    @staticmethod
    def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
        try:
            tree = parse(path.read_text())
        except OSError as error:
            raise unreadable(path, error) from error
        except (ValueError, yaml.YAMLError) as error:
            raise ConfigError(
                f"{path} is torn ({' '.join(str(error).split())}); delete that file, and the run goes on."
            ) from error
        if not isinstance(tree, dict):
            raise ConfigError(f"{path} holds no mapping, it is torn; delete that file, and the run goes on.")
        return tree


@dataclass(frozen=True)
class Relogged:
    """What a run that goes on had logged: `kept` entries, and the times of those that will be logged again."""

    kept: list[dict[str, Any]]
    times: dict[str, float]

    def time_of(self, step: int, values: Mapping[str, float]) -> float:
        """Return when these values were logged first, so that they count once; now, if they were not."""
        return self.times.get(_kind(step, values), round(time.time(), 3))


def without_time(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return the values of an entry of the log."""
    return {name: value for name, value in entry.items() if name not in ("step", "time")}


def _kind(step: int, values: Mapping[str, Any]) -> str:
    return f"{step} {sorted(without_time(values))}"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a metrics.jsonl; a torn line, which a crash may leave at the end, is left out."""
    return parse_metrics(path.read_text(errors="replace"))


def parse_metrics(text: str) -> list[dict[str, Any]]:
    """Return the entries of lines of a metrics.jsonl; what is no entry is left out."""
    entries = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int) and _are_numbers(entry):
            entries.append(entry)
    return entries


def _are_numbers(entry: Mapping[str, Any]) -> bool:
    return "time" in entry and all(isinstance(value, int | float) for value in entry.values())


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn what the system says against writing a run (a full disk, a lost permission) into a DiskError.

    safetensors and torch, whose savers write by themselves, say it by errors of their own.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        of_saver = any(
            name in str(error) for name in ("I/O error", "IoError", "inline_container", "PytorchStreamWriter")
        )
        copying = isinstance(error, shutil.Error)  # of several files, each with what the system said, as text
        if not (of_saver or copying or (isinstance(error, OSError) and _is_of(error, folder))):
            raise
        if isinstance(error, FileNotFoundError) and _gone(folder):
            raise moved_away(folder) from error
        reason = (
            getattr(error, "strerror", None) or str(error.args[0][0][2] if copying else error).splitlines()[0]
        )
        if isinstance(error, FileNotFoundError):
            reason += f": {error.filename}"
        if isinstance(error, RuntimeError):  # torch's saver, which says no more than where in the file it was
            reason = "torch could not write all of a checkpoint, as on a full disk"
        raise DiskError(
            f"the run folder {folder} cannot be written ({reason}); make room or mend the permissions and run the same command, "
            "which goes on from the newest checkpoint, or choose another out=..."
        ) from error


def moved_away(folder: Path) -> DiskError:
    """Return the error for a run folder that was there when training began."""
    return DiskError(
        f"the run folder {folder} is gone: it was moved or deleted while the run trained; bring it back and "
        "run the same command, which goes on from the newest checkpoint."
    )


def _gone(folder: Path) -> bool:
    return not (folder / _CONFIG).is_file()


def _is_of(error: OSError, folder: Path) -> bool:
    """Return whether the system's error is about `folder` or one above it; one that names no file, about a disk at all."""
    if error.filename is None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)
    if error.errno is None or not isinstance(error.filename, str):
        return False
    place = Path(error.filename)
    return place.is_relative_to(folder) or folder.is_relative_to(place)


def _dotted(tree: Mapping[str, Any], key: str) -> Any:
    section, _, field = key.partition(".")
    value = tree.get(section)
    return value.get(field) if field and isinstance(value, Mapping) else value


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _locked(file: TextIO) -> bool:
    """Take the lock of an open file if nobody holds it, and return whether it was taken."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
