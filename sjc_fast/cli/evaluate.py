"""`sjc-fast evaluate`: how near a model's objects come to the known scenes it was taught."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..export.pictures import save_picture
from ..runs.console import say
from ..runs.run import load_model
from ..runs.settings import default_config, pick_device
from ..scores.load import EMBEDDED, folder_settings
from ..scores.protocol import ScoreModel
from ..shapes.exact import ExactScenes
from ..shapes.truth import Judgement, judge, mean, read_whole
from ..storage.files import atomic, prepare
from ..training.config import TrainConfig, settings_of
from ..training.trainer import Trainer
from . import option_value, parse
from .train import config_of

PROMPTS = (
    "a red mushroom",
    "a blue snowman",
    "a green house",
    "a yellow car",
    "a purple ring",
    "an orange cone",
    "a red cube",
    "a blue ball",
    "a green tree",
    "a yellow mushroom",
    "a purple house",
    "an orange snowman",
)
SHOWN = (0, 2, 4, 6)  # of the held-out views, in the contact sheet


@dataclass
class EvaluateOptions(TrainConfig):
    """Objects of fixed prompts against the known truth, with the model and with the exact score of its scenes.

    Takes every setting of `train`, with the model's own as defaults.
    """

    output: Path | None = Path("evaluation.json")
    """Every figure; the contact sheet goes beside it as .png."""
    prompts: tuple[str, ...] = PROMPTS
    """Each names one object and its color."""
    ceiling: bool = True
    """Also with the exact score in place of the network (unguided), about the best that any network could do."""


def main(arguments: list[str]) -> None:
    """Generate, judge, print a table, write JSON and contact sheet."""
    options = _read_options(arguments)
    device = pick_device(options.device)
    output = options.output or Path("evaluation.json")
    for path in (output, output.with_suffix(".png")):
        prepare(path)
    model = load_model(config_of(options), device)
    models: dict[str, ScoreModel] = {"model": model}
    if options.ceiling:
        models["exact"] = ExactScenes(model.sigmas, model.settings)
    rows: dict[str, list[dict]] = {name: [] for name in models}
    sheet = []
    say(f"{'':20}" + "".join(f"{name:>43}" for name in models))
    started = time.monotonic()
    for prompt in options.prompts:
        pictures: list[Tensor] = []
        for name, judgement, seconds in _generate(replace(config_of(options), prompt=prompt), models, device):
            rows[name].append({"prompt": prompt, **judgement.figures(), "seconds": seconds})
            pictures = pictures or [judgement.views, judgement.truth]
        sheet.append(torch.cat([row[i] for row in pictures for i in SHOWN], dim=-1))
        say(f"{prompt:20}" + "".join(describe(r[-1]) for r in rows.values()))
    means = {name: mean(of) for name, of in rows.items()}
    say(f"{'mean':20}" + "".join(describe(m) for m in means.values()))
    where = {"device": str(device), "threads": torch.get_num_threads()}
    changed = _changed(options)
    result = {"model": options.model, "seed": options.seed, "changed": changed, **where}
    result |= {"total_seconds": time.monotonic() - started, "mean": means, **rows}
    _write(output, result, torch.cat(sheet, dim=-2))


def _read_options(arguments: list[str]) -> EvaluateOptions:
    """What a command line asks for.

    Raises:
        UserError: the model's scenes are not known, or a prompt has no truth among them.
    """
    default = default_config(option_value(arguments, "model") or EMBEDDED)
    own = {f.name: getattr(default, f.name) for f in fields(default) if f.name != "output"}
    options = replace(parse(EvaluateOptions, arguments, "evaluate", EvaluateOptions(**own)), model=default.model)
    if folder_settings(options.model).scenes != "shapes":
        raise UserError(f"model {options.model}: its sjc_fast.json names no scenes whose truth is known")
    if options.prompt or options.resume:
        raise UserError("evaluate makes new objects of --prompts: leave --prompt and --resume out")
    if options.output and options.output.suffix != ".json":
        raise UserError(f"--output {options.output}: the file of the figures ends in .json")
    if not options.prompts:
        raise UserError("--prompts: give at least one")
    for prompt in options.prompts:
        read_whole(prompt)
    return options


def _changed(options: EvaluateOptions) -> dict[str, object]:
    """The settings that are not the model's own."""
    own, now = settings_of(default_config(options.model)), settings_of(config_of(options))
    return {k: v for k, v in now.items() if v != own[k] and k not in ("output", "seed")}


def _generate(
    config: TrainConfig, models: dict[str, ScoreModel], device: torch.device
) -> Iterator[tuple[str, Judgement, float]]:
    """An object of the prompt by every model, judged, and the seconds that it took."""
    for name, model in models.items():
        started = time.monotonic()
        exact = isinstance(model, ExactScenes)  # it has nothing to guide
        run = Trainer(replace(config, guidance=1.0) if exact else config, model, device)
        for _ in run.remaining():
            pass
        seconds = time.monotonic() - started
        yield name, judge(run.field, config.prompt, config.backend), seconds


def describe(row: dict) -> str:
    """A cell of the table."""
    rate = row.get("facing")
    facing = "     " if rate is None else {1: "right", 0: "wrong"}.get(rate) or f"{rate:5.0%}"
    return f"  {row['iou']:.3f} {row['psnr']:5.1f}/{row['psnr_object']:4.1f} dB {facing} {row['seconds']:3.0f} s"


def _write(output: Path, result: dict, sheet: Tensor) -> None:
    with atomic(output, "the evaluation") as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n")
    save_picture(sheet, output.with_suffix(".png"))
    for path in (output, output.with_suffix(".png")):
        print(path)
