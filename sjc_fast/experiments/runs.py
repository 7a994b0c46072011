"""3D runs of experiments: judged on the way, and kept, so that an experiment goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import __version__
from ..scene.field import VoxelField
from ..training.config import TrainConfig, digest, merge
from ..training.trainer import Trainer
from .context import Context
from .run_cache import Rows

Look = Callable[[VoxelField, TrainConfig], dict[str, Any]]


def config_for(context: Context, prompt: str, seed: int, changes: dict[str, Any]) -> TrainConfig:
    """The model's own settings with some changed."""
    return merge(merge(context.base, {"prompt": prompt, "seed": seed}, "experiment"), changes, "experiment")


def evaluations(config: TrainConfig) -> int:
    """Pictures that the network sees in a run."""
    return config.steps * config.views * config.noise_samples * (1 if config.guidance == 1 else 2)


def steps_for(context: Context, noise_samples: int) -> int:
    """Steps with so many noise samples (1, 2, 4 or 8) for as many evaluations as the model's own settings take.

    These are rounded up to what 8 noise samples can take.
    """
    budget = -(-context.base.steps * context.base.noise_samples // 8) * 8
    return budget // noise_samples


def make(
    context: Context,
    config: TrainConfig,
    marks: tuple[float, ...] = (),
    look: Look = lambda *_: {},
) -> Rows:
    """Run, and judge at the given shares of it and at its end; or take what an earlier run of the same kind left.

    Args:
        look: gives more figures of the field at the end.

    Returns:
        a row for every mark, the end last: evaluations so far and figures.
    """
    run = f"{digest(config)} {marks} {__version__}"
    if run not in context.run_cache.kept:
        context.run_cache.put(run, _make(context, config, marks, look))
    return context.run_cache.kept[run]


def make_each(context: Context, prompts: tuple[str, ...], changes: dict[str, Any], look: Look = lambda *_: {}) -> Rows:
    """Every prompt with every seed, under the same changes: what `make` gives at the end, a row each."""
    rows = []
    for prompt in prompts:
        for seed in context.seeds:
            made = make(context, config_for(context, prompt, seed, changes), look=look)
            rows.append({"prompt": prompt, "seed": seed, **made[-1]})
    return rows


def _make(context: Context, config: TrainConfig, marks: tuple[float, ...], look: Look) -> Rows:
    trainer = Trainer(config, context.model, context.device)
    at = {max(1, round(m * config.steps)) for m in (*marks, 1.0)}
    rows = []
    for step in trainer.remaining():
        if step in at:
            done = evaluations(config) * step / config.steps
            rows.append({"step": step, "evaluations": done, **context.judge.judge(trainer.field, config.prompt)})
    rows[-1] |= look(trainer.field, config)
    return rows
