"""Errors that a user can cause. Each message is one sentence: what was found, what was expected, where, what to do."""

from __future__ import annotations


class MomuError(Exception):
    """A sentence for the user; command lines print it without a traceback and exit with code 2."""


class ConfigError(MomuError):
    """A configuration that cannot be run: unknown key, wrong type, combination that is not offered."""


class DataError(MomuError):
    """An input that cannot be used as a whole: wrong tree, missing files, features made by other settings."""


class ClipError(DataError):
    """One clip that cannot be used (truncated audio, NaN joints, ...); preparation lists it and goes on."""


class CheckpointError(MomuError):
    """A checkpoint that is missing, torn, or made for something else."""


class TrainingError(MomuError):
    """A training that had to stop, such as a loss that is not finite."""
