"""Where runs are recorded: `open_tracker` is all that training needs."""

from __future__ import annotations

from pathlib import Path

from momu_dist.errors import ConfigError
from momu_dist.tracking.contract import Status, Tracker
from momu_dist.tracking.null_tracker import NullTracker

__all__ = ["Status", "Tracker", "check_uri", "open_tracker"]

SPOOL_NAME = "tracking-spool.jsonl"
SCHEMES = ("sqlite:///", "http://", "https://", "postgresql", "mysql", "mssql")


def check_uri(uri: str) -> None:
    """Raise ConfigError for a tracking URI that is none of ours and that MLflow does not offer, such as a plain folder."""
    if uri not in ("none", "auto") and not uri.startswith(SCHEMES):
        raise ConfigError(
            f"tracking.uri is {uri!r}, expected auto, none, sqlite:///<file>, http(s)://<server> or a database URI; "
            "MLflow no longer writes to a plain folder, so use sqlite:///<folder>/mlflow.db."
        )


def open_tracker(uri: str, experiment: str, run_folder: str | Path) -> Tracker:
    """Return the tracker of one run; what cannot be sent waits in `run_folder`/tracking-spool.jsonl.

    `uri`: `none` keeps nothing; `auto` is the sqlite file mlflow.db in the folder that holds the runs (the parent of
    `run_folder`), with the artifacts in mlartifacts beside it; else an MLflow tracking URI.
    Raises ConfigError for a URI that MLflow does not offer, such as a plain folder.
    """
    check_uri(uri)
    folder = Path(run_folder).absolute()
    if uri == "none":
        return NullTracker()
    if uri == "auto":
        folder.parent.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{folder.parent / 'mlflow.db'}"
    # Imported here because mlflow takes seconds, which `none` need not pay.
    from momu_dist.tracking.mlflow_tracker import mlflow_tracker

    return mlflow_tracker(uri, experiment, folder / SPOOL_NAME)
