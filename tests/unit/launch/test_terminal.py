"""What of a text reaches a terminal."""

from __future__ import annotations

import os

import pytest

from momu_dist.launch.terminal import one_line, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("caf\xe9 \u4e16 a\tb\nc", "caf\xe9 \u4e16 a\tb\nc"),
        ("\x1b[1;31mred\x1b[0m \x1b[2K\x1b[?25l", "red "),
        ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b", "ab"),
        ("\x1bP1$r\x1b\\a", "a"),
        ("\x1b", ""),
        ("a\x1bcb", "acb"),
        ("\x9b31m \x00\x08\x0b\x0c\x0d\x7f\x85", "31m "),
        (os.fsdecode(b"\xff.out"), "?.out"),
    ],
)
def test_words_pass_and_what_steers_does_not(text: str, shown: str) -> None:
    assert plain(text) == shown
    plain(text).encode()


def test_one_line() -> None:
    assert one_line("a\n\tb\u2028c  d\x1b[1m") == "a b c  d"
