"""Pictures from the score model alone: the EDM sampler, its orders and its noise, and DDIM as a cross-check."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from ..runs.settings import sampling_guidance
from ..scores.protocol import ScoreModel
from ..scores.sampling import Sampler, guided, sample
from .context import Context
from .report import Finding
from .statistics import all_hold, format_ci, mean_exceeds, table_of, values_of

SAME = 25.0  # dB, from which pictures are the same to the eye


def run(context: Context) -> Finding:
    """Sample pictures with several samplers at several numbers of evaluations, and measure how good they are."""
    samplers = {
        "Heun": lambda n: Sampler(max(1, n // 2)),
        "Euler": lambda n: Sampler(n, heun=False),
        "Heun, churn": lambda n: Sampler(max(1, n // 2), churn=n / 4),
    }
    budgets = context.pick((10, 20, 50, 100), (4,))  # divisors of 1000, so that DDIM ends at the clean end
    prompts, guidance = context.judge.captions(), sampling_guidance(context.model)
    rows, shown, apart = [], {}, []
    for seed in context.seeds:
        start = _noise(context, len(prompts), seed)
        for budget in budgets:
            for name, make in samplers.items():
                noise = torch.Generator().manual_seed(seed + 1000)
                options = {"guidance": guidance, "generator": noise, "start": start}
                shown[name] = sample(context.model, prompts, make(budget), **options)
            shown["DDIM (diffusers)"] = ddim(context.model, prompts, budget, start, guidance)
            rows += [_row(context, name, budget, seed, pictures) for name, pictures in shown.items()]
        apart.append(_agreement(*(context.model.decode(shown[name]) for name in ("Heun", "DDIM (diffusers)"))))
    most = [r for r in rows if r["evaluations"] == budgets[-1]]
    heun = values_of(most, "quality", sampler="Heun")
    results = ", ".join(f"{name} {format_ci(values_of(most, 'quality', sampler=name), 1)}" for name in shown)
    return Finding(
        "The score model that makes 3D objects also makes pictures, by Karras et al.'s sampler (authors' code); "
        "diffusers' own DDIM makes the same ones.",
        f"{context.judge.picture_label} after {budgets[-1]} evaluations: {results}. Pictures by Heun and by DDIM from "
        f"the same noise agree to {format_ci(apart, 1)} dB, background and all.",
        all_hold(mean_exceeds(heun, context.judge.recognizable), mean_exceeds(apart, SAME)),
        {"rows": rows, "agreement": apart},
        lambda figure: _draw(figure, context, rows, shown),
        (9, 6),
        table_of(most, {"quality": context.judge.picture_label}, "sampler"),
    )


def _agreement(one: Tensor, other: Tensor) -> float:
    """PSNR of pictures in [0, 1] against each other, dB."""
    return float(-10 * (one - other).square().mean().log10())


def _noise(context: Context, count: int, seed: int) -> Tensor:
    size = context.model.size
    shape = count, context.model.channels, size, size
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(context.device)


@torch.no_grad()
def ddim(model: ScoreModel, prompts: list[str], steps: int, start: Tensor, guidance: float = 1.0) -> Tensor:
    """Deterministic DDIM by diffusers' scheduler on the model's own noise table."""
    kept = 1 / (1 + model.sigmas.double() ** 2)  # alpha_bar
    scheduler: Any = DDIMScheduler(
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
    judged = zip(pictures, context.judge.captions(), strict=True)
    values = [context.judge.judge_picture(picture, caption) for picture, caption in judged]
    return {"sampler": sampler, "evaluations": evaluations, "seed": seed, "quality": fmean(values)}


def _draw(figure: Any, context: Context, rows: list[dict], shown: dict[str, Tensor]) -> None:
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1))
    ax = left.subplots()
    budgets = sorted({r["evaluations"] for r in rows})
    for name in shown:
        means = [fmean(values_of(rows, "quality", sampler=name, evaluations=b)) for b in budgets]
        ax.plot(budgets, means, "o-", label=name, ms=4)
    ax.set(xscale="log", xlabel="evaluations of D", ylabel=context.judge.picture_label, title="seeds' mean")
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3)
    for ax, (name, pictures) in zip(right.subplots(len(shown), 1), shown.items(), strict=True):
        ax.imshow(torch.cat(list(context.model.decode(pictures)), dim=-1).cpu().permute(1, 2, 0).numpy())
        ax.set_title(f"{name}, {rows[-1]['evaluations']} evaluations", fontsize=8)
        ax.set_axis_off()
