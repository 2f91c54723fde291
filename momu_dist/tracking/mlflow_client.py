"""MLflow's client, with our settings; no other module imports mlflow."""

from __future__ import annotations

import logging
import os

# A server that hangs is left after seconds, not after MLflow's default of minutes; set before the import reads them.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

__all__ = ["Metric", "MlflowClient", "MlflowException", "Param", "RunTag", "connect"]

for _name in ("alembic", "mlflow.store.db.utils"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # a page of lines about creating the sqlite tables


def connect(uri: str) -> MlflowClient:
    """Return a client whose runs and models both live at `uri`, whatever the environment says."""
    return MlflowClient(tracking_uri=uri, registry_uri=uri)
