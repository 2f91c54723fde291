"""MLflow's client with our settings: what it makes, refuses and prints."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from momu_dist.tracking import mlflow_client, mlflow_tracker
from momu_dist.tracking.events import Event, Rejected
from momu_dist.tracking.mlflow_tracker import MlflowBackend


def fill(engine: Any) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE datasets (id INTEGER)")


def test_the_end_of_a_run_prints_no_address_with_a_login(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow.store.tracking.rest_store import RestStore

    data, info = SimpleNamespace(tags={}), SimpleNamespace(experiment_id="1", run_name="r")
    for call in ("get_run", "update_run_info"):
        monkeypatch.setattr(RestStore, call, lambda *_, **__: SimpleNamespace(data=data, info=info))
    mlflow_client.connect("http://me:secret@login01:5000").set_terminated("1", "FINISHED")
    assert capsys.readouterr().out == ""


INVALID = 1000  # MLflow's INVALID_PARAMETER_VALUE


def test_an_interrupted_making_leaves_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(engine: Any) -> None:
        fill(engine)
        raise KeyboardInterrupt

    monkeypatch.setattr(mlflow_client, "_initialize_tables", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mlflow_client._create(tmp_path / "mlflow.db")
    assert not list(tmp_path.iterdir())


def test_the_first_of_two_makers_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = tmp_path / "mlflow.db"

    def late(engine: Any) -> None:
        assert not database.exists(), "it appears only when it is whole"
        fill(engine)
        database.write_bytes(b"another's")

    monkeypatch.setattr(mlflow_client, "_initialize_tables", late)
    mlflow_client._create(database)
    assert database.read_bytes() == b"another's"
    assert list(tmp_path.iterdir()) == [database]


def test_what_is_meant_for_a_deleted_run_waits_and_what_is_wrong_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deleted run can be restored; MLflow says both by the same code."""

    def failing(says: str) -> MlflowBackend:
        class Client:
            def get_experiment_by_name(self, name: str) -> Any:
                return SimpleNamespace(experiment_id="1")

            def search_runs(self, *_: object, **__: object) -> list[Any]:
                return [SimpleNamespace(info=SimpleNamespace(run_id="r"))]

            def log_batch(self, *_: object, **__: object) -> None:
                raise mlflow_client.MlflowException(says, error_code=INVALID)

        monkeypatch.setattr(mlflow_tracker, "connect", lambda uri: Client())
        return MlflowBackend("http://nowhere", "e")

    event = Event("metrics", "ours", 0, {"step": 1, "values": {"loss": 1.0}})
    with pytest.raises(mlflow_client.MlflowException):
        failing("The run r must be in the 'active' state. Current state is deleted.").deliver([event])
    with pytest.raises(Rejected):
        failing("Got invalid value nan for metric").deliver([event])
    with pytest.raises(Rejected, match="no event of this version"):
        failing("").deliver([Event("note", "ours", 0, {})])  # type: ignore[arg-type]
