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


def kind_of(value: object) -> str:
    """What a value is, for a message that must not show it since it may be or hold a password."""
    if value is None:
        return "empty"
    if isinstance(value, str):
        return f"a text of {len(value)} character{'s' * (len(value) != 1)}"
    if isinstance(value, bool):
        return "true or false"
    return {int: "a number", float: "a number with a point", dict: "a mapping"}.get(
        type(value), f"a {type(value).__name__}"
    )


# What an sqlite URI holds is a path and no secret; it is here so that nothing in it is taken for another URI.
_URI = re.compile(r"(?<![\w+])sqlite:///\S*|//(?P<login>.*@)?(?P<place>[^?#]*)(?P<query>[?#].*)?", re.DOTALL)


def without_login(text: str) -> str:
    """Return `text`, a URI or one among other words, with stars for the secrets in it: a name and password, and what
    follows a `?` or `#`.

    The signs that end a password may also stand in it, so all up to the last @ is taken for a login, and where an @ may as
    well be one of the query, all is starred. Of other words behind a URI too much may go; `told` takes each by itself.
    """

    def starred(uri: re.Match[str]) -> str:
        if uri["place"] is None:
            return uri[0]
        login = uri["login"] or ""
        if re.search(r"[?#]", login):
            return "//***"
        return f"//{'***@' if login else ''}{uri['place']}{uri['query'][0] + '***' if uri['query'] else ''}"

    return _URI.sub(starred, text)


def told(error: object) -> str:
    """Return what a library says, on one line of at most 300 characters, without the secrets of a URI that `tracking` takes:
    one without blanks.
    """
    text = " ".join(without_login(word) for word in str(error).split())
    # A library may name what it asks for without the server: `url: /api/runs?token=secret`.
    return re.sub(r"(/[^\s?]*\?)\S+", r"\1***", text)[:300]


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
