"""A plain tree, as YAML or JSON gives it, as the dataclass that describes it; strict, and every mistake names its place.

A message shows a value, so that it is found again, but for those where a slip of the pen may have put a password: what is
marked Secret, what stands in place of a section, and a key that may be a value, like that of `env: {TOKEN=abc}`.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from momu_dist.core.ranges import RangeError, is_secret
from momu_dist.errors import ConfigError, kind_of

# Making one takes longer than all else here, and a sweep checks its config often.
_adapter = cache(TypeAdapter)

_TRUTH = "true or false"
# In place of pydantic's words, which are those of a programmer.
_EXPECTED = {
    "string_type": "a text, in quotes where YAML reads something else",
    "bool_type": _TRUTH,
    "bool_parsing": _TRUTH,
}


def checked(kind: type, tree: Any, where: str, section: str) -> Any:
    """Return the dataclass `kind` that a plain tree describes; None, an empty section in YAML, is all defaults.

    Every mistake is a ConfigError that names the place.
    """
    known = _known(kind, tree, where, section)
    try:
        return _adapter(kind).validate_python(known)
    except ValidationError as error:
        fault = _fault(kind, error.errors()[0], section)
        # Not from the error, which shows the value: a traceback, such as Ray's, would have it.
        raise ConfigError(f"{where}: {fault}.") from None
    except ConfigError as error:  # of what one dataclass knows of its fields together
        raise ConfigError(f"{where}: {error}") from error


def is_word(key: object) -> bool:
    """Whether a key may be shown: it is one that a person would write."""
    return isinstance(key, str) and re.fullmatch(r"[\w-]{1,60}", key) is not None


def _known(kind: Any, tree: Any, where: str, section: str, secret: bool = False) -> dict[str, Any]:
    """Return the tree without its empty sections, once each key is one of the dataclass, or a word where any is taken."""
    if tree is None:
        return {}
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{where}: {section or 'all of it'} is {kind_of(tree)}, expected a mapping.")
    strict = dataclasses.is_dataclass(kind)
    hints = typing.get_type_hints(kind) if strict else {}
    marked = typing.get_type_hints(kind, include_extras=True) if strict else {}
    known = {}
    for number, (key, value) in enumerate(tree.items(), 1):
        unknown = strict and key not in hints
        # The rest of a value with a comma in it is a key without a value: `env: {TOKEN: pass,word}`.
        if not is_word(key) or (value is None and (unknown or secret)):
            place = f" of {section}" if section else ""
            raise ConfigError(
                f"{where}: key {number}{place} is {kind_of(key)}{' without a value' if value is None else ''}, expected "
                "`name: value`, with a blank before the value and quotes around what YAML reads otherwise: on, 1, a comma."
            )
        place = f"{section}.{key}" if section else key
        if unknown:
            raise ConfigError(f"{where}: unknown key {place}; valid here: {', '.join(hints)}.")
        hint = hints.get(key)
        is_section = dataclasses.is_dataclass(hint) or typing.get_origin(hint) is dict
        known[key] = _known(hint, value, where, place, is_secret(marked[key])) if is_section else value
    return known


def _fault(kind: type, fault: Any, section: str) -> str:
    """Say what one of pydantic's errors says, with its place."""
    place = ".".join(str(part) for part in (section, *fault["loc"]) if part != "")
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, RangeError):
        return f"{place + '.' if place else ''}{cause}"
    if fault["type"] == "missing":
        return f"{place} is missing"
    value = fault["input"]
    shown = kind_of(value) if value is None or _holds_secret(kind, fault["loc"]) else repr(value)
    said = fault["msg"].removeprefix("Input should be ")
    if said == fault["msg"]:
        return f"{place} is {shown}: {said.lower()}"
    return f"{place} is {shown}, expected {_EXPECTED.get(fault['type'], said)}"


def _holds_secret(kind: Any, place: tuple[int | str, ...]) -> bool:
    """Whether what stands at a place in the dataclass is marked Secret, or a part of what is."""
    for part in place:
        if not dataclasses.is_dataclass(kind):
            return False
        kind = typing.get_type_hints(kind, include_extras=True)[str(part)]
        if is_secret(kind):
            return True
    return False
