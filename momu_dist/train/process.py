"""How old this process is, and since when somebody may have spoken to what it does. No torch."""

from __future__ import annotations

import os
import time
from pathlib import Path

GIVEN_AT = "MOMU_COMMAND_GIVEN_AT"
"""A variable that holds when the command was given (`time.time()`) of which this process is a later part."""


def process_age_s() -> float:
    """Return how long this process lives, from before its interpreter; a batch script that became it counts too.

    At least 0, also where a container's clock began later; 0 where the system does not say.
    """
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        up = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return 0.0
    return max(0.0, up - ticks / os.sysconf("SC_CLK_TCK"))


def given_at() -> float:
    """Return when the command was given: when this process began, or the one for which it was started."""
    return float(os.environ.get(GIVEN_AT) or time.time() - process_age_s())
