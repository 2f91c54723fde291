"""A self-contained HTML page of results: one file, no scripts, light and dark, links to media beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

_STYLE = """ :root { color-scheme: light dark; --ink: #1d2129; --soft: #5b6472; --line: #dde1e7; --page:
#f6f7f9; --card: #ffffff;
  --bar: #0072b2; --rest: #9aa4b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --soft: #a0a9b6; --line: #333a45; --page:
#15181d;
  --card: #1d2128; --bar: #56b4e9; --rest: #6b7585; } }
* { box-sizing: border-box; } body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55
system-ui, sans-serif; } main { max-width: 1160px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; } h1 {
font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; } p { max-width: 46rem; margin: .5rem 0; } .soft, figcaption, dt {
color: var(--soft); } .grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill,
minmax(min(100%, 330px), 1fr)); } .card, figure { background: var(--card); border: 1px solid var(--line);
border-radius: 10px; padding: 1rem; margin: 0;
  min-width: 0; }
video, img { display: block; width: 100%; border-radius: 6px; } img { height: auto; background: #fff; } audio
{ display: block; width: 100%; margin-top: .5rem; } .card a img { margin-top: .5rem; } .links { font-size:
.9rem; margin: .5rem 0 0; } a { color: var(--bar); } .scroll { overflow-x: auto; } table { border-collapse:
collapse; background: var(--card); border: 1px solid var(--line); } th, td { padding: .4rem .8rem; text-align:
left; border-bottom: 1px solid var(--line); } td { font-variant-numeric: tabular-nums; } dl { display: grid;
grid-template-columns: max-content 1fr; gap: .2rem 1.25rem; margin: .5rem 0; } dd { margin: 0; overflow-wrap:
anywhere; } .bar { display: grid; grid-template-columns: 6.5rem 1fr 3.2rem; gap: .6rem; align-items: center;
margin: .3rem 0;
  font-variant-numeric: tabular-nums; }
.bar i { display: block; height: .8rem; border-radius: 3px; background: var(--rest); min-width: 2px; }
.bar.first i { background: var(--bar); }
.bar.first { font-weight: 600; }
"""


@dataclass(frozen=True)
class Sample:
    """One generated sample on the page; paths are relative to the page, None leaves the part out."""

    title: str
    mp4: str | None = None
    wav: str | None = None
    sheet_png: str | None = None
    recipe_json: str | None = None
    note: str = ""


class Page:
    """A page that is filled from top to bottom and written once; every part returns the page, so calls chain.

    Text is escaped, so a file name or a note cannot break the page.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]

    def heading(self, text: str) -> Page:
        """A section's heading."""
        return self._add(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> Page:
        """A paragraph."""
        return self._add(f"<p>{escape(text)}</p>")

    def facts(self, facts: Mapping[str, object]) -> Page:
        """A list of names and values, such as the machine or the seconds a stage took; floats to 4 digits."""
        rows = "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(_shown(value))}</dd>" for name, value in facts.items()
        )
        return self._add(f"<dl>{rows}</dl>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Page:
        """A table; floats to 4 digits."""
        head = "".join(f"<th>{escape(name)}</th>" for name in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(_shown(value))}</td>" for value in row) + "</tr>" for row in rows
        )
        return self._add(f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>')

    def scores(self, scores: Mapping[str, Mapping[str, float]]) -> Page:
        """One card of bars a task: {"m2a": {"generated": 0.8, "shuffled": 0.5, ...}}, scores in [0, 1].

        The first bar of a card is set off from those it is compared with.
        """
        cards = []
        for task, values in scores.items():
            bars = []
            for i, (name, value) in enumerate(values.items()):
                percent = 100 * min(max(value, 0.0), 1.0) if value == value else 0.0  # NaN draws nothing
                first = " first" if i == 0 else ""
                bars.append(
                    f'<div class="bar{first}"><span>{escape(name)}</span>'
                    f'<i style="width:{percent:.1f}%"></i><span>{value:.3f}</span></div>'
                )
            cards.append(f'<div class="card"><h3>{escape(task)}</h3>{"".join(bars)}</div>')
        return self._add(f'<div class="grid">{"".join(cards)}</div>')

    def gallery(self, samples: Sequence[Sample]) -> Page:
        """Cards with a video, its sound alone, the sheet (opens large) and how to make the sample again."""
        return self._add(f'<div class="grid">{"".join(_card(sample) for sample in samples)}</div>')

    def pictures(self, pictures: Mapping[str, str]) -> Page:
        """Pictures with captions, {caption: path relative to the page}: training curves."""
        figures = "".join(
            f'<figure><a href="{_url(path)}"><img src="{_url(path)}" alt="{escape(caption)}"></a>'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
            for caption, path in pictures.items()
        )
        return self._add(f'<div class="grid">{figures}</div>')

    def write(self, path: str | Path) -> None:
        """Writes the page, UTF-8."""
        document = (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self._title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
            + "\n".join(self._parts)
            + "\n</main>\n</body>\n</html>\n"
        )
        Path(path).write_text(document, encoding="utf-8")

    def _add(self, part: str) -> Page:
        self._parts.append(part)
        return self


def _card(sample: Sample) -> str:
    parts = [f"<h3>{escape(sample.title)}</h3>"]
    if sample.mp4:
        parts.append(f'<video controls preload="metadata" src="{_url(sample.mp4)}"></video>')
    if sample.wav:
        parts.append(f'<audio controls preload="none" src="{_url(sample.wav)}"></audio>')
    if sample.sheet_png:
        url, alt = _url(sample.sheet_png), escape(f"poses, beats and mel of {sample.title}")
        parts.append(f'<a href="{url}"><img loading="lazy" src="{url}" alt="{alt}"></a>')
    if sample.note:
        parts.append(f'<p class="soft">{escape(sample.note)}</p>')
    if sample.recipe_json:
        parts.append(f'<p class="links"><a href="{_url(sample.recipe_json)}">how to make it again</a></p>')
    return f'<div class="card">{"".join(parts)}</div>'


def _url(path: str) -> str:
    return escape(quote(path), quote=True)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
