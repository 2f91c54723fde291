"""Text of files and other programs as a terminal may have it: it shows words, and is not steered by them."""

from __future__ import annotations

import re

# Colours, movements of the cursor, titles: each as a whole. Then every control character that is left, but newline and tab.
_STEERING = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)


def plain(text: str) -> str:
    """Return `text` without what steers a terminal; what is no character, as in a file's name of other bytes, is a `?`."""
    return _STEERING.sub("", text).encode(errors="replace").decode()


def one_line(text: str) -> str:
    """Return `text` as `plain` does, in one line."""
    return re.sub(r"[\n\t\u2028\u2029]+", " ", plain(text))
