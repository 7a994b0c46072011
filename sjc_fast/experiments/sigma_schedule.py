"""Random or annealed noise levels: a picture from the score alone, and objects."""

from __future__ import annotations

from typing import Any

import torch

from ..config import SigmaConfig
from ..paas import paas_score, weigh
from ..schedule import draw_sigmas
from .frame import Context, Finding, draw_intervals, interval, table_of, told, values_of
from .objects import config_for, make

MODES = ("random", "log-uniform", "annealed")
RATE = 0.05  # of gradient ascent on a picture; falls to nothing


def run(context: Context) -> Finding:
    """Every mode with every seed, in 2D and in 3D."""
    flat = [_picture(context, mode, seed) for mode in MODES for seed in context.seeds]
    context.say("  pictures done")
    solid = [row for mode in MODES for row in _objects(context, mode)]
    gaps = {
        what: [a - b for a, b in zip(*(values_of(rows, key, mode=m) for m in ("annealed", "random")), strict=True)]
        for what, rows, key in (("2D", flat, "quality"), ("3D", solid, context.quality))
    }
    drawn = ", ".join(f"{mode} {told(values_of(flat, 'quality', mode=mode), 1)}" for mode in MODES)
    measured = (
        f"Annealed less random, same prompt and seed: {told(gaps['2D'], 2)} dB in 2D (a picture by {flat[0]['steps']} "
        f"steps of gradient ascent: {drawn} dB), {told(gaps['3D'], 2)} dB in 3D (table; "
        f"{len(gaps['3D'])} pairs)."
    )
    mean, half = interval(gaps["3D"])
    return Finding(
        "Noise levels drawn at random serve 3D at least as well as annealed ones, which image samplers need.",
        measured,
        mean - half <= 0,
        {"pictures": [{k: v for k, v in r.items() if k != "picture"} for r in flat], "objects": solid},
        lambda figure: _draw(figure, context, flat, solid),
        (10, 4),
        table_of(solid, context.stage.labels, "mode"),
    )


def _objects(context: Context, mode: str) -> list[dict[str, Any]]:
    """Every prompt with every seed."""
    rows = []
    for prompt in context.stage.prompts("a red mushroom", "a green house")[: context.pick(2, 1)]:
        for seed in context.seeds:
            config = config_for(context, prompt, seed, {"score": {"sigma": {"mode": mode}}})
            rows.append({"prompt": prompt, "mode": mode, "seed": seed, **make(context, config)[1][-1]})
    context.say(f"  {mode}: {told(values_of(rows, context.quality), 2)}")
    return rows


def _picture(context: Context, mode: str, seed: int) -> dict[str, Any]:
    """Gradient ascent on a picture by PAAS, from grey."""
    caption, model = context.stage.captions()[0], context.model
    config, steps = config_for(context, caption, seed, {}), context.pick(400, 10)
    generator = torch.Generator().manual_seed(seed)
    table = SigmaConfig(mode, low=config.score.sigma.low, high=config.score.sigma.high)
    sigmas = draw_sigmas(steps, steps, model.sigmas, table, generator).to(context.device)
    words = model.encode([caption])
    x = torch.zeros(1, model.channels, model.size, model.size, device=context.device)
    options = {"noise_samples": 2, "guidance": config.guidance, "antithetic": True, "generator": generator}
    for i, sigma in enumerate(sigmas):
        score = paas_score(model, x, sigma, words, **options)
        x = x + RATE * (1 - i / steps) * weigh(score, sigma[None], "sigma")
    return {
        "mode": mode,
        "seed": seed,
        "steps": steps,
        "quality": context.stage.judge_picture(x[0], caption),
        "picture": model.decode(x)[0].cpu(),
    }


def _draw(figure: Any, context: Context, flat: list[dict], solid: list[dict]) -> None:
    left, right = figure.subfigures(1, 2, width_ratios=(2, 3))
    for ax, mode in zip(left.subplots(1, len(MODES)), MODES, strict=True):
        shown = next(r for r in flat if r["mode"] == mode)
        ax.imshow(shown["picture"].permute(1, 2, 0).numpy())
        ax.set_title(f"{mode}\n{shown['quality']:.1f} dB", fontsize=8)
        ax.set_axis_off()
    left.suptitle("2D, from the score alone", fontsize=10)
    labels = context.stage.labels
    for ax, (key, label) in zip(right.subplots(1, len(labels), squeeze=False)[0], labels.items(), strict=True):
        draw_intervals(ax, solid, key, label, "mode")
        ax.set(title="3D")
