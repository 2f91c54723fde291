"""Errors that a user can cause. Each message is one sentence: what was found, what was expected, where, what to do."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable


class MomuError(Exception):
    """A sentence for the user; command lines print it without a traceback and exit with code 2."""


class ConfigError(MomuError):
    """A configuration that cannot be run: unknown key, wrong type, combination that is not offered."""


class DataError(MomuError):
    """An input that cannot be used as a whole: wrong tree, missing files, features made by other settings."""


class ClipError(DataError):
    """One clip that cannot be used (truncated audio, NaN joints, ...); preparation lists it and goes on."""


class CheckpointError(MomuError):
    """A checkpoint that is missing, torn, or made for something else."""


class Superseded(CheckpointError):
    """An attempt of a run that another one has followed: it may not write any more, nor say how the run fares."""


class DiskError(MomuError):
    """A folder that cannot be written any more, such as on a disk that is full."""


class TrainingError(MomuError):
    """A training that had to stop, such as a loss that is not finite."""


class GivenUp(TrainingError):
    """A training whose workers ended too often, by faults that may go away: another attempt may fare better."""


class Stopped(MomuError):
    """A training that was asked to stop and has saved what it has done; the same command goes on."""


def json_fault(error: Exception) -> str:
    """What keeps a text from being read as JSON, without Python's advice on how to read it all the same."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is no UTF-8"
    if isinstance(error, OSError):
        return error.strerror or "it cannot be read"
    return str(error) if isinstance(error, json.JSONDecodeError) else "it holds a number of too many digits"


def without_login(text: str) -> str:
    """Return `text`, such as a URI or what a library says of one, with stars in place of a name and password."""
    # SQLAlchemy lets a password hold a slash, which ends what stands before the @ in an address of http.
    login = r"(?<=//)(?:[^/?#\s]*|(?<!http://)(?<!https://)[^/@:\s]*:[^@\s]*)(?=@)"
    text = re.sub(login, "***", text, flags=re.IGNORECASE)
    return re.sub(r"((?:password|pwd)(?:=|%3D))[^&\s]+", r"\1***", text, flags=re.IGNORECASE)


STOPPED = 75
"""The exit code of `Stopped`, the system's EX_TEMPFAIL: try again later."""

GIVEN_UP = 1
"""The exit code of `GivenUp`."""


def exit_code(command: Callable[[], None], stopped: str) -> int:
    """Run a command line's work and return its exit code: 0, 2 after one sentence on stderr, 75 where it was stopped
    and can go on, 1 where faults made it give up, 130 after Ctrl-C.

    After Ctrl-C it says what the KeyboardInterrupt says, else `stopped`.
    """
    try:
        command()
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return STOPPED
    except MomuError as error:
        print(f"error: {error}", file=sys.stderr)
        return GIVEN_UP if isinstance(error, GivenUp) else 2
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(str(error) or stopped, file=sys.stderr)
        return 130
    return 0
