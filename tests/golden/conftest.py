"""Golden numbers of the reference implementations; a missing file fails, none creates itself."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest


class Golden:
    """Reads golden files from the folder named by MOMU_GOLDEN (default: tests/golden/data)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def npz(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.folder / name, allow_pickle=False) as arrays:
            return dict(arrays)

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden(Path(os.environ.get("MOMU_GOLDEN", Path(__file__).parent / "data")))
