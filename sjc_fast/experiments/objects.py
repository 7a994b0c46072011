"""3D runs of experiments, judged on the way."""

from __future__ import annotations

from typing import Any

from ..config import TrainConfig, merge
from ..field import VoxelField
from ..trainer import Trainer
from .frame import Context


def config_for(context: Context, prompt: str, seed: int, changes: dict[str, Any]) -> TrainConfig:
    """The model's own settings with some changed; small contexts take a twentieth of the steps."""
    config = merge(context.base, {"prompt": prompt, "seed": seed}, "experiment")
    config = merge(config, changes, "experiment")
    return merge(config, {"steps": max(8, config.steps // context.pick(1, 20))}, "experiment")


def evaluations(config: TrainConfig) -> int:
    """Pictures that the network sees in a run."""
    return config.steps * config.views * config.noise_samples * (1 if config.guidance == 1 else 2)


def steps_for(context: Context, noise_samples: int) -> int:
    """Steps that take as many evaluations with so many noise samples as the model's own settings take."""
    return max(1, context.base.steps * context.base.noise_samples // noise_samples)


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
            rows.append({"step": step, "evaluations": done, **context.stage.judge(run.field, config.prompt)})
    return run.field, rows
