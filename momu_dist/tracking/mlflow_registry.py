"""Model versions in MLflow: an external model a version, which is an export folder that stays where it is.

The folder is in the tag `momu.export`, with its hash: a server takes no path outside its own artifacts as a source
(MLflow 3.17), so there the source is the external model's own, empty, place. A database takes the folder as source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from momu_dist.errors import CheckpointError, told, without_login
from momu_dist.tracking.mlflow_client import MlflowClient, MlflowException, connect
from momu_dist.tracking.registry import CANDIDATE, ModelRef, ModelVersion, Promotion

EXPORT_TAG, HASH_TAG = "momu.export", "momu.export_sha256"
_EXTERNAL = {"mlflow.model.isExternal": "true"}  # what mlflow.create_external_model sets


def register(
    client: MlflowClient, experiment_id: str, mlflow_run_id: str, name: str, export: Path, tags: Mapping[str, str],
    into_server: bool,
) -> int:  # fmt: skip
    """Return the version of model `name` that is `export`, made if this run has not registered it; it is the candidate.

    The alias only moves to a newer version, so registering again, however late, changes nothing.
    """
    tags = {**tags, EXPORT_TAG: str(export)}
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.search_model_versions(
        f"name = '{name}' and run_id = '{mlflow_run_id}' and tags.`{HASH_TAG}` = '{tags[HASH_TAG]}'"
    )
    if made:
        version = max(int(one.version) for one in made)
    else:
        model = client.create_logged_model(
            experiment_id, name, mlflow_run_id, {**tags, **_EXTERNAL}, model_type=tags.get("momu.stage")
        )
        model = client.finalize_logged_model(model.model_id, "READY")
        source = model.artifact_location if into_server else export.as_uri()
        created = client.create_model_version(
            name, source, mlflow_run_id, tags, model_id=model.model_id, await_creation_for=None
        )
        version = int(created.version)
    current = client.get_registered_model(name).aliases.get(CANDIDATE)
    if current is None or int(current) < version:
        client.set_registered_model_alias(name, CANDIDATE, str(version))
    return version


def find_version(uri: str, ref: ModelRef) -> ModelVersion:
    """Return the version that `ref` names in the store at `uri`."""
    with _asking(uri):
        client = connect(uri)
        model = _model(client, uri, ref.name)
        found = client.get_model_version(ref.name, str(_number(client, model, ref)))
    missing = [tag for tag in (EXPORT_TAG, HASH_TAG) if tag not in found.tags]
    if missing:
        raise CheckpointError(
            f"version {found.version} of {ref.name} lacks the tag {missing[0]}: it was not registered by momu; "
            "name one that a run registered."
        )
    return ModelVersion(ref.name, int(found.version), Path(found.tags[EXPORT_TAG]), str(found.tags[HASH_TAG]))


def set_alias(uri: str, ref: ModelRef, alias: str) -> Promotion:
    """Point `alias` to the version that `ref` names in the store at `uri`."""
    with _asking(uri):
        client = connect(uri)
        model = _model(client, uri, ref.name)
        version = _number(client, model, ref)
        before = model.aliases.get(alias)
        client.set_registered_model_alias(ref.name, alias, str(version))
    return Promotion(ref.name, alias, None if before is None else int(before), version)


def _model(client: MlflowClient, uri: str, name: str) -> Any:
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = ", ".join(model.name for model in client.search_registered_models()) or "none"
        raise CheckpointError(
            f"no model {name} is registered at {without_login(uri)}; there are: {known}."
        ) from error


def _number(client: MlflowClient, model: Any, ref: ModelRef) -> int:
    if ref.version is None:
        if ref.alias not in model.aliases:
            known = (
                ", ".join(f"{alias} (version {v})" for alias, v in sorted(model.aliases.items())) or "none"
            )
            raise CheckpointError(f"the model {ref.name} has no alias {ref.alias}; it has: {known}.")
        return int(model.aliases[ref.alias])
    versions = sorted(int(one.version) for one in client.search_model_versions(f"name = '{ref.name}'"))
    if ref.version not in versions:
        known = ", ".join(map(str, versions)) or "none"
        raise CheckpointError(f"the model {ref.name} has no version {ref.version}; it has: {known}.")
    return ref.version


@contextmanager
def _asking(uri: str) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # MLflow's own, and whatever a database or network library raises below it
        text = told(error).rstrip(".")
        raise CheckpointError(f"the model registry at {without_login(uri)} failed: {text}.") from error
