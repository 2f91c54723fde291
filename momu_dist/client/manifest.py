"""A manifest: many items in one file, as `momu client batch` and `momu generate --manifest` take them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from momu_dist.errors import DataError, json_fault


def read_manifest(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The items, with the paths of their inputs as seen from here, and the hash of the manifest.

    Raises DataError that names the line which is no item.
    """
    try:
        content = path.read_bytes()
        lines = content.decode().split("\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8, expected JSONL with an item a line.") from error
    items = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path} line {number} is no JSON ({json_fault(error)}), expected an item."
            ) from error
        if not isinstance(item, dict):
            raise DataError(
                f'{path} line {number} is no item, expected such as {{"task": "a2m", "input": "a.wav"}}.'
            )
        if isinstance(item.get("input"), str):
            item["input"] = str(path.parent / item["input"])
        items.append(item)
    if not items:
        raise DataError(f"{path} holds no item, expected JSONL with an item a line.")
    return items, hashlib.sha256(content).hexdigest()
