"""Sources: one dataset a file. A source lists its clips cheaply and loads one clip at a time.

To add one, write a class that follows `Source` and give it a line in `CATALOG`; it is imported only when
asked for.
"""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from momu_dist.data.record import ClipRef, Record
from momu_dist.errors import DataError

CATALOG: dict[str, str] = {
    "synthetic": "momu_dist.data.sources.synthetic.source:Synthetic",
    "music": "momu_dist.data.sources.music:Music",
    "dance_with_melody": "momu_dist.data.sources.dance_with_melody:DanceWithMelody",
    "openpose_audio": "momu_dist.data.sources.openpose_audio:OpenPoseAudio",
}


class Missing(NamedTuple):
    """One thing that a tree lacks, or that cannot be used: its name, and the reason or what to do."""

    what: str
    why: str


class Source(Protocol):
    """What preparation asks of a dataset; constructed as `cls(root, **options)`, pickled to the workers.

    A source may also have `missing() -> list[Missing]`; see `missing_of`.
    """

    name: str
    options: dict[str, Any]
    """What the records depend on besides the tree, as JSON types; goes into the manifest."""

    def refs(self) -> list[ClipRef]:
        """All clips of the tree, in an order of their own; cheap (decodes no audio).

        Raises DataError for a wrong tree: what was found, what to download, where to put it.
        """
        ...

    def load(self, ref: ClipRef) -> Record:
        """The part of a clip from ref.start_s to ref.end_s, times counted from there.

        Raises ClipError with the reason when this clip cannot be used.
        """
        ...


def missing_of(source: Source) -> list[Missing]:
    """What the source's tree lacks, as its own `missing()` lists it without decoding anything; a source without one says nothing.

    Raises DataError for a wrong tree, as `refs` does.
    """
    listing = getattr(source, "missing", None)
    return [] if listing is None else list(listing())


def make_source(name: str, root: Path | None = None, /, **options: Any) -> Source:
    """The source of that name. Raises DataError for an unknown name, an unknown option or one of a wrong type."""
    if name not in CATALOG:
        raise DataError(f"no source named {name!r}; known sources: {', '.join(sorted(CATALOG))}.")
    if "root" in options:
        raise DataError(f"source {name!r}: root is no source option; give the folder with --root.")
    module, class_name = CATALOG[name].split(":")
    cls = getattr(import_module(module), class_name)
    taken = list(signature(cls).parameters)[1:]  # without root
    unknown = [key for key in options if key not in taken]
    if unknown:
        valid = f"it takes {', '.join(taken)}" if taken else "it takes none, so leave it out"
        raise DataError(f"source {name!r} has no option {unknown[0]!r}; {valid}.")
    try:
        source: Source = cls(root, **options)
    except (TypeError, ValueError) as error:
        raise DataError(f"source {name!r} does not take these options {options}: {error}.") from error
    return source
