"""`sjc-fast train`: a prompt becomes a 3D object."""

from __future__ import annotations

import os
import shlex
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ..runs.attend import Interrupted
from ..runs.console import ProgressReporter, say
from ..runs.folder import RunFolder
from ..runs.recipes import find_recipe
from ..runs.reporter import CompositeReporter, Reporter
from ..runs.run import check_early, run
from ..runs.settings import default_config, default_model, resumed_config
from ..runs.trackers import TensorBoardReporter, WandbReporter
from ..training.config import TrainConfig, merge
from . import option_value, parse
from .launch import launch, parse_devices


@dataclass
class TrainOptions(TrainConfig):
    """Everything that decides a run, and who may watch it."""

    recipe: str | None = None
    """Start from the authors' settings for one of their prompts; sjc-fast recipes lists them."""
    viewer: bool = False
    """Show the object in the browser while it trains."""
    viewer_port: int = 8080
    viewer_host: str = "127.0.0.1"
    """Where the viewer listens; 0.0.0.0 lets other machines in."""
    wandb: str | None = None
    """Also log to this project of Weights & Biases, an optional package."""
    devices: str | None = None
    """Share the views and noise samples of each step out to these CUDA devices, e.g. 0,1: a process each."""


def main(arguments: list[str]) -> None:
    """Read the options over the defaults that suit the model (or the resumed run's), train, and say what came out."""
    options = read_options(arguments)
    if options.devices is not None:
        devices = parse_devices(options.devices)
        check_early(config_of(options))
        sys.exit(launch(devices, without_option(arguments, "devices")))
    started = time.monotonic()
    try:
        result = run(config_of(options), reporters(options))
    except Interrupted as stop:
        if leads():
            print(f"stopped; continue with: sjc-fast train --resume {shlex.quote(str(stop.folder))}", file=sys.stderr)
        sys.exit(130)
    if not leads():
        return
    say(f"done in {time.monotonic() - started:.0f} s: {result.folder}")
    for path in RunFolder(result.folder).results():
        say(f"  {path}")


def leads() -> bool:
    """Whether this process is the only one, or the one that talks."""
    return os.environ.get("RANK", "0") == "0"


def without_option(arguments: list[str], name: str) -> list[str]:
    """The arguments without --name VALUE and --name=VALUE."""
    rest = list(arguments)
    while f"--{name}" in rest:
        at = rest.index(f"--{name}")
        del rest[at : at + 2]
    return [argument for argument in rest if not argument.startswith(f"--{name}=")]


def reporters(options: TrainOptions) -> CompositeReporter:
    """Who hears of the run.

    Raises:
        UserError: somebody who was asked for cannot be had.
    """
    if not leads():
        return CompositeReporter([])
    found: list[Reporter] = [ProgressReporter(), TensorBoardReporter()]
    if options.viewer:
        from ..viewer import ViewerReporter

        found.append(ViewerReporter(options.viewer_host, options.viewer_port, say))
    if options.wandb:
        found.append(WandbReporter(options.wandb))
    return CompositeReporter(found)


def config_of(options: TrainConfig) -> TrainConfig:
    """What decides the run."""
    return TrainConfig(**{f.name: getattr(options, f.name) for f in fields(TrainConfig)})


def read_options(arguments: list[str]) -> TrainOptions:
    """What a command line asks for."""
    resume = option_value(arguments, "resume")
    if resume is not None:
        saved = TrainOptions(**vars(resumed_config(Path(resume))))
        options = parse(TrainOptions, arguments, "train", saved)
        return replace(options, **vars(resumed_config(Path(resume), config_of(options))))
    model = option_value(arguments, "model")
    if model is None:
        model = default_model(option_value(arguments, "device") or "auto")
    recipe = option_value(arguments, "recipe")
    if recipe is None:
        own = default_config(model, option_value(arguments, "preset") or "model")
    else:
        own = merge(default_config(model, "paper"), find_recipe(recipe).changes(), f"--recipe {recipe}")
    return replace(parse(TrainOptions, arguments, "train", TrainOptions(**vars(own))), model=own.model)
