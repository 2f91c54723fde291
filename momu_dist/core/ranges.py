"""What a setting may be, said where the setting is declared: `depth: Annotated[int, Range(1)] = 4`."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from momu_dist.errors import ConfigError, kind_of


class RangeError(ConfigError, ValueError):
    """One setting outside its range. It is a ValueError too, so that a loader can say in which section it stands."""


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; `above` and `below` leave the end itself out."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        if self.high == math.inf:
            return low
        return f"{low} and {'below' if self.below else 'at most'} {self.high:g}"


@dataclass(frozen=True)
class Name:
    """A name of a folder or of a registered model, and nothing that a path or a URI would take apart."""

    def __contains__(self, value: str) -> bool:
        return re.fullmatch(r"\w[\w.-]{0,99}", value) is not None

    def __str__(self) -> str:
        return "up to 100 letters, digits, '_', '-' and '.' that begin with a letter, a digit or '_'"


@dataclass(frozen=True)
class Secret:
    """A setting that may hold a password, like a URI: messages say what kind of value it has, and never the value."""


Count = Annotated[int, Range(1, 1_000_000)]
Weight = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Decay = Annotated[float, Range(0, 1, below=True)]


class Checked:
    """A dataclass whose fields are refused (RangeError) outside their ranges when it is made.

    Two rules hold for every field whatever it is: a number is finite, a text has no control characters. Each item of a
    tuple is held to the range; None, where a field may be None, is not.
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self), include_extras=True)
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # a mixin of dataclasses only
            ranges = list(_ranges(hints[field.name]))
            for value in _values(getattr(self, field.name)):
                expected = _expected(value, ranges)
                if expected is not None:
                    shown = kind_of(value) if is_secret(hints[field.name]) else repr(value)
                    raise RangeError(f"{field.name} is {shown}, expected {expected}")


def is_secret(hint: Any) -> bool:
    """Whether the type of a field is marked as Secret."""
    return any(isinstance(entry, Secret) for entry in getattr(hint, "__metadata__", ()))


def _values(value: Any) -> Iterator[float | str]:
    if isinstance(value, tuple):
        for item in value:
            yield from _values(item)
    elif isinstance(value, int | float | str):
        yield value


def _expected(value: float | str, ranges: list[Range | Name]) -> str | None:
    """Return what is expected in place of `value`, or None if it is right."""
    if isinstance(value, float) and not math.isfinite(value):
        return ", ".join(["a finite number", *map(str, ranges)])
    if isinstance(value, str) and not value.isprintable():
        return "a text without control characters"
    return next((str(allowed) for allowed in ranges if value not in allowed), None)  # type: ignore[operator]


def _ranges(hint: Any) -> Iterator[Range | Name]:
    for entry in getattr(hint, "__metadata__", ()):
        if isinstance(entry, Range | Name):
            yield entry
    for part in typing.get_args(hint):
        yield from _ranges(part)
