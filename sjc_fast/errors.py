"""The one exception that people meet: a wrong input, in one line that names the settings as its reader knows them."""

from __future__ import annotations

_as_options = False


class UserError(Exception):
    """What is wrong, where, and what to do about it, in one line. The command line prints it and exits with code 2."""


class LostProcessError(UserError):
    """Another process of the same run has ended."""


class MissingTool(UserError):  # noqa: N818 (the name says it)
    """A program that is needed for this is not on the machine."""


def name_settings_as_options(yes: bool = True) -> None:
    """Let messages name settings as command-line options from now on: --noise-samples instead of noise_samples."""
    global _as_options
    _as_options = yes


def setting(name: str) -> str:
    """What a message calls the setting of a dotted name, such as "score.sigma.low"."""
    return f"--{name.replace('_', '-')}" if _as_options else name
