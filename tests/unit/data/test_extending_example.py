"""The source in docs/extending.md works as it is printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from momu_dist.data.prepare import PrepareOptions, prepare
from momu_dist.errors import DataError

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def example() -> Any:
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "extending.md").read_text(), re.DOTALL)
    scope: dict[str, Any] = {"__name__": "coco_folder"}
    exec(compile(code, "extending.md", "exec"), scope)
    return scope["CocoFolder"]


def test_it_prepares_and_lists_what_it_cannot_use(example: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    raw = tmp_path / "raw"
    raw.mkdir()
    for clip, joints in (("a", 17), ("b", 17), ("c", 16)):
        pose = rng.uniform(100, 300, (1, joints, 3)) + rng.normal(0, 2, (60, joints, 3))
        pose[..., 2] = 0.9
        np.save(raw / f"{clip}.npy", pose)
        soundfile.write(raw / f"{clip}.wav", rng.normal(0, 0.1, 32000), 16000)
    made = prepare(example(raw), tmp_path / "out", PrepareOptions(max_rejected=0.5), progress=False)
    assert sorted(made.clips["clip_id"].to_pylist()) == ["a", "b"]
    (rejected,) = made.rejected()
    assert rejected["clip_id"] == "c" and "expected (T, 17, 3)" in rejected["reason"]


def test_an_empty_tree_is_a_sentence(example: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no .npy; put"):
        example(tmp_path).refs()
