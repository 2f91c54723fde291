"""Which tracker a configuration gives, and what a wrong one says."""

from __future__ import annotations

from pathlib import Path

import pytest

from momu_dist import tracking
from momu_dist.errors import ConfigError, told, without_login
from momu_dist.tracking import auto_uri, check_uri, is_uri, open_tracker
from momu_dist.tracking.null_tracker import NullTracker


def test_none_keeps_nothing_but_gives_ids(tmp_path: Path) -> None:
    tracker = open_tracker("none", "momu", tmp_path / "run")
    assert isinstance(tracker, NullTracker)
    assert tracker.start("run", {}, run_id="abc") == "abc"
    assert tracker.start("run", {}) != tracker.start("run", {})
    tracker.metrics(0, {"loss": 1.0})
    tracker.artifact(tmp_path / "absent.png")
    tracker.model("momu-dit_a2m", tmp_path / "best", {})
    tracker.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["runs/mlflow", "file:///runs/mlflow", "sqlite", ""])
def test_a_uri_that_mlflow_does_not_offer_is_one_clear_sentence(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.uri is .* expected auto, none, sqlite"):
        open_tracker(uri, "momu", tmp_path)


def test_auto_is_what_the_environment_names_else_a_file_beside_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert auto_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://login01:5000")
    assert auto_uri(tmp_path) == "http://login01:5000"
    assert auto_uri(tmp_path, {}) == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_login_is_that_of_the_environment_or_it_is_said_that_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker on a Ray that was started without the variable would track elsewhere than its driver."""
    named = "http://me:secret@login01:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", named)
    assert tracking._with_login("http://***@login01:5000") == named
    for other in ("http://me:secret@login02:5000", ""):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
        with pytest.raises(
            ConfigError, match=r"the login of http://\*\*\*@login01:5000 is not known"
        ) as error:
            open_tracker("http://***@login01:5000", "momu", tmp_path)
        assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@login01:5000", "http://***@login01:5000"),
        ("postgresql+psycopg2://me:sec/ret@db/mlflow", "postgresql+psycopg2://***@db/mlflow"),
        ("mysql://token@db/x?password=secret&ssl=1", "mysql://***@db/x?***"),
        ("API request to http://me:secret@h/api failed", "API request to http://***@h/api failed"),
        ("http://me:p@ss@host", "http://***@host"),
        ("http://me:sec/ret@host", "http://***@host"),
        ("http://me:sec ret@host", "http://***@host"),
        ("http://me:sec#ret@host", "http://***"),
        ("http://me:sec?ret@host", "http://***"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dsecret%3B&x=1", "mssql+pyodbc:///?***"),
        ("http://h/x#token=secret", "http://h/x#***"),
        ("mysql://db/x?password=sec@ret", "mysql://***"),
        ("tracking.uri=http://me:secret@host", "tracking.uri=http://***@host"),
        ("evaluate --data sqlite:///x.db http://me:secret@h", "evaluate --data sqlite:///x.db http://***@h"),
        ("checkpoint=models:/dit@best", "checkpoint=models:/dit@best"),
        ("http://login01:5000", "http://login01:5000"),
        ("sqlite:////srv//a:b@c/mlflow.db?timeout=3", "sqlite:////srv//a:b@c/mlflow.db?timeout=3"),
        ("auto", "auto"),
    ],
)
def test_a_name_and_a_password_are_not_shown(text: str, shown: str) -> None:
    assert without_login(text) == shown


def test_what_a_library_says_keeps_its_other_words() -> None:
    error = "API request to http://me:p@w@h:1/api failed:\n  Max retries with url: /api/runs?token=secret (of me@x, why?)"
    assert (
        told(error)
        == "API request to http://***@h:1/api failed: Max retries with url: /api/runs?*** (of me@x, why?)"
    )
    assert len(told("x" * 1000)) == 300


@pytest.mark.parametrize(
    "uri",
    [
        *(
            "http://login01",
            "https://login01:5000/mlflow/",
            "http://[::1]:5000",
            "http://me:p%2Fw@login01:5000",
        ),
        *("http://me:p@w@login01:5000", "postgresql://db/x?sslmode=require&x=/a?b", "postgresql:///x"),
        *(
            "mysql+pymysql://me:%40@db:3306/x",
            "mssql+pymssql://me:pw@HOST\\ONE:1433/x",
            "sqlite:///a b@c?d#e",
        ),
    ],
)
def test_a_uri_whose_login_is_plain_is_taken(uri: str) -> None:
    assert is_uri(uri) and is_uri(without_login(uri))  # what others see of it can name the store, too


@pytest.mark.parametrize(
    "uri",
    [
        *("http://me:hush/hush@h", "http://me:hush?hush@h", "http://me:hush#hush@h", "http://me:hush hush@h"),
        *(
            "mysql://db/x?password=hush@hush",
            "http://h/x?token=hush hush",
            "http://me:hush",
            "postgresql:me:hush@h",
        ),
        *("http:/me:hush@h", "me:hush@h"),
    ],
)
def test_a_uri_whose_login_has_no_plain_end_is_refused_and_not_shown(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for refuse in (lambda: check_uri(uri), lambda: open_tracker("auto", "momu", tmp_path / "run")):
        with pytest.raises(
            ConfigError, match="^MLFLOW_TRACKING_URI is a text of .* expected sqlite:///<file>"
        ) as error:
            refuse()
        assert "hush" not in str(error.value)
        assert ("%2F for /" in str(error.value)) == ("//" in uri)


def test_a_refused_uri_is_said_to_be_that_of_the_variable_or_of_the_config(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def said(uri: str) -> str:
        with pytest.raises(ConfigError) as error:
            check_uri(uri)
        return str(error.value)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://h:5000 ")
    fault = "is a text of 14 characters, with a blank or an end of line around it, expected "
    assert said("http://h:5000 ").startswith(f"MLFLOW_TRACKING_URI {fault}sqlite:///<file>")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert said("http://h:5000 ").startswith(f"tracking.uri {fault}auto, none, sqlite:///<file>")
    assert "whose name, password, path and query have %40 for @" in said("https://h/user@x.org/mlflow")
    assert said("non") == (
        "tracking.uri is a text of 3 characters, expected auto, none, sqlite:///<file>, http(s)://<server> or a database "
        "URI; MLflow no longer writes to a plain folder, so use sqlite:///<folder>/mlflow.db."
    )
