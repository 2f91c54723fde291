"""A password that a config or a site holds is in no message, whatever signs it has and wherever a slip of the pen puts it."""

from __future__ import annotations

import io
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from momu_dist.cli import main
from momu_dist.config.load import load_config, resolved_dict
from momu_dist.errors import MomuError, told, without_login
from momu_dist.launch.sites import load_site
from momu_dist.tracking import check_uri, is_uri
from momu_dist.tracking.registry import store_uri

PIECE = "hush"  # no piece of a password may be seen
SIGNS = "#/?@:%&=+ \t\n\0\x07'\"\\`$*!|>[]{},;-~^()é\u2028\U0001f600"
few = settings(derandomize=True, deadline=None, max_examples=6)  # each is tried in many places

secrets = st.lists(st.sampled_from(SIGNS), min_size=0, max_size=5).map(
    lambda signs: PIECE + "".join(f"{sign}{PIECE}" for sign in signs)
)
uris = st.builds(
    str.format,
    st.sampled_from(
        [
            *(
                "http://me:{}@h:5000/x",
                "https://{}@h",
                "postgresql+psycopg2://me:{}@db/x",
                "postgresql:me:{}@h",
            ),
            *(
                "mysql://db/x?password={}&ssl=1",
                "http://h/?token={}",
                "http://h#{}",
                "http://me:{}@h/a@b?c=d@e",
            ),
            *("http:/me:{}@h", "me:{}@h", "ftp://me:{}@h"),
        ]
    ),
    secrets,
)
TYPED = [
    "{}",
    "'{}'",
    '"{}"',
    "[{}]",
    "- {}",
    "{{{}}}",
    "{{a: {}}}",
    "*{}",
    "&{}",
    "!{}",
    "@{}",
    "|\n  {}",
    "[{}",
    "'{}",
]
"""What may be typed for a value, wrong types and broken YAML among it."""


def silent(work: Callable[[], object]) -> None:
    """Do the work, which may fail: neither the sentence nor a traceback of it, such as Ray's, has a piece."""
    try:
        work()
    except MomuError as error:
        assert PIECE not in str(error) and PIECE not in "".join(traceback.format_exception(error))


def run_of(folder: Path, text: str, overrides: Sequence[str] = ()) -> None:
    path = folder / "run.yaml"
    path.write_text(text)
    silent(lambda: check_uri(load_config(path, overrides).tracking.uri))


@pytest.mark.parametrize("typed", TYPED)
@given(uri=uris)
@few
def test_that_of_a_config(tmp_path_factory: pytest.TempPathFactory, typed: str, uri: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    value = typed.format(uri)
    for tracking in (f"tracking:\n  uri: {value}\n", f"tracking: {{uri: {value}}}\n", f"tracking: {value}\n"):
        run_of(folder, f"stage: dit_a2m\nname: run\n{tracking}")
    # A key that is missing beside it; an empty place; a colon without a blank.
    run_of(folder, f"stage: dit_a2m\ntracking:\n  uri: {value}\n")
    run_of(folder, f"stage: dit_a2m\nname: run\ntracking: {{uri:{value}}}\n")
    run_of(folder, f"stage: dit_a2m\nname: run\ntracking.uri={value}\n")


@given(uri=uris)
@few
def test_that_of_a_command_line(tmp_path_factory: pytest.TempPathFactory, uri: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    for override in (
        *(f"tracking.uri={typed.format(uri)}" for typed in TYPED),
        *(f"tracking={uri}", f"tracking={{uri:{uri}}}", f"tracking={{uri: {uri}}}", f"trackin.uri={uri}"),
        *(
            f"tracking.uri:{uri}",
            f"tracking.uri {uri}",
            uri,
            f"{uri}=1",
            f"base={uri}",
            f"tracking.uri.x={uri}",
        ),
    ):
        run_of(folder, "stage: dit_a2m\nname: run\ntracking: {uri: auto}\n", ["seed=1", override])


@pytest.mark.parametrize("typed", TYPED)
@given(secret=secrets, uri=uris)
@few
def test_those_of_a_site(tmp_path_factory: pytest.TempPathFactory, typed: str, secret: str, uri: str) -> None:
    path = tmp_path_factory.getbasetemp() / "site.yaml"
    value, uri = typed.format(secret), typed.format(uri)
    for text in (
        *(f"env:\n  TOKEN: {value}\n", f"env: {{TOKEN: {value}}}\n", f"env: {{TOKEN={value}}}\n"),
        *(f"env: {{TOKEN:{value}}}\n", f"env:\n  - TOKEN={value}\n", f"env:\n  - TOKEN: {value}\n"),
        *(
            f"env: TOKEN={value}\n",
            f"env:\n  TOKEN:\n    - {value}\n",
            f"TOKEN: {value}\n",
            f"TOKEN={value}\n",
        ),
        *(f"tracking_uri: {uri}\n", f"tracking_uri:{uri}\n", f"{{tracking_uri:{uri}}}\n", f"env: {uri}\n"),
        *(f"env:\n  TOKEN: {value}\n bad: [\n", f"tracking_uri: {uri}\nscratch: 3\n"),
    ):
        path.write_text(text)
        silent(lambda: load_site(str(path)))


@given(secret=secrets, uri=uris)
@settings(few, max_examples=30)
def test_those_of_a_site_at_the_command_line(
    tmp_path_factory: pytest.TempPathFactory, secret: str, uri: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "site.yaml"
    for text in (f'env: {{TOKEN: "{secret}"}}\n', f"env: {{TOKEN: {secret}}}\n", f"tracking_uri: {uri}\n"):
        path.write_text(text)
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            main(["cluster-env", str(path)])
        assert said.getvalue() and PIECE not in said.getvalue()


@given(uri=uris.filter(lambda uri: "://" in uri))
@example("http://me:hush#hush@h")
@example("http://me:hush/hush@h")
@example("http://me:hush?hush@h")
@example("http://me:hush hush@h")
@example("http://me:hush@hush@h?token=hush hush@hush")
@settings(few, max_examples=300)
def test_a_uri_among_other_words(uri: str) -> None:
    for text in (uri, f"tracking.uri={uri}", f"train --out sqlite:///x tracking.uri={uri} models:/dit@best"):
        assert PIECE not in without_login(text)


@given(uri=uris)
@settings(few, max_examples=300)
def test_a_uri_that_is_taken_is_hidden_in_what_libraries_say(uri: str) -> None:
    silent(lambda: store_uri(uri))
    if is_uri(uri):
        query = uri.partition("?")[2]
        assert PIECE not in without_login(uri)
        assert PIECE not in told(f"API request to {uri}/api failed (no host): url: /?{query}/api, says me@x")


def test_a_run_that_is_written_down_hides_it(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("stage: dit_a2m\nname: run\ntracking: {uri: 'postgresql://me:hush@db/x?key=hush'}\n")
    assert resolved_dict(load_config(path))["tracking"]["uri"] == "postgresql://***@db/x?***"
