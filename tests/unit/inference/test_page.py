from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from momu_dist.inference.page import Page, Sample


class Reader(HTMLParser):
    """Checks that tags close in order and remembers links and text."""

    void = frozenset({"meta", "img", "link", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture()
def read(tmp_path: Path) -> Reader:
    Page("Demo").text("A & B <script>alert(1)</script>").heading("Scores").scores(
        {"m2a": {"generated": 0.8, "shuffled": 0.5, "odd": float("nan")}, "a2m": {"generated": 1.2}}
    ).heading("Samples").gallery(
        [
            Sample("clip <1>", "m2a/clip 1.mp4", "m2a/clip 1.wav", "m2a/a#b.png", "m2a/clip 1.json", "note"),
            Sample("bare"),
        ]
    ).pictures({"loss": "curves/loss.png"}).facts({"seconds": 12.34567, "cores": 2}).table(
        ["stage", "s"], [["music_vae", 61.25]]
    ).write(tmp_path / "index.html")
    reader = Reader()
    reader.feed((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert not reader.open
    return reader


def test_the_page_is_self_contained_and_only_links_what_it_was_given(read: Reader) -> None:
    assert not {"script", "link", "iframe"} & read.tags
    assert set(read.links) == {
        "m2a/clip%201.mp4",
        "m2a/clip%201.wav",
        "m2a/a%23b.png",
        "m2a/clip%201.json",
        "curves/loss.png",
    }


def test_text_is_shown_as_it_was_given(read: Reader) -> None:
    text = " ".join(read.words)
    for shown in (
        "A & B <script>alert(1)</script>",
        "clip <1>",
        "0.800",
        "nan",
        "12.35",
        "61.25",
        "music_vae",
    ):
        assert shown in text


def test_a_bar_never_leaves_its_card(tmp_path: Path) -> None:
    Page("x").scores({"m2a": {"a": 7.0, "b": -1.0}}).write(tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert "width:100.0%" in text and "width:0.0%" in text
