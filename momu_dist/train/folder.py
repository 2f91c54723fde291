"""The folder of a run: `out`/`name`, the one place where a run's files are named."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import yaml

from momu_dist.config.load import resolved_dict
from momu_dist.config.schema import RunConfig
from momu_dist.errors import ConfigError

# What a continued run may not change: anything else (workers' threads, intervals, tracking) it may.
_FIXED = ("stage", "seed", "model", "loss", "optim", "inputs")


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, config: RunConfig) -> None:
        self.path = Path(config.out).absolute() / config.name
        self.checkpoints = self.path / "checkpoints"
        self.export = self.path / "export"
        self.samples = self.path / "samples"
        self.metrics = self.path / "metrics.jsonl"
        self._config = self.path / "config.yaml"
        self._finished = self.path / "finished.json"
        self._failure = self.path / "failure.txt"
        self._tracking = self.path / "tracking-id.txt"

    def check(self, config: RunConfig) -> None:
        """Refuse a run of the same name with other settings (ConfigError); no folder is right too."""
        tree = resolved_dict(config)
        if self._config.is_file():
            before = yaml.safe_load(self._config.read_text())
            changed = [section for section in _FIXED if before.get(section) != tree[section]]
            if changed:
                raise ConfigError(
                    f"{self.path} holds a run with another {', '.join(changed)}; choose another name=..., "
                    "or delete that folder."
                )

    def open(self, config: RunConfig) -> None:
        """Create the folder, or continue in it after `check`."""
        self.check(config)
        self.path.mkdir(parents=True, exist_ok=True)
        self._config.write_text(yaml.safe_dump(resolved_dict(config), sort_keys=False))
        self._failure.unlink(missing_ok=True)

    def finished(self) -> dict[str, Any] | None:
        """Return what the run wrote at its end, or None."""
        if not self._finished.is_file():
            return None
        facts: dict[str, Any] = json.loads(self._finished.read_text())
        return facts

    def finish(self, facts: dict[str, Any]) -> None:
        """Mark the run as done."""
        self._finished.write_text(json.dumps(facts, indent=2))

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
        kept = [line for line in self.metrics.read_text().splitlines() if json.loads(line)["step"] <= step]
        temporary = self.metrics.with_suffix(".writing")
        temporary.write_text("".join(line + "\n" for line in kept))
        temporary.rename(self.metrics)

    def append_metrics(self, step: int, values: dict[str, float]) -> None:
        """Add one line to metrics.jsonl."""
        line = json.dumps({"step": step, "time": round(time.time(), 3), **values})
        with self.metrics.open("a") as file:
            file.write(line + "\n")
