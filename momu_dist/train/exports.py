"""What a run leaves for use: its last export, its best one, and the one it registers."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from momu_dist.config.load import resolved_dict
from momu_dist.config.schema import RunConfig
from momu_dist.core.catalog import STAGES
from momu_dist.data.hashes import file_sha256, folder_sha256
from momu_dist.errors import CheckpointError, MomuError, Stopped
from momu_dist.inference.export import find_export, link_export, restore_export, write_export
from momu_dist.tracking import Tracker
from momu_dist.train.checkpoint import EXPORT, Checkpoint
from momu_dist.train.folder import RunFolder
from momu_dist.train.loop import Weights

logger = logging.getLogger(__name__)


class Exports:
    """Writes the export of every checkpoint; `export/` is the last one's, `best/` that with the lowest value so far.

    The value is that of `judged_by` of the stage, at the export's own step. An export whose value is not finite is never
    the best, nor is one from before a GAN has joined: the discriminator makes a reconstruction sharper, not nearer. The
    value is measured on the weights in training, not on their average.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: RunConfig,
        facts: Mapping[str, Any],
        vaes: Mapping[str, Path],
        total_steps: int,
    ) -> None:
        self.folder = folder
        self.config = config
        self.facts = facts
        self.vaes = vaes
        self.first_step = getattr(config.loss, "gan_start", 0.0) * total_steps
        self._best = math.inf

    def restore(self) -> None:
        """Go on from what an earlier attempt left; a `best/` that is damaged is told of and forgotten."""
        for path in (self.folder.export, self.folder.best):
            restore_export(path)
        if not self.folder.best.exists():
            return
        try:
            best = find_export(self.folder.best)
            if file_sha256(best.folder / "model.safetensors") != best.sha256:
                raise CheckpointError(f"{best.folder} is torn or was changed.")
            self._best = float(best.facts["validation"])
        except (CheckpointError, KeyError, TypeError, ValueError) as error:
            self.folder.tell(f"the best model so far cannot be used and is forgotten: {error}")
            shutil.rmtree(self.folder.best, ignore_errors=True)

    def judge(self, step: int, validated: Mapping[str, float]) -> float | None:
        """Return the value of step `step` among exports; None if it cannot be the best."""
        value = self._value(validated)
        return value if value is not None and step > self.first_step else None

    def write(self, step: int, weights: Weights, validated: Mapping[str, float], checkpoint: Path) -> None:
        """Write the export of `step` into the folder of its checkpoint."""
        facts = {**self.facts, "step": step, "validation": self._value(validated)}
        write_export(checkpoint / EXPORT, resolved_dict(self.config), weights, facts, self.vaes)

    def committed(self, checkpoint: Checkpoint) -> None:
        """Put the export of a checkpoint that counts where users look; files are shared, not copied."""
        link_export(checkpoint.export, self.folder.export)
        value = checkpoint.state["validation"]
        if value is not None and value < self._best:
            link_export(checkpoint.export, self.folder.best)
            self._best = value

    def _value(self, validated: Mapping[str, float]) -> float | None:
        value = validated.get(f"val/{STAGES[self.config.stage].judged_by}", math.nan)
        return value if math.isfinite(value) else None


def register_best(config: RunConfig, folder: RunFolder, tracker: Tracker) -> None:
    """Hand the best export of a run that has ended to the tracker's registry; the last one where none was validated.

    It gets a place of its own, which stays as it is if the run goes on later. What goes wrong here is a warning: the run
    is done.
    """
    try:
        best = find_export(folder.best if folder.best.exists() else folder.export)
        target = folder.registered / f"step-{best.facts['step']:09d}"
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            link_export(best.folder, target)
        facts = find_export(target).facts
        tags = {
            "momu.stage": config.stage,
            "momu.step": str(facts["step"]),
            "momu.validation": f"{STAGES[config.stage].judged_by}={facts['validation']}",
            "momu.data_fingerprint": str(facts["data_fingerprint"]),
            "momu.sha256": str(facts["sha256"]),
            "momu.export_sha256": folder_sha256(target),
        }
    except Stopped:
        raise
    except (MomuError, OSError) as error:
        logger.warning("the model of %s was not registered: %s", config.name, error)
        return
    tracker.model(config.tracking.registered_model or f"momu-{config.stage}", target, tags)
