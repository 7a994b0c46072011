"""Random or annealed noise levels: a picture from the score alone, and objects."""

from __future__ import annotations

from typing import Any

import torch

from ..config import SigmaConfig
from ..paas import paas_score, weigh
from ..schedule import draw_sigmas
from .frame import Context, Finding, interval, told
from .objects import config_for, make, psnr_on_object

MODES = ("random", "log-uniform", "annealed")
PROMPTS = ("a red mushroom", "a green house")
VIEW = 9  # front left
RATE = 0.05  # of gradient ascent on a picture; falls to nothing


def run(context: Context) -> Finding:
    """Every mode with every seed, in 2D and in 3D."""
    context.need_scenes()
    flat = [_picture(context, mode, seed) for mode in MODES for seed in context.seeds]
    context.say("  pictures done")
    solid = []
    for prompt in PROMPTS[: context.pick(2, 1)]:
        for mode in MODES:
            for seed in context.seeds:
                config = config_for(context, prompt, seed, {"score": {"sigma": {"mode": mode}}})
                solid.append({"prompt": prompt, "mode": mode, "seed": seed, **make(context, config)[1][-1]})
            context.say(f"  {prompt}, {mode}: {told(r['psnr'] for r in solid if r['mode'] == mode)} dB")
    of = lambda rows, mode, key: [r[key] for r in rows if r["mode"] == mode]  # noqa: E731
    line = lambda rows, key, digits: ", ".join(f"{m} {told(of(rows, m, key), digits)}" for m in MODES)  # noqa: E731
    gaps = [a - b for a, b in zip(of(solid, "annealed", "psnr"), of(solid, "random", "psnr"), strict=True)]
    measured = (
        f"In 2D, PSNR on the object after {flat[0]['steps']} steps: {line(flat, 'psnr', 1)} dB. In 3D, at held-out "
        f"views: PSNR {line(solid, 'psnr', 2)} dB; IoU {line(solid, 'iou', 3)}. Annealed less random, same prompt "
        f"and seed: {told(gaps, 2)} dB."
    )
    mean, half = interval(gaps)
    return Finding(
        "Noise levels drawn at random serve 3D at least as well as annealed ones, which image samplers need.",
        measured,
        mean - half <= 0,
        {"pictures": [{k: v for k, v in r.items() if k != "picture"} for r in flat], "objects": solid},
        lambda figure: _draw(figure, flat, solid),
        (10, 4),
    )


def _picture(context: Context, mode: str, seed: int) -> dict[str, Any]:
    """Gradient ascent on a picture by PAAS, from grey: the object is judged where no background shows."""
    steps = context.pick(400, 10)
    own = config_for(context, "a red mushroom", seed, {})
    generator = torch.Generator().manual_seed(seed)
    table = SigmaConfig(mode, low=own.score.sigma.low, high=own.score.sigma.high)
    sigmas = draw_sigmas(steps, steps, context.model.sigmas, table, generator).to(context.device)
    condition = context.model.encode(["front left view of a red mushroom"])
    x = torch.zeros(1, 3, context.model.size, context.model.size, device=context.device)
    for i, sigma in enumerate(sigmas):
        score = paas_score(
            context.model, x, sigma, condition, noise_samples=2, guidance=1.0, antithetic=True, generator=generator
        )
        x = x + RATE * (1 - i / steps) * weigh(score, sigma[None], "sigma")
    return {
        "mode": mode,
        "seed": seed,
        "steps": steps,
        "psnr": psnr_on_object(x[0].cpu(), "mushroom", "red", VIEW),
        "picture": x.cpu(),
    }


def _draw(figure: Any, flat: list[dict], solid: list[dict]) -> None:
    left, right = figure.subfigures(1, 2, width_ratios=(2, 3))
    for ax, mode in zip(left.subplots(1, len(MODES)), MODES, strict=True):
        shown = next(r for r in flat if r["mode"] == mode)
        ax.imshow((shown["picture"][0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy())
        ax.set_title(f"{mode}\n{shown['psnr']:.1f} dB", fontsize=8)
        ax.set_axis_off()
    left.suptitle("2D, from the score alone", fontsize=10)
    for ax, key, label in zip(right.subplots(1, 2), ("psnr", "iou"), ("PSNR, dB", "silhouette IoU"), strict=True):
        for i, mode in enumerate(MODES):
            values = [r[key] for r in solid if r["mode"] == mode]
            mean, half = interval(values)
            ax.errorbar([i], [mean], [half], fmt="s", color=f"C{i}", capsize=4)
            ax.plot([i + 0.15] * len(values), values, ".", color=f"C{i}", alpha=0.5)
        ax.set_xticks(range(len(MODES)), MODES)
        ax.set(ylabel=label, title="3D, held-out views")
        ax.grid(alpha=0.3, axis="y")
