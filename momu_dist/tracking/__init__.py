"""Where runs are recorded: `open_tracker` is all that training needs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from momu_dist.errors import ConfigError, kind_of, without_login
from momu_dist.tracking.background import BackgroundTracker
from momu_dist.tracking.contract import Status, Tracker
from momu_dist.tracking.null_tracker import NullTracker

__all__ = [
    "URI_VARIABLE",
    "Status",
    "Tracker",
    "auto_uri",
    "check_uri",
    "open_tracker",
    "send_waiting",
    "waits",
]

SPOOL_NAME = "tracking-spool.jsonl"
URI_VARIABLE = "MLFLOW_TRACKING_URI"
_URI = re.compile(
    r"sqlite:///.*|(https?|(postgresql|mysql|mssql)(\+\w+)?)://([^\s/?#]*@)?(\[[^\s\]/?#@]*\]|[^\s/?#@:]*)(:\d*)?([/?#][^\s@]*)?",
    re.DOTALL,
)


def is_uri(text: str) -> bool:
    """Whether MLflow offers such a URI and it leaves no doubt where a name and password in it end: what is doubtful would be
    read in one way by the libraries that ask, and in another by what hides the password (`without_login`, `told`).
    """
    return _URI.fullmatch(text) is not None


def uri_fault(uri: str, words: str = "") -> str:
    """Say what is found in place of a URI and what is expected: one of ours, or of `words`. It may hold a password."""
    blank = ", with a blank or an end of line around it" if uri != uri.strip() else ""
    how = (
        ", whose name, password, path and query have %40 for @, %2F for /, %3F for ?, %23 for # and %20 for a blank"
        if "//" in uri
        else "; MLflow no longer writes to a plain folder, so use sqlite:///<folder>/mlflow.db"
    )
    return f"is {kind_of(uri)}{blank}, expected {words}sqlite:///<file>, http(s)://<server> or a database URI{how}"


def check_uri(uri: str) -> None:
    """Raise ConfigError for a tracking URI that is none of ours and that MLflow does not offer, such as a plain folder."""
    if uri not in ("none", "auto") and not is_uri(uri):
        of_variable = uri == os.environ.get(URI_VARIABLE)
        raise ConfigError(
            f"{URI_VARIABLE if of_variable else 'tracking.uri'} {uri_fault(uri, '' if of_variable else 'auto, none, ')}."
        )


def auto_uri(runs: Path, env: Mapping[str, str] = os.environ) -> str:
    """Return the tracking URI that `auto` means: that of MLFLOW_TRACKING_URI, else mlflow.db in the folder `runs` of the runs."""
    return env.get(URI_VARIABLE) or f"sqlite:///{runs.absolute() / 'mlflow.db'}"


def open_tracker(uri: str, experiment: str, run_folder: str | Path) -> Tracker:
    """Return the tracker of one run; what cannot be sent waits in `run_folder`/tracking-spool.jsonl.

    `uri`: `none` keeps nothing; `auto` is that of MLFLOW_TRACKING_URI, else the sqlite file mlflow.db in the folder that
    holds the runs (the parent of `run_folder`), with the artifacts in mlartifacts beside it; else an MLflow tracking URI,
    whose login, where it shows stars, is that of MLFLOW_TRACKING_URI. Raises ConfigError for a URI that MLflow does not
    offer, such as a plain folder, and for a login that is not known here.
    """
    check_uri(uri)
    return NullTracker() if uri == "none" else _mlflow_tracker(uri, experiment, Path(run_folder))


def waits(run_folder: str | Path) -> bool:
    """Return whether a run has something in its spool."""
    return (Path(run_folder) / SPOOL_NAME).exists()


def send_waiting(uri: str, experiment: str, run_folder: str | Path) -> None:
    """Send what a run that has ended still has in its spool; nothing happens where there is none."""
    if uri != "none" and waits(run_folder):
        _mlflow_tracker(uri, experiment, Path(run_folder)).send_waiting()


def _mlflow_tracker(uri: str, experiment: str, run_folder: Path) -> BackgroundTracker:
    folder = run_folder.absolute()
    if uri == "auto":
        folder.parent.mkdir(parents=True, exist_ok=True)
        uri = auto_uri(folder.parent)
        check_uri(uri)
    elif "***" in uri:
        uri = _with_login(uri)
    # Imported here because mlflow takes seconds, which `none` need not pay.
    from momu_dist.tracking.mlflow_tracker import mlflow_tracker

    return mlflow_tracker(uri, experiment, folder / SPOOL_NAME)


def _with_login(shown: str) -> str:
    """Return the tracking URI of this process's environment, of which `shown` is what others see."""
    named = os.environ.get(URI_VARIABLE, "")
    if without_login(named) != shown:
        raise ConfigError(
            f"the login of {shown} is not known on this machine: {URI_VARIABLE} is {without_login(named) or 'not set'}; start "
            "Ray, or the command, with that variable."
        )
    return named
