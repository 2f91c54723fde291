"""A plain tree, as YAML or JSON gives it, as the dataclass that describes it; strict, and every mistake names its place.

A message names a key, lists the valid ones and shows the value, but where a password may stand: in a field marked Secret, and,
by a slip of the pen, in a key or a section beside one, like that of `env: {TOKEN=abc}`.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from momu_dist.core.ranges import RangeError, is_secret
from momu_dist.errors import ConfigError, kind_of

# Making one takes longer than all else here, and a sweep checks its config often.
_adapter = cache(TypeAdapter)

# In place of pydantic's words, which are those of a programmer.
_EXPECTED = {
    "string_type": "a text, in quotes where YAML reads something else",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    "tuple_type": "a list, such as [1, 2]",
    "too_long": "a list of at most {max_length}",
}


def checked(kind: type, tree: Any, where: str, section: str) -> Any:
    """Return the dataclass `kind` that a plain tree describes; every mistake is a ConfigError that names the place."""
    _check_keys(kind, tree, where, section)
    try:
        return _adapter(kind).validate_python(tree)
    except ValidationError as error:
        fault = _fault(kind, error.errors()[0], section)
        # Not from the error, which shows the value: a traceback, such as Ray's, would have it.
        raise ConfigError(f"{where}: {fault}.") from None
    except ConfigError as error:  # of what one dataclass knows of its fields together
        raise ConfigError(f"{where}: {error}") from error


def sections(kind: type) -> list[str]:
    """Return the fields of a dataclass that are sections; what is Any, such as a run's model, is checked by its caller."""
    hints = typing.get_type_hints(kind)
    return [
        key
        for key, hint in hints.items()
        if hint is Any or typing.get_origin(hint) is dict or dataclasses.is_dataclass(hint)
    ]


def is_word(key: object) -> bool:
    """Whether a key is one that a person would write."""
    return isinstance(key, str) and re.fullmatch(r"[\w.-]{1,60}", key) is not None


def shown(key: object, known: Collection[str]) -> str:
    """Return a mistyped key, to which a password may stick, for a message: whole if it is a word, else the word it begins with
    if that is of one of the known keys, as in `tracking.uri http://...`; else only what kind of value it is.
    """
    if is_word(key):
        return str(key)
    start = re.split(r"[^\w.-]", str(key))[0]
    return f"{start}..." if start.split(".")[0] in known else kind_of(key)


def _check_keys(hint: Any, tree: Any, where: str, section: str) -> None:
    """Refuse what is no mapping, and unknown keys, here and in the sections below."""
    strict = dataclasses.is_dataclass(hint)
    fields = typing.get_type_hints(hint, include_extras=True) if strict else {}
    valid = f"; valid here: {', '.join(fields)}" if strict else ""
    if not isinstance(tree, Mapping):
        found = kind_of(tree) if tree is None or _holds_secret(hint) else repr(tree)
        raise ConfigError(f"{where}: {section or 'all of it'} is {found}, expected a mapping{valid}.")
    secret = is_secret(hint) or any(map(is_secret, fields.values()))
    for key, value in tree.items():
        # The rest of a value with a comma in it is a key without a value: `env: {TOKEN: pass,word}`.
        if secret and (not is_word(key) or (value is None and key not in fields)):
            raise ConfigError(
                f"{where}: a key{f' of {section}' if section else ''} is {kind_of(key)}"
                f"{' without a value' if value is None else ''}, expected `name: value`, with a blank before the value and "
                f'quotes around what YAML reads otherwise: on, 1, a comma, or "" for an empty text{valid}.'
            )
        place = f"{section}.{key}" if section else key
        if strict and key not in fields:
            name = shown(place, fields) if is_word(place) or _holds_secret(hint) else repr(place)
            near = get_close_matches(str(key), fields, n=1)
            nearest = f"; the nearest is {near[0]}" if near and is_word(key) else ""
            raise ConfigError(f"{where}: unknown key {name}{valid}{nearest}.")
        if strict and key in sections(hint) and fields[key] is not Any:
            _check_keys(fields[key], value, where, place)


def _holds_secret(hint: Any) -> bool:
    """Whether a type is marked Secret, or a field of it is, or one of a section below."""
    below = typing.get_type_hints(hint, include_extras=True) if dataclasses.is_dataclass(hint) else {}
    return is_secret(hint) or any(map(_holds_secret, below.values()))


def _fault(kind: type, fault: Any, section: str) -> str:
    """Say what one of pydantic's errors says, with its place."""
    place = ".".join(str(part) for part in (section, *fault["loc"]) if part not in ("", "[key]"))
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, RangeError):
        return f"{place + '.' if place else ''}{cause}"
    if fault["type"] == "missing":
        return f"{place} is missing"
    value = fault["input"]
    found = kind_of(value) if value is None or _holds_secret(_type_at(kind, fault["loc"])) else repr(value)
    if fault["type"] in _EXPECTED:
        return f"{place} is {found}, expected {_EXPECTED[fault['type']].format(**fault.get('ctx', {}))}"
    said = fault["msg"].removeprefix("Input should be ")
    return f"{place} is {found}{': ' if said == fault['msg'] else ', expected '}{said}"


def _type_at(kind: Any, place: tuple[int | str, ...]) -> Any:
    """Return the type of the field at a place in a dataclass, also of a place in what a field holds."""
    for part in place:
        if dataclasses.is_dataclass(kind):
            kind = typing.get_type_hints(kind, include_extras=True)[str(part)]
    return kind
