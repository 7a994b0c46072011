"""3D runs of experiments: short, judged against the known truth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..config import TrainConfig, merge
from ..field import VoxelField
from ..shapes.dataset import direction_cameras, render_views
from ..shapes.objects import COLOURS, OBJECTS
from ..shapes.truth import judge
from ..trainer import Trainer
from .frame import Context


def config_for(context: Context, prompt: str, seed: int, changes: dict[str, Any]) -> TrainConfig:
    """The model's own settings with some changed; small contexts take a twentieth of the steps."""
    config = merge(TrainConfig(model=context.name), context.model.settings, "the model")
    config = merge(config, {"prompt": prompt, "seed": seed}, "experiment")
    config = merge(config, changes, "experiment")
    return merge(config, {"steps": max(8, config.steps // context.pick(1, 20))}, "experiment")


def evaluations(config: TrainConfig) -> int:
    """Pictures that the network sees in a run."""
    return config.steps * config.views * config.noise_samples * (1 if config.guidance == 1 else 2)


def make(
    context: Context, config: TrainConfig, marks: tuple[float, ...] = ()
) -> tuple[VoxelField, list[dict[str, Any]]]:
    """Run, and judge at the given shares of it and at its end.

    Returns:
        the field, and a row for every mark: evaluations so far and the judgement's figures.
    """
    run = Trainer(config, context.model, context.device)
    at = {max(1, round(m * config.steps)) for m in (*marks, 1.0)}
    rows = []
    for step in run.remaining():
        if step in at:
            done = evaluations(config) * step / config.steps
            rows.append({"step": step, "evaluations": done, **judge(run.field, config.prompt).figures()})
    return run.field, rows


def psnr_on_object(picture: Tensor, name: str, colour: str, view: int) -> float:
    """dB of a picture [3, size, size] in [-1, 1] against the true one where no background shows (it may be any)."""
    layers = render_views(name, direction_cameras()[view : view + 1])
    truth = layers.lit(torch.tensor(COLOURS[colour]), torch.tensor(OBJECTS[name].second()))[0]
    inside = layers.coverage[0, 0] > 0.999
    return float(-10 * (picture / 2 + 0.5 - truth)[:, inside].square().mean().log10())
