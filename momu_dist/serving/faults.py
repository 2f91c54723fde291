"""What pydantic finds wrong, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_MOST = 5


def faults(errors: Sequence[Any]) -> str:
    """The first of `ValidationError.errors()`, each as the place and what is wrong there, without the value given."""
    found = []
    for error in errors[:_MOST]:
        where = error["loc"][1:] if error["loc"][:1] in (("query",), ("path",), ("body",)) else error["loc"]
        place = ".".join(map(str, where))
        found.append(f"{place}: {error['msg']}" if place else error["msg"])
    more = f" and {len(errors) - _MOST} more" if len(errors) > _MOST else ""
    return f"{'; '.join(found)}{more}"
