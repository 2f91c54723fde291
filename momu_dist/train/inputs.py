"""The weights that a run begins with, kept in its folder: where they came from, a training may go on and replace them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from momu_dist.config.schema import RunConfig
from momu_dist.data.hashes import file_sha256
from momu_dist.errors import CheckpointError
from momu_dist.inference.export import find_export, link_export, settled
from momu_dist.train.folder import RunFolder, writing_to


def begun_with(config: RunConfig, folder: RunFolder) -> RunConfig:
    """Return the run with its inputs read from its own folder, as far as it has begun and they are named as they were then.

    One that is named elsewhere stays as it is, for `folder.check` to compare. What has been replaced since is told.
    """
    named = folder.named_inputs()
    kept = {}
    for name, path in vars(config.inputs).items():
        own = folder.inputs / name
        if path is None or named.get(name) != str(Path(path).absolute()) or not own.is_dir():
            continue
        kept[name] = str(own)
        with suppress(CheckpointError):  # gone, or torn: it is not asked for any more
            if find_export(path).sha256 != find_export(own).sha256:
                print(
                    f"inputs.{name}: {path} has been replaced since {config.name} began; it goes on with {own}."
                )
    return replace(config, inputs=replace(config.inputs, **kept))


def keep_inputs(config: RunConfig, folder: RunFolder, origin: Mapping[str, str]) -> RunConfig:
    """Put the inputs of which `origin` holds hashes into the run's folder, and return the run with them read there.

    Files are shared where the disk can. CheckpointError for one that is not what `origin` says.
    """
    kept = {}
    for name in (name for name in vars(config.inputs) if name in origin):
        path, own = getattr(config.inputs, name), folder.inputs / name
        if not _holds(own, origin[name]):
            with writing_to(folder.path):
                folder.inputs.mkdir(exist_ok=True)
                _link(path, own)
        if not _holds(own, origin[name]):
            raise CheckpointError(
                f"{path} does not hold the weights {origin[name][:12]}, with which {config.name} begins: it was replaced just "
                "now, or is damaged; run the same command again, and if it says the same, copy that model again."
            )
        kept[name] = str(own)
    return replace(config, inputs=replace(config.inputs, **kept))


def _link(path: str, own: Path) -> None:
    """Make `own` the export at `path`, of one checkpoint, whatever a training does there meanwhile."""
    settled(lambda: [find_export(path)], lambda found: link_export(found[0].folder, own))


def _holds(folder: Path, sha256: str) -> bool:
    """Whether there are whole weights of that hash at `folder`."""
    try:
        return find_export(folder).sha256 == sha256 == file_sha256(folder / "model.safetensors")
    except CheckpointError:
        return False
