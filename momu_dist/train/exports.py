"""What a run leaves for use: its last export, its best one, and the one it registers."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from momu_dist.config.load import resolved_dict
from momu_dist.config.schema import RunConfig
from momu_dist.core.catalog import STAGES
from momu_dist.errors import MomuError
from momu_dist.inference.export import find_export, folder_sha256, link_export, restore_export, write_export
from momu_dist.tracking import Tracker
from momu_dist.train.folder import RunFolder
from momu_dist.train.loop import Weights

logger = logging.getLogger(__name__)


class Exports:
    """Writes `export/` (the last) at every checkpoint and keeps `best/`, that with the lowest validation value so far.

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
        """Go on from what an earlier attempt left; a damaged `best/` is a CheckpointError."""
        for path in (self.folder.export, self.folder.best):
            restore_export(path)
        if self.folder.best.exists():
            self._best = float(find_export(self.folder.best).facts["validation"])

    def write(self, step: int, weights: Weights, validated: Mapping[str, float]) -> None:
        """Write the export of `step`; `validated` holds the validation values of that step, as they are logged."""
        value = validated.get(f"val/{STAGES[self.config.stage].judged_by}", math.nan)
        facts = {**self.facts, "step": step, "validation": value if math.isfinite(value) else None}
        write_export(self.folder.export, resolved_dict(self.config), weights, facts, self.vaes)
        if step > self.first_step and value < self._best:
            link_export(self.folder.export, self.folder.best)
            self._best = value


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
    except (MomuError, OSError) as error:
        logger.warning("the model of %s was not registered: %s", config.name, error)
        return
    tracker.model(config.tracking.registered_model or f"momu-{config.stage}", target, tags)
