"""MLflow's client, with our settings; no other module imports mlflow."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

# A server that hangs is left after seconds, not after MLflow's default of minutes; set before the import reads them.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# It would print the server's address at a run's end, with the name and password in it.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine_with_retry
from mlflow.tracking import MlflowClient

SQLITE = "sqlite:///"

__all__ = ["SQLITE", "Metric", "MlflowClient", "MlflowException", "Param", "RunTag", "connect"]

logging.getLogger("alembic").setLevel(logging.WARNING)  # a page of lines about creating the sqlite tables
# Whole tracebacks of SQLAlchemy at every try against a database that is locked; what went wrong is raised, too.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def connect(uri: str) -> MlflowClient:
    """Return a client whose runs and models both live at `uri`, whatever the environment says."""
    if uri.startswith(SQLITE) and "?" not in uri and not uri.endswith(":memory:"):
        _create(Path(uri.removeprefix(SQLITE)))
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _create(database: Path) -> None:
    """Make an sqlite file with MLflow's tables appear at once, where there is none.

    MLflow fills a new file for seconds, and one whose making was interrupted it cannot open ever again.
    """
    if database.exists():
        return
    made = database.with_name(f".{database.name}.{secrets.token_hex(4)}")
    engine = create_sqlalchemy_engine_with_retry(f"{SQLITE}{made}")
    try:
        _initialize_tables(engine)
        engine.dispose()
        try:
            os.link(made, database)
        except FileExistsError:
            return  # another process was first
        except OSError:  # a file system without hard links
            made.rename(database)
    finally:
        made.unlink(missing_ok=True)
