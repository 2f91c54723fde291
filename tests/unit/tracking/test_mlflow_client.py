"""A database of MLflow's appears whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from momu_dist.tracking import mlflow_client


def fill(engine: Any) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE datasets (id INTEGER)")


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
