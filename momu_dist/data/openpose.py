"""OpenPose's JSON frames (`doc/02_output.md` of CMU's openpose), read and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from momu_dist.errors import DataError, json_fault


def people_of(frame: Any, place: str) -> NDArray[np.float64]:
    """Body-25 keypoints (P, 25, 3) of the P >= 0 people in a parsed OpenPose frame: x px, y px, confidence.

    Undetected joints are 0, 0, 0, as OpenPose writes them. Raises DataError, which names `place`, for another layout
    or another skeleton.
    """
    try:
        people = [np.asarray(person["pose_keypoints_2d"]) for person in frame["people"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{place} is no OpenPose frame, expected `people` with `pose_keypoints_2d` in each."
        ) from error
    for person in people:
        if person.shape != (75,) or person.dtype.kind not in "fiu":
            raise DataError(
                f"{place} holds another skeleton ({person.size} numbers), "
                "expected the 75 numbers of BODY_25 for each person."
            )
    return np.array(people, dtype=np.float64).reshape(-1, 25, 3)


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises DataError if it is torn or cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(
            f"{path} is not JSON ({json_fault(error)}), expected OpenPose-style frames; copy it again."
        ) from error
