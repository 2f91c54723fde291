"""Progress on a terminal as a bar, in a log as a line now and then."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from tqdm import tqdm

LOG_INTERVAL_S = 30.0
"""Between two lines of a log: the first and the last are always there."""

LINE = "{desc}: {n_fmt} of {total_fmt} {unit} | {elapsed}<{remaining}{postfix}"


def progress(total: int, desc: str, unit: str, **more: Any) -> tqdm:
    """Return a tqdm bar on stderr; where that is no terminal each update is a line of its own, every LOG_INTERVAL_S.

    Show values by `set_postfix(..., refresh=False)` and move it by `update`: `refresh` would write at every call.
    """
    more = {"total": total, "desc": desc, "unit": unit, "miniters": 0, **more}
    if sys.stderr.isatty():
        return tqdm(mininterval=0.5, **more)
    return tqdm(
        file=_Lines(sys.stderr),
        mininterval=LOG_INTERVAL_S,
        maxinterval=LOG_INTERVAL_S,
        bar_format=LINE,
        **more,
    )


class _Lines:
    """A stream that makes a line of each text that a bar would write over the one before."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = ""

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line and line != self._last:
            self._stream.write(line + "\n")
        self._last = line or self._last

    def flush(self) -> None:
        self._stream.flush()
