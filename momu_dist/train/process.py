"""How old this process is: since when somebody may have spoken to it. No torch."""

from __future__ import annotations

import os
from pathlib import Path


def process_age_s() -> float:
    """Return how long this process lives, from before its interpreter; a batch script that became it counts too."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    up = float(Path("/proc/uptime").read_text().split()[0])
    return up - ticks / os.sysconf("SC_CLK_TCK")
