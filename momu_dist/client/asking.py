"""What is asked for, looked at before it is sent; values and their bounds are left to the service."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from momu_dist.errors import ConfigError, DataError

PATHS = {"m2a": "motion-to-music", "a2m": "music-to-motion", "joint": "joint"}
SETTINGS = ("format", "seconds", "seed", "n", "steps", "sampler", "guidance", "gamma", "fps", "file")
DEFAULT_FORMAT, DEFAULT_STEPS = "mp4", 50
DDPM_STEPS = 1000
ENDINGS = {
    "audio/wav": "wav",
    "application/octet-stream": "npz",
    "application/json": "json",
    "text/plain": "bvh",
    "text/csv": "csv",
    "video/mp4": "mp4",
    "image/png": "png",
    "application/zip": "zip",
}
"""The ending of a file of each media type that results come as."""
SEVERAL = "zip"
FORMATS = tuple(ending for ending in ENDINGS.values() if ending != SEVERAL)


def checked_query(task: Any, body: Path | bytes | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are given (not None), where they and the input belong to `task`."""
    if not isinstance(task, str) or task not in PATHS:
        raise ConfigError(f"the task is {task!r}, expected {_either(PATHS)}.")
    unknown = [name for name in settings if name not in SETTINGS]
    if unknown:
        raise ConfigError(f"there is no setting {unknown[0]!r}, expected {_either(SETTINGS)}.")
    query = {name: value for name, value in settings.items() if value is not None}
    sources = (body is not None) + ("file" in query)
    if sources != (task != "joint"):
        expected = "none" if task == "joint" else "one, as a path or by the id of an uploaded file"
        raise ConfigError(
            f"task {task} is given {sources or 'no'} input{'s' * (sources > 1)}, expected {expected}."
        )
    if isinstance(body, Path):
        checked_file(body)
    elif body == b"":
        raise DataError("the input holds no bytes, expected an audio, video or motion file.")
    return query


def checked_item(number: int, item: Mapping[str, Any]) -> tuple[dict[str, Any], Path | None]:
    """The line of a batch for item `number`, without what names its file, and the path of its input."""
    try:
        settings = {name: value for name, value in item.items() if name not in ("task", "id", "input")}
        source = item.get("input")
        if not isinstance(source, str | Path | None):
            raise DataError(f"its input is {source!r}, expected a path.")
        path = None if source is None else Path(source)
        line = {"task": item.get("task"), **checked_query(item.get("task"), path, settings)}
        if (id := item.get("id")) is not None:
            if not isinstance(id, str):
                raise DataError(f"its id is {id!r}, expected a text.")
            line["id"] = id
        json.dumps(line, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{item_name(number, item.get('id'))} of the batch is no JSON ({error}), expected names and numbers."
        ) from error
    except (ConfigError, DataError) as error:
        raise type(error)(f"{item_name(number, item.get('id'))} of the batch: {error}") from error
    return line, path


def item_name(number: int, id: Any) -> str:
    """What messages call an item: its number, counted from 1, and the name that it was given."""
    return f"item {number} ({id})" if isinstance(id, str) else f"item {number}"


def checked_file(path: Path) -> Path:
    """`path`, where it is a file that holds something."""
    if not path.is_file():
        found = "is no file" if path.exists() else "does not exist"
        raise DataError(f"{path} {found}, expected an audio, video or motion file.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty, expected an audio, video or motion file.")
    return path


def format_of(path: Path, settings: Mapping[str, Any]) -> str:
    """The format to ask for, so that `path` has the ending of what comes."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, expected the name of a file to be written.")
    ending, given = path.suffix[1:].lower(), settings.get("format")
    if is_several(settings):
        if ending != SEVERAL:
            raise ConfigError(
                f"{path} is to hold several samples, expected the ending .{SEVERAL} (format: that of each)."
            )
        return given or DEFAULT_FORMAT
    if ending not in FORMATS:
        raise ConfigError(f"{path} has the ending {path.suffix!r}, expected one of {', '.join(FORMATS)}.")
    if given not in (None, ending):
        raise ConfigError(f"{path} has the ending {path.suffix!r}, expected .{given} as the format given.")
    return ending


def is_several(settings: Mapping[str, Any]) -> bool:
    """Whether several samples are asked for, which come as a zip."""
    return settings.get("n") not in (None, 1)


def steps_of(item: Mapping[str, Any]) -> int:
    """How many sampler steps all samples of an item take; ddpm takes those of its schedule, whatever `steps` says."""
    steps = DDPM_STEPS if item.get("sampler") == "ddpm" else item.get("steps") or DEFAULT_STEPS
    return int(steps) * int(item.get("n") or 1)


def _either(names: Any) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"
