"""The folder that a job, or a training with an own Ray, has on a node's own disk: its name, whose it is, and what killed ones
have left there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TextIO

_JOB_DIGITS = 9
RAY_CHARACTERS = 64
"""What Ray adds to the folder: /session_<date>_<process>/sockets/plasma_store."""
SOCKET_CHARACTERS = 107
"""What the path of a socket may have."""
_OWNER = "node"
"""A file in the folder that holds the node's name and is locked as long as a process has the folder."""


def node_folder(scratch: str, job: int | str) -> str:
    """Return the folder of a job below `scratch`, on each of its nodes; an own Ray has a word in place of a number."""
    return f"{scratch.rstrip('/')}/momu-{os.getuid()}-{job}"


def excess(scratch: str) -> int:
    """Return by how many characters the paths of Ray's sockets below `scratch` may be too long; at most 0 if they fit."""
    longest = node_folder(scratch, 10**_JOB_DIGITS - 1)
    return len(os.fsencode(longest)) + RAY_CHARACTERS - SOCKET_CHARACTERS


def take(folder: Path, node: str) -> TextIO:
    """Make a folder, which is this process's own until the file returned is closed; OSError if it is there, or cannot be made."""
    folder.mkdir(parents=True, mode=0o700)
    try:
        owner = (folder / _OWNER).open("w")
        with suppress(OSError):  # a file system without locks: what is left there is removed by nobody
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        owner.write(node)
        owner.flush()
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)  # without an owner it would be in the way for ever
        raise
    return owner


def sweep(scratch: Path, node: str) -> None:
    """Remove the folders of this user that this node made and no process of it has any more."""
    for folder in scratch.glob(f"momu-{os.getuid()}-*"):
        with suppress(OSError):
            path, known = folder / _OWNER, os.fsencode(node)
            # Others may write to the disk: nothing of theirs is opened.
            if {folder.lstat().st_uid, path.lstat().st_uid} != {os.getuid()}:
                continue
            with path.open("rb+") as owner:
                if owner.read(len(known) + 1) == known:
                    fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
