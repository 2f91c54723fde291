"""The folder of a run: `out`/`name`, the one place where a run's files are named."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from momu_dist.config.load import resolved_dict
from momu_dist.config.schema import RunConfig
from momu_dist.errors import ConfigError

# What a continued run may not change: anything else (workers' threads, intervals, tracking) it may. Data and input weights
# are told apart by their fingerprints, not by where they lie.
_FIXED = ("stage", "seed", "model", "loss", "optim", "data.length_s", "train.precision", "train.ema_decay")


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, config: RunConfig) -> None:
        self.path = Path(config.out).absolute() / config.name
        self.checkpoints = self.path / "checkpoints"
        self.export = self.path / "export"
        self.best = self.path / "best"
        self.registered = self.path / "registered"
        self.samples = self.path / "samples"
        self.metrics = self.path / "metrics.jsonl"
        self._config = self.path / "config.yaml"
        self._origin = self.path / "origin.json"
        self._finished = self.path / "finished.json"
        self._failure = self.path / "failure.txt"
        self._tracking = self.path / "tracking-id.txt"

    def check(self, config: RunConfig, origin: Mapping[str, str]) -> None:
        """Refuse a run of the same name with other settings, data or input weights (ConfigError).

        `origin` holds the fingerprints of the data and of the weights the run starts from.
        """
        tree = resolved_dict(config)
        changed = []
        if self._config.is_file():
            before = self._read(self._config, yaml.safe_load)
            changed += [key for key in _FIXED if _dotted(before, key) != _dotted(tree, key)]
        if self._origin.is_file():
            then = self._read(self._origin, json.loads)
            changed += [name for name in sorted({*then, *origin}) if then.get(name) != origin.get(name)]
        if changed:
            raise ConfigError(
                f"{self.path} holds a run with another {', '.join(changed)}; choose another name=..., "
                "or delete that folder."
            )

    def open(self, config: RunConfig, origin: Mapping[str, str]) -> None:
        """Create the folder, or continue in it after `check`."""
        self.check(config, origin)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            _write(self._config, yaml.safe_dump(resolved_dict(config), sort_keys=False))
            _write(self._origin, json.dumps(dict(origin), indent=2))
            self._failure.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the run folder {self.path} cannot be written: {error.strerror}; choose another out=..."
            ) from error

    def finished(self) -> dict[str, Any] | None:
        """Return what the run wrote at its end, or None."""
        if not self._finished.is_file():
            return None
        return self._read(self._finished, json.loads)

    def finish(self, facts: dict[str, Any]) -> None:
        """Mark the run as done."""
        _write(self._finished, json.dumps(facts, indent=2))

    def fail(self, sentence: str) -> None:
        """Leave the reason why a run stopped, for the process that started it."""
        if not self._failure.is_file():  # the first reason is the cause, later ones follow from it
            self._failure.write_text(sentence)

    def failure(self) -> str | None:
        """Return the reason why the last attempt stopped, or None."""
        return self._failure.read_text() if self._failure.is_file() else None

    def tracking_id(self) -> str | None:
        """Return the tracker's id of this run, so that a restart goes on in the same one."""
        return self._tracking.read_text().strip() if self._tracking.is_file() else None

    def keep_tracking_id(self, run_id: str) -> None:
        """Store the tracker's id of this run."""
        self._tracking.write_text(run_id)

    def rewind_metrics(self, step: int) -> None:
        """Drop what an attempt logged after `step`, the checkpoint from which the run goes on."""
        if not self.metrics.is_file():
            return
        kept = [entry for entry in read_metrics(self.metrics) if entry["step"] <= step]
        _write(self.metrics, "".join(json.dumps(entry) + "\n" for entry in kept))

    def append_metrics(self, step: int, values: dict[str, float]) -> None:
        """Add one line to metrics.jsonl."""
        line = json.dumps({"step": step, "time": round(time.time(), 3), **values})
        with self.metrics.open("a") as file:
            file.write(line + "\n")

    @staticmethod
    def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
        try:
            tree = parse(path.read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(
                f"{path} cannot be read ({' '.join(str(error).split())}); delete that run folder."
            ) from error
        if not isinstance(tree, dict):
            raise ConfigError(f"{path} holds no mapping, it is torn; delete that run folder.")
        return tree


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a metrics.jsonl; a torn line, which a crash may leave at the end, is left out."""
    entries = []
    for line in path.read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries


def _dotted(tree: Mapping[str, Any], key: str) -> Any:
    section, _, field = key.partition(".")
    value = tree.get(section)
    return value.get(field) if field and isinstance(value, Mapping) else value


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text)
    temporary.replace(path)
