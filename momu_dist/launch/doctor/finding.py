"""What `momu doctor` finds, and how the findings of many machines become a short table."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["fine", "warning", "wrong"]
LEVELS: tuple[Level, ...] = ("fine", "warning", "wrong")

_COLOURS = {"fine": "\033[32m", "warning": "\033[33m", "wrong": "\033[31m"}
_PLAIN = "\033[0m"
_AMOUNT = re.compile(r"\d+(?:\.\d+)?(?= (?:GB|s|files)\b)")


@dataclass(frozen=True)
class Finding:
    """What one check says of one machine; `advice` is what to do, and empty where all is fine."""

    check: str
    level: Level
    what: str
    advice: str = ""


def fold(found: Mapping[str, Sequence[Finding]]) -> list[tuple[Finding, list[str]]]:
    """Return each finding once with the machines that have it, in the order of the checks.

    Findings that differ in amounts only ("3 GB free" and "5 GB free") are one with their range: "3 to 5 GB free".
    """
    alike: dict[tuple[str, str, str, str], list[tuple[Finding, str]]] = {}
    for node, findings in found.items():
        for finding in findings:
            texts = (_AMOUNT.sub("#", finding.what), _AMOUNT.sub("#", finding.advice))
            key = (finding.check, finding.level, *texts)
            alike.setdefault(key, []).append((finding, node))
    # A check that one machine alone has failed, or a later machine knows first, still stands where its kind stands.
    order = {check: place for place, check in enumerate(dict.fromkeys(key[0] for key in alike))}
    groups = sorted(alike.items(), key=lambda item: (order[item[0][0]], -LEVELS.index(item[1][0][0].level)))
    folded = []
    for _, group in groups:
        first = group[0][0]
        what, advice = (
            _ranged([getattr(finding, field) for finding, _ in group]) for field in ("what", "advice")
        )
        folded.append((Finding(first.check, first.level, what, advice), [node for _, node in group]))
    return folded


def _ranged(texts: Sequence[str]) -> str:
    """Return texts that are alike but for their amounts as one, with the range of each amount."""
    columns = zip(*(_AMOUNT.findall(text) for text in texts), strict=True)
    ranges = []
    for column in columns:
        low, high = min(column, key=float), max(column, key=float)
        ranges.append(low if low == high else f"{low} to {high}")
    amounts = iter(ranges)
    return _AMOUNT.sub(lambda _: next(amounts), texts[0])


def node_names(nodes: Iterable[str]) -> str:
    """Return machines as SLURM writes them: node[1-3,7],login."""
    stems: dict[str, list[str]] = {}
    for node in dict.fromkeys(nodes):
        match = re.fullmatch(r"(.*?)(\d+)", node)
        stem, number = match.groups() if match else (node, "")
        stems.setdefault(stem, []).append(number)
    return ",".join(
        stem + (numbers[0] if len(numbers) == 1 else f"[{_ranges(numbers)}]")
        for stem, numbers in stems.items()
    )


def _ranges(numbers: list[str]) -> str:
    runs: list[list[str]] = []
    for number in sorted(numbers, key=lambda text: (int(text), text)):
        last = runs[-1][-1] if runs else None
        # node09 is followed by node10, node9 is not the same machine.
        if last is not None and number == str(int(last) + 1).zfill(len(last)):
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def table(found: Mapping[str, Sequence[Finding]], width: int | None = None, colour: bool = False) -> str:
    """Return the findings of all machines as aligned lines: level, check, machines if there are several, text.

    With `width` long texts go on in the next line below their column.
    """
    rows = []
    for finding, nodes in fold(found):
        who = [f"all {len(found)} nodes" if len(nodes) == len(found) else node_names(nodes)]
        text = f"{finding.what}; {finding.advice}" if finding.advice else finding.what
        rows.append([finding.level, finding.check, *(who if len(found) > 1 else []), text])
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    indent = sum(widths) + 2 * len(widths)
    lines = []
    for row in rows:
        head = "  ".join(cell.ljust(size) for cell, size in zip(row[:-1], widths, strict=True)) + "  "
        if colour:
            head = head.replace(row[0], f"{_COLOURS[row[0]]}{row[0]}{_PLAIN}", 1)
        text = row[-1]
        if width is not None and width - indent >= 30:
            text = f"\n{' ' * indent}".join(
                textwrap.wrap(text, width - indent, break_long_words=False, break_on_hyphens=False)
            )
        lines.append(head + text)
    return "\n".join(lines)
