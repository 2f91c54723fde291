"""What every benchmark writes: the machine, and a table in markdown."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "ray", "deepspeed", "librosa", "numpy")


def machine_line(packages: Sequence[str] = PACKAGES) -> str:
    """Date, processor, cores and versions, in one line."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    cores = len(os.sched_getaffinity(0))
    return f"{datetime.date.today()}, {_processor()}, {cores} cores, Python {platform.python_version()}, {versions}"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def publish(title: str, text: str, out: Path | None) -> None:
    """Print `text`, and write it to `out` under `title` where there is one."""
    if out:
        out.write_text(f"# {title}\n\n{text}")
    print(text)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
