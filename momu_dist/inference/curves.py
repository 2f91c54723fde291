"""Training curves as a picture, from a run's metrics.jsonl."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure


def draw_curves(path: Path, metrics: Path, names: Sequence[str], title: str) -> None:
    """Draw the named metrics over steps; names that the run did not log are left out."""
    series: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for line in metrics.read_text().splitlines():
        entry = json.loads(line)
        for name in names:
            if name in entry:
                series[name].append((entry["step"], entry[name]))
    figure = Figure(figsize=(5.2, 3.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name in names:
        if name in series:
            steps, values = zip(*series[name], strict=True)
            axes.plot(steps, values, label=name, marker="o" if len(steps) < 12 else None, markersize=3)
    axes.set_xlabel("step")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    if series:
        axes.legend(fontsize=8)
    figure.savefig(path)
