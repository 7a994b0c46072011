"""`sjc-fast experiment`: a claim of the paper, tried here."""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..errors import UserError
from ..experiments import EXPERIMENTS
from ..files import prepare
from ..scores.load import EMBEDDED, load_score_model, model_folder
from ..scores.parts import FolderSettings
from ..settings import pick_device
from . import check_limits, parse, say


@dataclass
class ExperimentOptions:
    """One experiment, or all of them and a page about them."""

    name: Annotated[str, tyro.conf.Positional]
    """Which: ood, paas, sigma-schedule, sds, regularisers, janus, sample, fit; or all."""
    model: str = EMBEDDED
    seeds: int = 5
    """Seeds of whatever is repeated."""
    small: bool = False
    """As little as shows that it works."""
    output: Path = Path("experiments")
    """Folder of figures (NAME.png) and numbers (NAME.json); the page of "all" goes beside it as .md."""
    device: str = "auto"


def main(arguments: list[str]) -> None:
    """Run, write, and say what was found."""
    options = parse(ExperimentOptions, arguments, "experiment")
    names = list(EXPERIMENTS) if options.name == "all" else [options.name.replace("-", "_")]
    if names[0] not in EXPERIMENTS:
        known = ", ".join(name.replace("_", "-") for name in EXPERIMENTS)
        raise UserError(f"there is no experiment {options.name!r}: choose {known}, or all")
    check_limits(options, {"seeds": (1, 1000)})
    device = pick_device(options.device)
    prepare(options.output / "probe")
    from ..experiments.frame import VERDICTS, Context, write, write_page

    folder = model_folder(options.model)
    scenes = FolderSettings.read(folder).scenes if folder else ""
    model = load_score_model(options.model, device)
    seeds = tuple(range(1 if options.small else options.seeds))
    context = Context(model, options.model, scenes, device, seeds, options.small, say)
    for name in names:
        say(f"{name}: {EXPERIMENTS[name]}")
        started = time.monotonic()
        finding = importlib.import_module(f"..experiments.{name}", __package__).run(context)
        write(finding, name, context, time.monotonic() - started, options.output)
        say(f"  {finding.measured}\n  {VERDICTS[finding.holds]}: {options.output / name}.png, .json")
    if options.name == "all":
        page = options.output.with_suffix(".md")
        write_page(options.output, names, page)
        say(str(page))
