"""A source and how it is prepared, as command lines name them: a recipe and `key=value` on top of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from momu_dist.data.prepare import PrepareOptions, Recipe
from momu_dist.data.sources import CATALOG, Source, make_source
from momu_dist.errors import DataError


def recipe_of(source: str | None, recipe: str | None) -> Recipe:
    """What `--recipe` says, or the source alone with defaults; DataError unless exactly one of them is given."""
    if (source is None) == (recipe is None):
        raise DataError(
            f"give either a source ({', '.join(sorted(CATALOG))}) or --recipe FILE, and not both."
        )
    return Recipe.load(recipe) if recipe is not None else Recipe(str(source), {}, PrepareOptions())


def with_options(recipe: Recipe, root: str | None, options: Sequence[str]) -> tuple[Source, PrepareOptions]:
    """The source of `recipe` at `root` and its prepare options; `options` are key=value or source_options.key=value.

    Raises DataError for what is not of that form, unknown, or of a wrong type.
    """
    source_options, prepare_options = dict(recipe.source_options), dict(vars(recipe.prepare))
    for text in options:
        key, equals, value = text.partition("=")
        if not equals:
            raise DataError(f"prepare: {text!r} is not of the form key=value.")
        inside = source_options if key.startswith("source_options.") else prepare_options
        inside[key.removeprefix("source_options.")] = _yaml_value(text, value)
    source = make_source(recipe.source, Path(root) if root else None, **source_options)
    return source, PrepareOptions.from_dict(prepare_options)


def _yaml_value(text: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise DataError(
            f"prepare: the value in {text!r} is no YAML; quote it, as in key='\"text\"'."
        ) from error
