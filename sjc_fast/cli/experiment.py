"""`sjc-fast experiment`: a claim of the paper, tried here."""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from ..config import LIMITS
from ..errors import UserError
from ..experiments import EXPERIMENTS
from ..files import prepare
from ..scores.load import EMBEDDED, folder_settings, load_score_model
from ..settings import default_config, pick_device
from . import check_limits, parse, say


@dataclass
class ExperimentOptions:
    """One experiment, or all of them: figures, numbers, and a page about them."""

    name: Annotated[str, tyro.conf.Positional]
    """Which: ood, paas, sigma-schedule, sds, regularisers, janus, sample, fit; or all."""
    model: str = EMBEDDED
    """A model whose scenes are not known judges its own views, by how much the words help it."""
    prompt: str = ""
    """What to make; needed for any model but the embedded one, which has its own choice."""
    steps: int | None = None
    """Of a run in 3D; default what the model's own settings say."""
    seeds: int = 5
    """Seeds of whatever is repeated."""
    small: bool = False
    """As little as shows that it works."""
    output: Path = Path("experiments")
    """Folder of figures (NAME.png) and numbers (NAME.json); the page about all that lie in it goes beside it as .md."""
    device: str = "auto"


def main(arguments: list[str]) -> None:
    """Run, write, and say what was found."""
    options = parse(ExperimentOptions, arguments, "experiment")
    names = list(EXPERIMENTS) if options.name == "all" else [options.name.replace("-", "_")]
    if names[0] not in EXPERIMENTS:
        known = ", ".join(name.replace("_", "-") for name in EXPERIMENTS)
        raise UserError(f"there is no experiment {options.name!r}: choose {known}, or all")
    check_limits(options, {"seeds": (1, 1000), "steps": LIMITS["steps"]})
    device = pick_device(options.device)
    page = options.output.with_name(options.output.name + ".md")
    prepare(options.output / "probe")
    prepare(page)
    from ..experiments.frame import VERDICTS, Context, write, write_page
    from ..experiments.stages import choose_stage

    base = default_config(options.model)
    model = load_score_model(options.model, device)
    seeds = tuple(range(1 if options.small else options.seeds))
    base = replace(base, steps=options.steps or base.steps)
    if options.prompt:
        model.check_prompt(options.prompt)
    stage = choose_stage(model, folder_settings(options.model).scenes, base, options.prompt)
    context = Context(model, options.model, stage, base, device, seeds, options.small, say)
    for name in names:
        say(f"{name}: {EXPERIMENTS[name]}")
        started = time.monotonic()
        finding = importlib.import_module(f"..experiments.{name}", __package__).run(context)
        write(finding, name, context, time.monotonic() - started, options.output)
        say(f"  {finding.measured}\n  {VERDICTS[finding.holds]}: {options.output / name}.png, .json")
        write_page(options.output, page)
    say(str(page))
