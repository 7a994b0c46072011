"""The command line, `sjc-fast`: finds the command, and turns every error into one line and exit code 2."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import signal
import sys
import warnings
from collections.abc import Mapping
from typing import TypeVar, cast

from ..errors import LostProcessError, UserError, name_settings_as_options
from ..runs.console import silence

#: Commands and what they do; each is a module of this package with a `main(arguments)`.
COMMANDS = {
    "train": "make a 3D object from a prompt",
    "batch": "make many objects, several at a time",
    "farm": "how a batch on a Ray cluster stands",
    "render": "pictures and videos of a finished or running run",
    "view": "orbit a run's object in the browser",
    "export": "a mesh of a run, with a texture",
    "gallery": "one page that shows many runs",
    "fit": "posed photographs become a field",
    "sample": "pictures from the score model alone",
    "recipes": "the authors' settings by prompt",
    "experiment": "a claim of the paper, tried on this machine",
    "evaluate": "how near the embedded model's objects come to the known truth",
    "models": "the score models that can be loaded, and the words the embedded one knows",
    "doctor": "what this machine has, what is missing, and how to get it",
}

#: Set for the processes of a run that `train --devices` starts: it says itself what happens to them.
LAUNCHED = "SJC_FAST_LAUNCHED"
#: The exit code of such a process that ends because another one did.
LOST = 3

HELP = """sjc-fast: text to 3D by Score Jacobian Chaining

usage: sjc-fast COMMAND [OPTIONS]        sjc-fast COMMAND --help

{commands}

example: sjc-fast train --prompt "a red mushroom"
"""

Options = TypeVar("Options")


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Exit codes: 0 done, 2 wrong input (one line says what), 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name_settings_as_options()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path or prompt need not fit the terminal's encoding
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # the libraries' advice to programmers; python -W brings it back
    for request in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(request, _interrupt)  # like Ctrl-C, so that nothing half written stays behind
    try:
        os.getcwd()
        _dispatch(arguments)
    except LostProcessError as error:
        if os.environ.get(LAUNCHED):  # whoever started this process says what happened
            sys.exit(LOST)
        _fail(str(error))
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("sjc-fast: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output has stopped reading, as `head` does; the job is done
        silence()
        sys.exit(0)
    except OSError as error:
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not re.search(
            "out of memory|not enough memory|can't alloc", str(error)
        ):
            raise
        _fail("out of memory: lower --noise-samples, --views, --size, --field.resolution or --steps")


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:8} {what}" for name, what in COMMANDS.items())))
        return
    if arguments[0] in ("-V", "--version"):
        from .. import __version__

        print(f"sjc-fast {__version__}")
        return
    if arguments[0] not in COMMANDS:
        raise UserError(f"unknown command {arguments[0]!r}: choose {', '.join(COMMANDS)}; see sjc-fast --help")
    importlib.import_module(f".{arguments[0]}", __name__).main(arguments[1:])


def parse(kind: type[Options], arguments: list[str], command: str, default: Options | None = None) -> Options:
    """Command-line options as a dataclass, by tyro, whose error box becomes one line.

    Raises:
        UserError: an unknown option or a value of the wrong kind.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = tyro.cli(
                kind, args=arguments, prog=f"sjc-fast {command}", description=COMMANDS[command], default=default
            )
            return cast(Options, parsed)  # None for no default would make it one that may be None
    except SystemExit as exit_:
        if exit_.code == 0:  # --help
            raise
        raise UserError(f"{_unbox(said.getvalue())}; see sjc-fast {command} --help") from None


def option_value(arguments: list[str], name: str) -> str | None:
    """The last value of --name VALUE or --name=VALUE, before the full parse: it decides the defaults of the others."""
    value = None
    for i, argument in enumerate(arguments):
        if argument == f"--{name}" and i + 1 < len(arguments):
            value = arguments[i + 1]
        elif argument.startswith(f"--{name}="):
            value = argument.split("=", 1)[1]
    return value


def check_limits(options: object, limits: Mapping[str, tuple[float, float]]) -> None:
    """Refuse numbers outside their limits; None is an option that was not given.

    Raises:
        UserError: naming the option and its limits.
    """
    for name, (low, high) in limits.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise UserError(f"--{name} {value}: it must be between {low} and {high}")


def _unbox(text: str) -> str:
    """The words inside a drawn box, up to its first rule, on one line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    words = []
    for line in text.splitlines():
        inner = line.strip("╭╮╰╯│ ")
        if inner and not set(inner) - set("─"):
            if words:
                break
        elif not line.startswith("╭"):
            words.append(inner)
    return " ".join(" ".join(words).split()) or "wrong options"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _fail(message: str) -> None:
    print(f"sjc-fast: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
