"""What pydantic finds wrong, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_MOST = 5
# Where pydantic's words tell of its insides.
_SAID = {
    "extra_forbidden": "it is not known here, leave it out",
    "union_tag_not_found": "{discriminator} is missing",
    "union_tag_invalid": "{discriminator} is none that is known, expected {expected_tags}",
    "model_attributes_type": "it is no object, expected names and values",
}


def faults(errors: Sequence[Any]) -> str:
    """The first of `ValidationError.errors()`, each as the place and what is wrong there, without the value given."""
    found = []
    for error in errors[:_MOST]:
        where = error["loc"][1:] if error["loc"][:1] in (("query",), ("path",), ("body",)) else error["loc"]
        place = ".".join(map(str, where))
        said = _SAID[error["type"]].format(**error.get("ctx", {})) if error["type"] in _SAID else error["msg"]
        found.append(f"{place}: {said}" if place else said)
    more = f" and {len(errors) - _MOST} more" if len(errors) > _MOST else ""
    return f"{'; '.join(found)}{more}"
