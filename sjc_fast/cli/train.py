"""`sjc-fast train`: a prompt becomes a 3D object."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from ..config import TrainConfig
from ..run import Interrupted, check_early, default_config, resumed_config, run
from ..scores.load import EMBEDDED, STABLE_DIFFUSION
from . import parse
from .reporting import ProgressReporter


def main(arguments: list[str]) -> None:
    """Read the options over the defaults that suit the model (or the resumed run's), train, and say what came out."""
    config = read_config(arguments)
    check_early(config)
    started = time.monotonic()
    try:
        result = run(config, ProgressReporter())
    except Interrupted:
        folder = config.resume or config.output
        print(f"stopped; continue with: sjc-fast train --resume {folder or 'RUN'}", file=sys.stderr)
        sys.exit(130)
    print(f"done in {time.monotonic() - started:.0f} s: {result.folder}")
    for path in sorted(result.folder.iterdir()):
        if path.suffix in (".mp4", ".ply", ".png") or path.name == "field.safetensors":
            print(f"  {path}")


def read_config(arguments: list[str]) -> TrainConfig:
    """The configuration that a command line asks for."""
    resume = _option(arguments, "resume")
    if resume is not None:
        saved = resumed_config(Path(resume))
        return resumed_config(Path(resume), parse(TrainConfig, arguments, "train", saved))
    model = _option(arguments, "model") or (STABLE_DIFFUSION if torch.cuda.is_available() else EMBEDDED)
    return parse(TrainConfig, arguments, "train", replace(default_config(model), model=model))


def _option(arguments: list[str], name: str) -> str | None:
    """The value of --name VALUE or --name=VALUE, before the full parse: it decides the defaults of the others."""
    for i, argument in enumerate(arguments):
        if argument == f"--{name}" and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(f"--{name}="):
            return argument.split("=", 1)[1]
    return None
