"""Every option says what it means, and the names that a command takes are in its help."""

from __future__ import annotations

import argparse
import dataclasses

import pytest

from momu_dist.cli import _parser, main
from momu_dist.cli.submit import parser as submit_parser
from momu_dist.config.schema import RunConfig
from momu_dist.core.catalog import STAGES
from momu_dist.data.prepare import PrepareOptions
from momu_dist.data.sources import CATALOG


def parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(p for action in below for child in action.choices.values() for p in parsers(child))]


def test_every_option_has_a_help_text() -> None:
    silent = [
        f"{parser.prog} {action.dest}"
        for parser in [*parsers(_parser()), submit_parser()]
        for action in parser._actions
        if not action.help and not isinstance(action, argparse._SubParsersAction)
    ]
    assert not silent


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    try:
        assert main(arguments) == 0
    except SystemExit as stop:
        assert stop.code == 0
    return capsys.readouterr().out


def test_prepare_lists_its_options_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "prepare", "--help")
    for field in dataclasses.fields(PrepareOptions):
        assert f"\n  {field.name} " in text
    assert all(name in text for name in (*CATALOG, "n_clips", "azimuths", "fps"))


def test_train_shows_itself_and_its_keys(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "train", "--help")
    assert text.startswith("usage: momu train ") and "section.field=value" in text
    for field in dataclasses.fields(RunConfig):
        assert f"\n  {field.name}" in text or f"\n  {field.name}." in text
    assert "train.micro_batch (null)" in text and "model.hidden_size" in text


def test_submit_lists_what_can_be_submitted(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "submit", "--help")
    assert text.startswith("usage: momu submit ")
    assert all(name in text for name in (*STAGES, "chain", "evaluate", "hold"))


def test_generate_explains_each_task(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(shown(capsys, "generate", "--help").split())
    for said in (
        "a2m: motion from music",
        "m2a: music from motion",
        "joint: both from nothing",
        "joint: must be given",
    ):
        assert said in text
