"""What a source holds and what it would become, told from names and headers alone: nothing is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from momu_dist.data.manifest import SPLITS
from momu_dist.data.prepare import PrepareOptions, clips_of_splits
from momu_dist.data.record import ClipRef
from momu_dist.data.shards import expected_bytes
from momu_dist.data.sources import Missing, Source, missing_of


@dataclass(frozen=True)
class SplitPlan:
    """A split before preparation: hours counts the clips of known length, `unknown` those of which it is not known."""

    clips: int
    groups: int
    unknown: int
    hours: float
    gigabytes: float

    @classmethod
    def of(cls, refs: list[ClipRef]) -> SplitPlan:
        """The counts of some refs; gigabytes are those of the shards, a clip of unknown length counted as 25 s."""
        lengths_s = [ref.end_s - ref.start_s for ref in refs if ref.end_s is not None]
        return cls(
            clips=len(refs),
            groups=len({ref.group_id for ref in refs}),
            unknown=len(refs) - len(lengths_s),
            hours=sum(lengths_s) / 3600,
            gigabytes=sum(map(expected_bytes, refs)) / 1e9,
        )


@dataclass(frozen=True)
class Survey:
    """What `survey` found: a plan for each split, and what is missing."""

    source: str
    splits: dict[str, SplitPlan]
    total: SplitPlan
    missing: list[Missing]


def survey(source: Source, options: PrepareOptions) -> Survey:
    """What `prepare` would make of `source` with these options if every clip that is listed can be used.

    Raises DataError for a wrong tree, as `prepare` does: what was found, what to download, where to put it.
    """
    refs = clips_of_splits(source, options)
    everything = [ref for split in SPLITS for ref in refs[split]]
    plans = {split: SplitPlan.of(refs[split]) for split in SPLITS}
    return Survey(source.name, plans, SplitPlan.of(everything), missing_of(source))


def describe(found: Survey) -> str:
    """A table of the splits and a list of what is missing, for a terminal."""
    lines = [f"source {found.source}", "", f"{'split':<8}{'clips':>8}{'groups':>8}{'hours':>9}{'GB':>9}"]
    for name, plan in [*found.splits.items(), ("all", found.total)]:
        lines.append(f"{name:<8}{plan.clips:>8}{plan.groups:>8}{plan.hours:>9.3f}{plan.gigabytes:>9.3f}")
    lines += ["", "GB: prepared, with the sound as FLAC, an estimate."]
    if found.total.unknown:
        lines.append(
            f"{found.total.unknown} of the clips tell no length before they are decoded; they are not in the hours."
        )
    lines += ["", "missing or not usable:" if found.missing else "nothing is missing"]
    return "\n".join([*lines, *(f"  {what}: {why}" for what, why in found.missing)])
