"""Trained models by name: which export folder `models:/NAME@ALIAS` or `models:/NAME/VERSION` is, and promotion.

`inference` takes paths only; the command line and training resolve names first, and so does Python code:
`Generator.load(resolve("models:/momu-dit_a2m@champion"))`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from momu_dist.data.hashes import folder_sha256
from momu_dist.errors import CheckpointError, ConfigError
from momu_dist.inference.export import MODEL_SCHEME
from momu_dist.tracking import URI_VARIABLE, auto_uri, is_uri, uri_fault

CANDIDATE, CHAMPION = "candidate", "champion"
_REF = re.compile(r"(?P<name>[^/@:]+)(?:@(?P<alias>[\w-]+)|/(?P<version>\d+))?")


@dataclass(frozen=True)
class ModelRef:
    """A registered model's name with an alias or a version."""

    name: str
    alias: str = CANDIDATE
    version: int | None = None

    def __str__(self) -> str:
        return f"{self.name}/{self.version}" if self.version is not None else f"{self.name}@{self.alias}"


@dataclass(frozen=True)
class ModelVersion:
    """One registered export: where it lies, and the hash of the folder as it was registered."""

    name: str
    version: int
    folder: Path
    export_sha256: str


@dataclass(frozen=True)
class Promotion:
    """An alias that was set: from version `before` (None: it was new) to `after`."""

    name: str
    alias: str
    before: int | None
    after: int


def resolve(checkpoint: str | Path, uri: str | None = None) -> Path:
    """Return `checkpoint` as a path: a `models:/` name becomes its export folder, anything else stays as it is.

    `uri` is the MLflow tracking URI; None takes that of MLFLOW_TRACKING_URI, else runs/mlflow.db. Raises
    CheckpointError for an unknown name, a store that does not answer, and a folder that is gone or not as registered.
    """
    if not str(checkpoint).startswith(MODEL_SCHEME):
        return Path(checkpoint)
    found = _found(str(checkpoint), uri)
    where = f"version {found.version} of {found.name} lies at {found.folder}"
    if not found.folder.is_dir():
        raise CheckpointError(
            f"{where}, which is not there; mount or copy that folder, or name another version."
        )
    if folder_sha256(found.folder) != found.export_sha256:
        raise CheckpointError(
            f"{where}, which was changed after it was registered; restore that folder, or name another version."
        )
    return found.folder


def locate(checkpoint: str, uri: str | None = None) -> str:
    """Return what `checkpoint` names now, without reading it: models:/NAME/VERSION for a registered one, else itself.

    Raises as `resolve`, but for the state of the folder.
    """
    if not checkpoint.startswith(MODEL_SCHEME):
        return checkpoint
    found = _found(checkpoint, uri)
    return f"{MODEL_SCHEME}{found.name}/{found.version}"


def _found(name: str, uri: str | None) -> ModelVersion:
    ref, store = parse_ref(name), store_uri(uri)
    # Imported here because mlflow takes seconds, which paths need not pay.
    from momu_dist.tracking.mlflow_registry import find_version

    return find_version(store, ref)


def promote(model: str, alias: str = CHAMPION, uri: str | None = None) -> Promotion:
    """Set `alias` to the version that `model` names: NAME (its candidate), NAME@ALIAS or NAME/VERSION.

    Raises CheckpointError for an unknown name or alias and a store that does not answer.
    """
    ref = parse_ref(model)
    store = store_uri(uri)
    from momu_dist.tracking.mlflow_registry import set_alias

    return set_alias(store, ref, alias)


def parse_ref(text: str) -> ModelRef:
    """Return what `text`, with or without `models:/` in front, names; anything else is a ConfigError."""
    found = _REF.fullmatch(text.removeprefix(MODEL_SCHEME))
    if found is None:
        raise ConfigError(
            f"{text!r} names no registered model; expected models:/NAME@ALIAS or models:/NAME/VERSION."
        )
    version = found["version"]
    return ModelRef(found["name"], found["alias"] or CANDIDATE, None if version is None else int(version))


def store_uri(given: str | None) -> str:
    """Return the tracking URI to ask: the given one, else that of MLFLOW_TRACKING_URI, else the store of runs/."""
    uri = given or auto_uri(Path("runs"))
    if not is_uri(uri):
        raise ConfigError(f"{'the given tracking URI' if given else URI_VARIABLE} {uri_fault(uri)}.")
    path = uri.removeprefix("sqlite:///")
    if path != uri and not Path(path).is_file():  # asking would make an empty one
        raise CheckpointError(
            f"there is no MLflow store at {path}; name the one with your models with --tracking-uri or {URI_VARIABLE}."
        )
    return uri
