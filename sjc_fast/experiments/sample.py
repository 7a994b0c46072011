"""Pictures from the score model alone: the EDM sampler, its orders and its noise, and DDIM as a cross-check."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from ..scores.protocol import ScoreModel
from ..scores.sampling import Sampler, guided, sample
from ..settings import sampling_guidance
from .frame import Context, Finding, told, values_of


def run(context: Context) -> Finding:
    """Sample pictures with several samplers at several numbers of evaluations, and measure how good they are."""
    samplers = {
        "Heun": lambda n: Sampler(max(1, n // 2)),
        "Euler": lambda n: Sampler(n, heun=False),
        "Heun, churn": lambda n: Sampler(max(1, n // 2), churn=n / 4),
    }
    budgets = context.pick((10, 20, 50, 100), (4,))  # divisors of 1000, so that DDIM ends at the clean end
    prompts, guidance = context.stage.captions(), sampling_guidance(context.model, context.base)
    rows, shown = [], {}
    for seed in context.seeds:
        start = _noise(context, len(prompts), seed)
        for budget in budgets:
            for name, make in samplers.items():
                noise = torch.Generator().manual_seed(seed + 1000)
                pictures = sample(context.model, prompts, make(budget), guidance=guidance, generator=noise, start=start)
                rows.append(_row(context, name, budget, seed, pictures))
                shown[name] = pictures
            pictures = ddim(context.model, prompts, budget, start, guidance)
            rows.append(_row(context, "DDIM (diffusers)", budget, seed, pictures))
            shown["DDIM (diffusers)"] = pictures
    most = budgets[-1]
    at = lambda name: values_of(rows, "quality", sampler=name, evaluations=most)  # noqa: E731
    gap = max(abs(a - b) for a, b in zip(at("Heun"), at("DDIM (diffusers)"), strict=True))
    results = {name: told(at(name), 1) for name in shown}
    measured = (
        f"{context.stage.picture_label} after {most} evaluations: Heun {results['Heun']}, Euler {results['Euler']}, "
        f"Heun with churn {results['Heun, churn']}, and DDIM by diffusers' own scheduler "
        f"{results['DDIM (diffusers)']} (at most {gap:.1f} dB from Heun with the same seed)."
    )
    return Finding(
        "The score model that makes 3D objects also makes pictures, by Karras et al.'s sampler (authors' code).",
        measured,
        min(at("Heun")) > context.stage.recognisable and gap < 3,
        {"rows": rows},
        lambda figure: _draw(figure, context, rows, shown),
        (9, 6),
    )


def _noise(context: Context, count: int, seed: int) -> Tensor:
    size = context.model.size
    shape = count, context.model.channels, size, size
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(context.device)


@torch.no_grad()
def ddim(model: ScoreModel, prompts: list[str], steps: int, start: Tensor, guidance: float = 1.0) -> Tensor:
    """Deterministic DDIM by diffusers' scheduler on the model's own noise table."""
    kept = 1 / (1 + model.sigmas.double() ** 2)  # alpha_bar
    scheduler = DDIMScheduler(
        trained_betas=(1 - kept / torch.cat([torch.ones(1), kept[:-1]])).numpy(),
        num_train_timesteps=len(kept),
        prediction_type="sample",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(steps)
    condition, empty, x = model.encode(prompts), model.encode([""]), start.clone()
    for tick in scheduler.timesteps:
        alpha = scheduler.alphas_cumprod[tick]
        clean = guided(model, x / alpha.sqrt(), float(((1 - alpha) / alpha).sqrt()), condition, guidance, empty)
        x = scheduler.step(clean, tick, x).prev_sample
    return x


def _row(context: Context, sampler: str, evaluations: int, seed: int, pictures: Tensor) -> dict[str, Any]:
    judged = zip(pictures, context.stage.captions(), strict=True)
    values = [context.stage.judge_picture(picture, caption) for picture, caption in judged]
    return {"sampler": sampler, "evaluations": evaluations, "seed": seed, "quality": fmean(values)}


def _draw(figure: Any, context: Context, rows: list[dict], shown: dict[str, Tensor]) -> None:
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1))
    ax = left.subplots()
    for name in shown:
        mine = [r for r in rows if r["sampler"] == name]
        budgets = sorted({r["evaluations"] for r in mine})
        means = [fmean(values_of(mine, "quality", evaluations=b)) for b in budgets]
        ax.plot(budgets, means, "o-", label=name, ms=4)
    ax.set(xscale="log", xlabel="evaluations of the network", ylabel=context.stage.picture_label, title="seeds' mean")
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3)
    for ax, (name, pictures) in zip(right.subplots(len(shown), 1), shown.items(), strict=True):
        ax.imshow(torch.cat(list(context.model.decode(pictures)), dim=-1).cpu().permute(1, 2, 0).numpy())
        ax.set_title(f"{name}, {rows[-1]['evaluations']} evaluations", fontsize=8)
        ax.set_axis_off()
