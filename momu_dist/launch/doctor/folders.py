"""The filesystems that folders lie on, and whether all machines see the same ones."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from momu_dist.launch.doctor.finding import Finding

NETWORK_TYPES = re.compile(
    r"nfs\d?|lustre|gpfs|beegfs|ceph|cifs|smb\d?|smbfs|afs|pvfs2|orangefs|glusterfs|panfs|wekafs|9p|fuse\..+"
)

TOKEN = "doctor"
"""The file that the doctor leaves in a folder for the machines to read; each writes one of its own name beside it."""
UNSEEN_S = 20.0
"""How long a network filesystem's cache may hide a new file."""

_NOT_SHARED = "put the checkout and `out` on a filesystem that all nodes mount at one path"


def filesystem_of(path: Path, mounts: str | None = None) -> tuple[str, str]:
    """Return the device and the type of the filesystem that `path` lies on; `mounts` is the text of /proc/mounts."""
    path = path.resolve()
    mounts = Path("/proc/mounts").read_text() if mounts is None else mounts
    best, found = -1, ("", "")
    for line in mounts.splitlines():
        device, point, kind = line.split()[:3]
        folder = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), point))
        # Of several mounts on one folder the last is the one seen.
        if path.is_relative_to(folder) and len(folder.parts) >= best:
            best, found = len(folder.parts), (device, kind)
    return found


def is_network(kind: str) -> bool:
    return NETWORK_TYPES.fullmatch(kind) is not None


def existing(folder: Path) -> Path:
    """Return the nearest folder above that is there: `folder` itself may only be made by the run."""
    folder = folder.absolute()
    return next(one for one in (folder, *folder.parents) if one.is_dir())


def quota_left(device: str) -> int | None:
    """Return the bytes that the user's quota leaves on a device of /proc/mounts; None where `quota` does not say."""
    program = shutil.which("quota")
    if program is None:
        return None
    try:
        answer = subprocess.run([program, "-w"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    for line in answer.stdout.splitlines():
        cells = line.split()
        if len(cells) >= 4 and cells[0] == device:
            used, soft, hard = (
                int(re.sub(r"\D", "", cell) or 0) for cell in cells[1:4]
            )  # KB; a * marks too much
            return max(0, (hard or soft) - used) * 1024 if hard or soft else None
    return None


@contextmanager
def tokens_in(folders: Sequence[Path]) -> Iterator[list[Path]]:
    """Leave a token in each folder, and remove it with what the machines have answered."""
    made: list[Path] = []
    try:
        # One folder a filesystem is enough.
        for folder in {existing(folder).stat().st_dev: existing(folder) for folder in folders}.values():
            token = folder / f".momu-doctor-{secrets.token_hex(4)}"
            token.mkdir()
            made.append(token)
            (token / TOKEN).write_text(secrets.token_hex(16))
        yield made
    finally:
        for token in made:
            shutil.rmtree(token, ignore_errors=True)


def not_seen(node: str, findings: Sequence[Finding], left: Sequence[Path], until: float) -> list[Finding]:
    """Return what a machine says it has written and this one cannot see."""
    said = [finding for finding in findings if finding.check == "shared folders" and finding.level == "fine"]
    if len(said) < len(left):
        return []  # it has found out itself
    lacking = list(left)
    while lacking:
        lacking = [
            token for token in lacking if read_anew(token / f"node-{node}") != read_anew(token / TOKEN)
        ]
        if not lacking or time.monotonic() > until:
            break
        time.sleep(0.2)
    return [
        Finding(
            "shared folders",
            "wrong",
            f"what it wrote to {token.parent} is not seen here",
            _NOT_SHARED,
        )
        for token in lacking
    ]


def read_anew(path: Path) -> str | None:
    """Return the text of a file that another machine may just have made; None where there is none."""
    try:
        os.listdir(path.parent)  # a network filesystem asks its server anew
        return path.read_text()
    except OSError:
        return None


def check_shared(folder: Path, node: str, wait_s: float = UNSEEN_S) -> Finding:
    """Whether a folder in which the doctor has left its token is the same here; leaves this machine's answer in it.

    Caches of a network filesystem may hide a new file for some seconds.
    """
    until = time.monotonic() + wait_s
    while True:
        try:
            token = (folder / TOKEN).read_text()
            (folder / f"node-{node}").write_text(token)
            return Finding(
                "shared folders", "fine", f"{folder.parent} holds what the doctor wrote, and its answer"
            )
        except OSError as error:
            if time.monotonic() > until:
                return Finding(
                    "shared folders",
                    "wrong",
                    f"{folder.parent} is another folder here, or not writable ({error.strerror})",
                    _NOT_SHARED,
                )
        time.sleep(0.2)
