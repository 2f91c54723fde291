"""The MLflow end of tracking.

A run is found by our own id, kept in the tag `momu.run_id`, and not by MLflow's, which only the server can give: so a
run has its id at once, even while the server is away, and a restart reopens the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from momu_dist.tracking.background import BackgroundTracker
from momu_dist.tracking.events import Event, Rejected
from momu_dist.tracking.mlflow_client import SQLITE, Metric, MlflowException, Param, RunTag, connect
from momu_dist.tracking.mlflow_registry import register

RUN_TAG = "momu.run_id"
MOST_METRICS, MOST_PARAMS, MOST_TAGS = 1000, 100, 100  # MLflow's limits for one log_batch
VALUE_LENGTH = 500
_REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
}  # all else, a lost permission too, may come right later

Item = TypeVar("Item")


class MlflowBackend:
    """Delivers events to the experiment `experiment` at `uri`; delivering one again leaves the run unchanged.

    (MLflow keeps one of several metric values that agree in name, step, time and value.)
    For an sqlite URI the artifacts of a new experiment go to the folder `mlartifacts` beside the database.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self._client = connect(uri)
        self._is_server = uri.startswith("http")
        self._experiment_id = self._find_experiment(uri, experiment)
        self._mlflow_ids: dict[str, str] = {}

    def deliver(self, events: Sequence[Event]) -> None:
        actions: dict[str, Callable[[Event], None]] = {
            "start": self._start,
            "artifact": self._artifact,
            "model": self._model,
            "finish": self._finish,
        }
        kind = events[0].kind
        if kind != "metrics" and kind not in actions:
            raise Rejected(f"{kind!r} is no event of this version")
        try:
            if kind == "metrics":
                self._metrics(events)
            else:
                actions[kind](events[0])
        except MlflowException as error:
            # A run or an experiment that was deleted can be restored: what is meant for it waits.
            if error.error_code in _REFUSALS and "'active' state" not in str(error):
                raise Rejected(str(error).splitlines()[0][:300]) from error
            raise

    def _find_experiment(self, uri: str, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = None
        if uri.startswith(SQLITE):
            location = Path(uri.removeprefix(SQLITE)).absolute().with_name("mlartifacts").as_uri()
        try:
            return str(self._client.create_experiment(name, artifact_location=location))
        except MlflowException:  # another process was first; if not, the look-up below says what is wrong
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def _mlflow_id(self, run_id: str) -> str:
        """Return MLflow's id of our run, made if it is not there."""
        if run_id not in self._mlflow_ids:
            runs = self._client.search_runs(
                [self._experiment_id], filter_string=f"tags.`{RUN_TAG}` = '{run_id}'"
            )
            run = runs[0] if runs else self._client.create_run(self._experiment_id, tags={RUN_TAG: run_id})
            self._mlflow_ids[run_id] = run.info.run_id
        return self._mlflow_ids[run_id]

    def _start(self, event: Event) -> None:
        run = self._client.get_run(self._mlflow_id(event.run_id))
        target = run.info.run_id
        self._client.update_run(target, status="RUNNING", name=event.body["name"])
        # MLflow never changes a parameter: of a reopened run the first value stays, a new one is added as a tag.
        wanted = {key: value[:VALUE_LENGTH] for key, value in event.body["params"].items()}
        known = run.data.params
        params = [Param(key, value) for key, value in wanted.items() if key not in known]
        tags = [RunTag(key, value) for key, value in event.body["tags"].items()]
        tags += [RunTag(f"resumed.{k}", v) for k, v in wanted.items() if known.get(k, v) != v]
        for part in _chunks(params, MOST_PARAMS):
            self._client.log_batch(target, params=part)
        for tag_part in _chunks(tags, MOST_TAGS):
            self._client.log_batch(target, tags=tag_part)

    def _metrics(self, events: Sequence[Event]) -> None:
        values = [
            Metric(key, value, event.time_ms, event.body["step"])
            for event in events
            for key, value in event.body["values"].items()
        ]
        for part in _chunks(values, MOST_METRICS):
            self._client.log_batch(self._mlflow_id(events[0].run_id), metrics=part)

    def _artifact(self, event: Event) -> None:
        path = Path(event.body["path"])
        if not path.is_file():
            raise Rejected(f"{path} is not there any more")
        self._client.log_artifact(self._mlflow_id(event.run_id), str(path), event.body["folder"] or None)

    def _model(self, event: Event) -> None:
        register(
            self._client,
            self._experiment_id,
            self._mlflow_id(event.run_id),
            event.body["name"],
            Path(event.body["export"]),
            {**event.body["tags"], RUN_TAG: event.run_id},
            self._is_server,
        )

    def _finish(self, event: Event) -> None:
        self._client.set_terminated(
            self._mlflow_id(event.run_id), event.body["status"], end_time=event.time_ms
        )


def mlflow_tracker(uri: str, experiment: str, spool: Path) -> BackgroundTracker:
    """Return a tracker for MLflow at `uri`; nothing is contacted before `start`, and then on its own thread."""
    return BackgroundTracker(lambda: MlflowBackend(uri, experiment), spool)


def _chunks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[first : first + size] for first in range(0, len(items), size)]
