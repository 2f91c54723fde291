"""Checkpoints for use: safetensors + one JSON that says what the weights are, hashed, without pickles.

An export folder holds `model.safetensors` and `model.json`; that of a diffusion transformer also holds the exports of the
two VAEs it was trained with (`music_vae/`, `motion_vae/`), so that one folder is enough to generate.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from momu_dist.config.load import config_from_dict
from momu_dist.config.schema import RunConfig
from momu_dist.core.latents import LatentScale
from momu_dist.core.motion.normalise import MotionStats
from momu_dist.data.hashes import file_sha256
from momu_dist.data.latents import MODALITIES
from momu_dist.errors import CheckpointError, DataError, MomuError

FORMAT = 1
MODEL_SCHEME = "models:/"  # of registered models, which are found outside of inference
_TRIES = 100

Made = TypeVar("Made")


@dataclass(frozen=True)
class Export:
    """What `model.json` says. `config` is the resolved run; `facts` the rest (statistics, fingerprints, commit, hash)."""

    folder: Path
    config: RunConfig
    facts: dict[str, Any]

    @property
    def stage(self) -> str:
        """The training stage that made the weights."""
        return self.config.stage

    @property
    def motion_stats(self) -> MotionStats:
        """The motion statistics of the data the weights were trained on (not in a music_vae's)."""
        return MotionStats.from_dict(self.facts["motion_stats"])

    @property
    def latent_scales(self) -> dict[str, LatentScale]:
        """The scale of music and motion latents (a diffusion transformer's only)."""
        return {name: LatentScale.from_dict(self.facts["latent_scales"][name]) for name in MODALITIES}

    @property
    def sha256(self) -> str:
        """The hash of the weights' file."""
        return str(self.facts["sha256"])

    def stands(self) -> bool:
        """Return whether the folder still holds this export: training replaces its own at every checkpoint."""
        try:
            return find_export(self.folder) == self
        except CheckpointError:
            return False

    def load_into(self, net: nn.Module) -> nn.Module:
        """Load the weights into `net` and return it in eval mode; a torn or altered file is a CheckpointError."""
        path = self.folder / "model.safetensors"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise CheckpointError(
                f"{path} does not have the hash that {self.folder / 'model.json'} promises; "
                "the file is torn or was replaced, as by a training that goes on: read it or copy it again."
            )
        try:
            missing, unexpected = net.load_state_dict(load(content), strict=False)
        except SafetensorError as error:
            raise CheckpointError(
                f"{path} is no whole safetensors file ({error}), though it has the hash that was written with it; "
                "copy or train the export again."
            ) from error
        except RuntimeError as error:
            raise CheckpointError(
                f"{path} does not fit the network of its config: tensors have other shapes; copy the export again."
            ) from error
        if missing or unexpected:
            raise CheckpointError(
                f"{path} does not fit the network of its config (missing {missing[:3]}, unexpected {unexpected[:3]})."
            )
        return net.eval()


def write_export(
    folder: Path,
    config: dict[str, Any],
    state: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    vaes: Mapping[str, Path],
) -> None:
    """Write an export in place of any older one, in a folder that is there: a temporary folder first, then one rename."""
    temporary = folder.with_name(f".{folder.name}-writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    save_file({name: value.contiguous() for name, value in state.items()}, temporary / "model.safetensors")
    # safetensors makes files for their owner alone; who may read the rest of an export may read its weights.
    (temporary / "model.safetensors").chmod(temporary.stat().st_mode & 0o666)
    tree = {
        "format": FORMAT,
        "stage": config["stage"],
        "config": config,
        "parameters": sum(value.numel() for value in state.values()),
        "sha256": file_sha256(temporary / "model.safetensors"),
        "commit": source_commit(),
        **facts,
    }
    (temporary / "model.json").write_text(json.dumps(tree, indent=2))
    for name, source in vaes.items():
        shutil.copytree(source, temporary / name, copy_function=_link_or_copy)
    _put_in_place(temporary, folder)


def link_export(source: Path, folder: Path) -> None:
    """Make `folder` the same export as `source`, in place of any older one; files are shared where the disk can.

    Sharing is safe: an export is only ever replaced as a whole.
    """
    temporary = folder.with_name(f".{folder.name}-writing")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary, copy_function=_link_or_copy)
    _put_in_place(temporary, folder)


def restore_export(folder: Path) -> None:
    """Bring the older export back where a process was killed between taking it away and putting the new one there."""
    old = _old(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)


def _put_in_place(temporary: Path, folder: Path) -> None:
    old = _old(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _old(folder: Path) -> Path:
    """Where the older export lies for the moment in which it is replaced, or since a kill in that moment."""
    return folder.parent / f".{folder.name}-old"


def find_export(path: str | Path, stage: str | None = None) -> Export:
    """Return the export at `path` (an export folder, or a run folder that holds one); `stage` is what it must be."""
    if str(path).startswith(MODEL_SCHEME):
        raise CheckpointError(
            f"{path} is the name of a registered model, a path is needed here: give it to "
            "momu_dist.tracking.registry.resolve, which returns one."
        )
    root = Path(path)
    described = _described(root, root / "export")
    if described is None:
        state = (
            "has no export yet (training writes one at its checkpoints)"
            if root.is_dir()
            else "does not exist"
        )
        raise CheckpointError(
            f"no trained model at {root}: the folder {state}; expected a run folder or its export/."
        )
    folder, text = described
    try:
        tree = json.loads(text)
        config = dict(tree.pop("config"))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / 'model.json'} cannot be read ({error!r}); copy the export again."
        ) from error
    if tree.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder} has export format {tree.get('format')}, this version reads {FORMAT}."
        )
    export = Export(folder, config_from_dict(config, where=str(folder / "model.json")), tree)
    needed = {"sha256", *(("motion_stats", "latent_scales") if export.stage.startswith("dit") else ())}
    missing = sorted(needed - set(tree))
    if missing:
        raise CheckpointError(f"{folder / 'model.json'} lacks {', '.join(missing)}; copy the export again.")
    _check_facts(export)
    if stage is not None and export.stage != stage:
        raise CheckpointError(f"{folder} holds a {export.stage} model, expected {stage}.")
    return export


def _check_facts(export: Export) -> None:
    """CheckpointError for statistics that are not what `write_export` was given."""
    for name, expected, holds in (
        (
            "motion_stats",
            "centre, scale and bone_lengths_px",
            lambda: len(export.motion_stats.bone_lengths_px) > 0,
        ),
        ("latent_scales", "music and motion, each with shift and scale by channel", lambda: _scales(export)),
    ):
        if name not in export.facts:
            continue
        try:
            right = holds()
        except (KeyError, TypeError, ValueError, AttributeError, DataError):
            right = False
        if not right:
            raise CheckpointError(
                f"{export.folder / 'model.json'} holds {name} {str(export.facts[name])[:60]!r}, expected {expected}; "
                "copy the export again."
            )


def _scales(export: Export) -> bool:
    """Whether the scales are finite numbers, as many of shift as of scale."""
    pairs = [(scale.shift, scale.scale) for scale in export.latent_scales.values()]
    return all(
        len(shift) == len(scale) > 0 and all(map(math.isfinite, (*shift, *scale))) for shift, scale in pairs
    )


def exports_under(path: str | Path) -> list[Export]:
    """Return the export at `path`, or those of the run folders directly under it."""
    root = Path(path)
    if holds_export(root) or not root.is_dir():
        return [find_export(root)]
    found = [find_export(child) for child in sorted(root.iterdir()) if _described(child / "export")]
    return found or [find_export(root)]


def holds_export(path: str | Path) -> bool:
    """Return whether there is an export at `path` (an export folder, or a run folder that holds one)."""
    return _described(Path(path), Path(path) / "export") is not None


def _described(*places: Path) -> tuple[Path, str] | None:
    """Return the first export at `places` with the text of its model.json; None if there is none.

    Where there is none it may be being replaced, or have been when a process was killed: then the older one counts.
    """
    for _ in range(3):  # one that was missing, with the older one gone a moment later, is there again
        for folder in (found for place in places for found in (place, _old(place))):
            try:
                return folder, (folder / "model.json").read_text()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, ValueError) as error:
                raise CheckpointError(
                    f"{folder / 'model.json'} cannot be read ({error!r}); copy the export again."
                ) from error
    return None


def settled(find: Callable[[], list[Export]], read: Callable[[list[Export]], Made]) -> Made:
    """Return what `read` makes of the exports that `find` returns, all of which it uses; again, if training has replaced one.

    So what is returned is of one export, and what is raised is not of two.
    """
    for _ in range(_TRIES):
        found = find()
        try:
            made = read(found)
        except (MomuError, OSError):
            if all(export.stands() for export in found):
                raise
        else:
            if all(export.stands() for export in found):
                return made
    raise CheckpointError(
        f"{', '.join(str(export.folder) for export in found)} is replaced faster than it can be read; copy the export of one "
        "checkpoint of that run, and read the copy."
    )


def source_commit() -> str:
    """Return the commit of the checkout that runs, or `unknown` outside one."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
