"""What names a registered model, and where it is looked up."""

from __future__ import annotations

from pathlib import Path

import pytest

from momu_dist.errors import CheckpointError, ConfigError
from momu_dist.tracking.registry import ModelRef, parse_ref, resolve, store_uri


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("momu-dit_a2m", ModelRef("momu-dit_a2m", "candidate")),
        ("momu-dit_a2m@champion", ModelRef("momu-dit_a2m", "champion")),
        ("models:/momu-dit_a2m@champion", ModelRef("momu-dit_a2m", "champion")),
        ("models:/momu-dit_a2m/12", ModelRef("momu-dit_a2m", version=12)),
    ],
)
def test_names_with_an_alias_or_a_version(text: str, expected: ModelRef) -> None:
    found = parse_ref(text)
    assert (found.name, found.version) == (expected.name, expected.version)
    assert expected.version is not None or found.alias == expected.alias


@pytest.mark.parametrize(
    "text", ["", "models:/", "a/b", "a/1/2", "a@b@c", "a@", "a:b@c", "models:/m-1/artifacts"]
)
def test_what_names_no_model_is_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match="names no registered model; expected models:/NAME@ALIAS"):
        parse_ref(text)


@pytest.mark.parametrize("path", ["runs/demo", "/data/export", "models", Path("runs")])
def test_a_path_stays_a_path_and_no_store_is_asked(path: str | Path) -> None:
    assert resolve(path, "ftp://never.asked") == Path(path)


def test_the_given_uri_comes_before_the_environment_and_that_before_the_runs_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store_uri(None) == f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracking.example")
    assert store_uri(None) == "https://tracking.example"
    assert store_uri("http://other.example") == "http://other.example"


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no MLflow store at .* --tracking-uri"):
        resolve("models:/a@champion", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert list(tmp_path.iterdir()) == []


def test_a_uri_that_mlflow_does_not_offer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match="the given tracking URI is a text of 11 characters, expected sqlite"
    ):
        store_uri("runs/mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://h:5000\n")
    with pytest.raises(
        ConfigError, match="^MLFLOW_TRACKING_URI is .* with a blank or an end of line around it, "
    ):
        store_uri(None)
