"""What sbatch reads of a script, as it reads it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Options = dict[str, str | bool]


def words_of(line: str) -> list[str]:
    """Split as sbatch 22.05 does: quotes as in a shell, a backslash quotes the next sign inside them too, # ends."""
    words, word, quote, given, signs = [], "", "", False, iter(line)
    for sign in signs:
        if sign == "\\":
            word, given = word + next(signs, ""), True
        elif quote:
            quote, word = ("", word) if sign == quote else (quote, word + sign)
        elif sign in "\"'":
            quote, given = sign, True
        elif sign == "#":
            break
        elif sign.isspace():
            words, word, given = ([*words, word] if given else words), "", False
        else:
            word, given = word + sign, True
    return [*words, word] if given else words


def options_of(script: str) -> Options:
    """Return the long options in a script's lines for sbatch, which end with its first command."""
    options: Options = {}
    for line in script.splitlines():
        if line and not line.startswith("#"):
            break
        if line.startswith("#SBATCH"):
            for word in words_of(line.removeprefix("#SBATCH")):
                option, equals, value = word.removeprefix("--").partition("=")
                assert word.startswith("--") and option not in options
                options[option] = value if equals else True
    return options


@pytest.fixture(scope="session")
def sbatch_reads() -> Callable[[str], Options]:
    """Text of a script -> the options that sbatch reads in it."""
    return options_of
