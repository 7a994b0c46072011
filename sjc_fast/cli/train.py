"""`sjc-fast train`: a prompt becomes a 3D object."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

from ..config import TrainConfig
from ..run import FIELD, Interrupted, run
from ..settings import default_config, default_model, resumed_config
from . import parse, say
from .reporting import ProgressReporter


def main(arguments: list[str]) -> None:
    """Read the options over the defaults that suit the model (or the resumed run's), train, and say what came out."""
    config = read_config(arguments)
    started = time.monotonic()
    try:
        result = run(config, ProgressReporter())
    except Interrupted as stop:
        print(f"stopped; continue with: sjc-fast train --resume {shlex.quote(str(stop.folder))}", file=sys.stderr)
        sys.exit(130)
    say(f"done in {time.monotonic() - started:.0f} s: {result.folder}")
    for path in sorted(result.folder.iterdir()):
        if path.suffix in (".mp4", ".ply", ".png") or path.name == FIELD:
            say(f"  {path}")


def read_config(arguments: list[str]) -> TrainConfig:
    """The configuration that a command line asks for."""
    resume = _option(arguments, "resume")
    if resume is not None:
        saved = resumed_config(Path(resume))
        return resumed_config(Path(resume), parse(TrainConfig, arguments, "train", saved))
    model = _option(arguments, "model")
    if model is None:
        model = default_model(_option(arguments, "device") or "auto")
    default = default_config(model, _option(arguments, "preset") or "model")
    return replace(parse(TrainConfig, arguments, "train", default), model=default.model)


def _option(arguments: list[str], name: str) -> str | None:
    """The last value of --name VALUE or --name=VALUE, before the full parse: it decides the defaults of the others."""
    value = None
    for i, argument in enumerate(arguments):
        if argument == f"--{name}" and i + 1 < len(arguments):
            value = arguments[i + 1]
        elif argument.startswith(f"--{name}="):
            value = argument.split("=", 1)[1]
    return value
