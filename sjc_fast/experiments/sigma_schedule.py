"""Random or annealed noise levels: a picture from the score alone, and objects."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..paas import paas_score, weigh
from ..training.schedule import draw_sigmas
from .context import Context
from .report import Finding, draw_intervals
from .runs import config_for, make_each
from .statistics import all_hold, format_ci, mean_exceeds, paired_difference, table_of, values_of

MODES = ("random", "log-uniform", "annealed")
RATE = 0.05  # of gradient ascent on a picture; falls to nothing


def run(context: Context) -> Finding:
    """Every mode with every seed, in 2D and in 3D."""
    flat = [_picture(context, mode, seed) for mode in MODES for seed in context.seeds]
    context.say("  pictures done")
    solid = [row for mode in MODES for row in _objects(context, mode)]
    of = {mode: (values_of(flat, "quality", mode=mode), values_of(solid, context.quality, mode=mode)) for mode in MODES}
    pictures, objects = (paired_difference(of["annealed"][i], of["random"][i]) for i in range(2))
    drawn, limit = ", ".join(f"{mode} {format_ci(of[mode][0], 1)}" for mode in MODES), context.judge.negligible
    return Finding(
        f"Image samplers need annealed noise levels; 3D does as well (within {limit:g} dB) with random ones.",
        f"Annealed less random, same seed: {format_ci(pictures, 2)} dB in 2D (a picture by {flat[0]['steps']} steps of "
        f"gradient ascent from the score alone; {context.judge.picture_label}: {drawn}), {format_ci(objects, 2)} dB in "
        f"3D ({context.label}, means over prompts; table).",
        all_hold(mean_exceeds(pictures), mean_exceeds([-gap for gap in objects], -limit)),
        {"pictures": [{k: v for k, v in r.items() if k != "picture"} for r in flat], "objects": solid},
        lambda figure: _draw(figure, context, flat, solid),
        (10, 4),
        table_of(solid, context.judge.labels, "mode"),
    )


def _objects(context: Context, mode: str) -> list[dict[str, Any]]:
    """Every prompt with every seed."""
    prompts = context.judge.prompts("a red mushroom", "a green house")
    rows = [{"mode": mode, **row} for row in make_each(context, prompts, {"score": {"sigma": {"mode": mode}}})]
    context.say(f"  {mode}: {format_ci(values_of(rows, context.quality), 2)}")
    return rows


def _picture(context: Context, mode: str, seed: int) -> dict[str, Any]:
    """Gradient ascent on a picture by PAAS, from gray. Nobody says from which direction."""
    caption, model = context.judge.prompts("a red mushroom")[0], context.model
    config, steps = config_for(context, caption, seed, {}), context.pick(400, 10)
    generator = torch.Generator().manual_seed(seed)
    table = replace(config.score.sigma, mode=mode)
    sigmas = draw_sigmas(steps, steps, model.sigmas, table, generator).to(context.device)
    words = model.encode([caption])
    x = torch.zeros(1, model.channels, model.size, model.size, device=context.device)
    options = {"noise_samples": 2, "guidance": config.guidance, "antithetic": True, "generator": generator}
    for i, sigma in enumerate(sigmas):
        score = paas_score(model, x, sigma, words, **options)
        x = x + RATE * (1 - i / steps) * weigh(score, sigma[None], "sigma")
    quality = context.judge.judge_picture(x[0], caption)
    picture = model.decode(x)[0].cpu()
    return {"mode": mode, "seed": seed, "steps": steps, "quality": quality, "picture": picture}


def _draw(figure: Any, context: Context, flat: list[dict], solid: list[dict]) -> None:
    left, right = figure.subfigures(1, 2, width_ratios=(2, 3))
    for ax, mode in zip(left.subplots(1, len(MODES)), MODES, strict=True):
        shown = next(r for r in flat if r["mode"] == mode)
        ax.imshow(shown["picture"].permute(1, 2, 0).numpy())
        ax.set_title(f"{mode}\n{shown['quality']:.1f} dB", fontsize=8)
        ax.set_axis_off()
    left.suptitle("2D, from the score alone", fontsize=10)
    labels = context.judge.labels
    for ax, (key, label) in zip(right.subplots(1, len(labels), squeeze=False)[0], labels.items(), strict=True):
        draw_intervals(ax, solid, key, label, "mode")
        ax.set(title="3D")
