"""What preparation tells at its end."""

from __future__ import annotations

import re
from collections import Counter

from momu_dist.data.manifest import NOTES, REJECTED, Manifest

MAX_NOTES_SAID = 5


def report(manifest: Manifest) -> str:
    """Some sentences for the user: clips and hours of each split, rejected clips, whether motion is missing, notes."""
    parts = [
        f"{split} {size['clips']} clips, {size['hours']:.2f} h"
        for split, size in manifest.content["splits"].items()
    ]
    rejected = manifest.content["rejected"]
    tail = (
        f"; {rejected} clips rejected, listed in {manifest.root / REJECTED}"
        if rejected
        else "; no clip rejected"
    )
    motion = "" if manifest.holds_motion else "; music only, without motion"
    notes = _rarest_first(manifest.notes())
    noted = [f"{line['clip_id']}: {line['note']}" for line in notes[:MAX_NOTES_SAID]]
    if len(notes) > MAX_NOTES_SAID:
        noted.append(f"{len(notes) - MAX_NOTES_SAID} more notes are in {manifest.root / NOTES}")
    said = f"{manifest.root}: {'; '.join(parts)}{tail}{motion}."
    return "\n".join([said, *(f"note: {note}." for note in noted)])


def _rarest_first(notes: list[dict[str, str]]) -> list[dict[str, str]]:
    """Notes of the kinds that fewest clips have first, so that what every clip has does not hide what one has."""
    kinds = [re.sub(r"[\d.]", "", line["note"]).split()[0] for line in notes]
    count = Counter(kinds)
    return [line for _, line in sorted(zip(kinds, notes, strict=True), key=lambda pair: count[pair[0]])]
