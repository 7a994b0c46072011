"""`sjc-fast experiment`: a claim of the paper, tried here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ..errors import UserError
from ..experiments import EXPERIMENTS
from ..runs.console import say
from ..runs.settings import check_words, default_config, network_dtype, pick_device
from ..scores.load import EMBEDDED, folder_settings, load_score_model
from ..storage.files import prepare
from ..training.config import STEPS, TrainConfig
from . import check_limits, parse

if TYPE_CHECKING:
    from ..experiments.context import Context
    from ..experiments.report import Finding


@dataclass
class ExperimentOptions:
    """One experiment, or all of them: figures, numbers, and a page about them.

    Finished runs are kept in NAME.runs.jsonl, so that a stopped experiment goes on where it was.
    """

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
    precision: Literal["auto", "fp16", "bf16", "fp32"] = "auto"
    """Of the network: "auto" is fp16 on a CUDA device, else fp32."""


def main(arguments: list[str]) -> None:
    """Run, write, and say what was found."""
    options = parse(ExperimentOptions, arguments, "experiment")
    names = list(EXPERIMENTS) if options.name == "all" else [options.name.replace("-", "_")]
    if names[0] not in EXPERIMENTS:
        known = ", ".join(name.replace("_", "-") for name in EXPERIMENTS)
        raise UserError(f"there is no experiment {options.name!r}: choose {known}, or all")
    check_limits(options, {"seeds": (1, 1000), "steps": STEPS})
    device = pick_device(options.device)
    scenes = folder_settings(options.model).scenes
    folder = options.output.resolve()
    page = folder.with_name(f"{folder.name}.md")
    from ..experiments.context import Context, choose_judge
    from ..experiments.judges import check_prompt
    from ..experiments.report import VERDICTS, write, write_page
    from ..experiments.run_cache import RunCache

    check_prompt(options.model, scenes, options.prompt)
    base = _base(options)
    if options.prompt:
        check_words(options.model, options.prompt)
    prepare(folder / "probe")
    prepare(page)
    model = load_score_model(options.model, device, network_dtype(options.precision))
    if getattr(model, "views", 1) > 1:
        raise UserError(f"--model {options.model}: the experiments ask for single views, and it scores several at once")
    judge = choose_judge(model, scenes, base, options.prompt, options.small)
    seeds = tuple(range(1 if options.small else options.seeds))
    for name in names:
        say(f"{name}: {EXPERIMENTS[name]}")
        run_cache = RunCache(folder / f"{name}.runs.jsonl")
        about = (options.model, options.prompt, judge, base, device, seeds, options.small)
        context = Context(model, *about, run_cache, say)
        finding = run_of(name)(context)
        write(finding, name, context, folder)
        write_page(folder, page)
        say(f"  {finding.measured}\n  The claim {VERDICTS[finding.holds]}: {options.output / name}.png, .json")
    say(str(page))


def run_of(name: str) -> Callable[[Context], Finding]:
    """An experiment, loaded when it is wanted."""
    return importlib.import_module(f"..experiments.{name}", __package__).run


def _base(options: ExperimentOptions) -> TrainConfig:
    """Settings that runs start from."""
    base = default_config(options.model)
    steps = options.steps or base.steps
    return replace(base, steps=max(8, steps // 20) if options.small else steps)
