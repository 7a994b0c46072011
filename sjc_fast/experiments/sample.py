"""Pictures from the score model alone: the EDM sampler, its orders and its noise, and DDIM as a cross-check."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from ..scores.protocol import NetworkModel
from ..scores.sampling import Sampler, sample
from ..shapes.prompts import caption
from .frame import Context, Finding, told
from .objects import psnr_on_object

SUBJECTS = (("mushroom", "red", 8), ("house", "green", 9), ("duck", "yellow", 10), ("car", "blue", 15))


def run(context: Context) -> Finding:
    """Sample known pictures with several samplers at several numbers of evaluations, and measure how near they come."""
    context.need_scenes()
    samplers = {
        "Heun": lambda n: Sampler(max(1, n // 2)),
        "Euler": lambda n: Sampler(n, heun=False),
        "Heun, churn": lambda n: Sampler(max(1, n // 2), churn=n / 4),
    }
    budgets = context.pick((10, 20, 50, 100), (4,))  # divisors of 1000, so that DDIM ends at the clean end
    prompts = [caption(name, colour, view) for name, colour, view in SUBJECTS]
    rows, shown = [], {}
    for seed in context.seeds:
        start = _noise(context, len(prompts), seed)
        for budget in budgets:
            for name, make in samplers.items():
                noise = torch.Generator().manual_seed(seed + 1000)
                pictures = sample(context.model, prompts, make(budget), generator=noise, start=start)
                rows.append(_row(name, budget, seed, pictures))
                shown[name] = pictures
            pictures = ddim(context.model, prompts, budget, start)
            rows.append(_row("DDIM (diffusers)", budget, seed, pictures))
            shown["DDIM (diffusers)"] = pictures
    most = budgets[-1]
    at = lambda name: [r["psnr"] for r in rows if r["sampler"] == name and r["evaluations"] == most]  # noqa: E731
    gap = max(abs(a - b) for a, b in zip(at("Heun"), at("DDIM (diffusers)"), strict=True))
    results = {name: told(at(name), 1) for name in shown}
    measured = (
        f"On the object, {most} evaluations bring Heun to {results['Heun']} dB of the true picture, Euler to "
        f"{results['Euler']}, Heun with churn to {results['Heun, churn']}, and DDIM by diffusers' own scheduler to "
        f"{results['DDIM (diffusers)']} (at most {gap:.1f} dB from Heun with the same seed)."
    )
    return Finding(
        "The score model that makes 3D objects also makes pictures, by Karras et al.'s sampler (authors' code).",
        measured,
        min(at("Heun")) > 15 and gap < 3,
        {"rows": rows},
        lambda figure: _draw(figure, context, rows, shown),
        (9, 6),
    )


def _noise(context: Context, count: int, seed: int) -> Tensor:
    size = context.model.size
    shape = count, context.model.channels, size, size
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(context.device)


@torch.no_grad()
def ddim(model: NetworkModel, prompts: list[str], steps: int, start: Tensor) -> Tensor:
    """Deterministic DDIM by diffusers' scheduler on the model's own noise table, asking the network directly."""
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="sample",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(steps)
    condition, x = model.encode(prompts), start.clone()
    for tick in scheduler.timesteps:
        alpha = scheduler.alphas_cumprod[tick]
        sigma = ((1 - alpha) / alpha).sqrt().expand(len(x)).to(x)
        clean = model.denoise(x * (1 + sigma[0] ** 2).sqrt(), sigma, condition)
        x = scheduler.step(clean, tick, x).prev_sample
    return x


def _row(sampler: str, evaluations: int, seed: int, pictures: Tensor) -> dict[str, Any]:
    values = [psnr_on_object(picture, *subject) for subject, picture in zip(SUBJECTS, pictures.cpu(), strict=True)]
    return {"sampler": sampler, "evaluations": evaluations, "seed": seed, "psnr": sum(values) / len(values)}


def _draw(figure: Any, context: Context, rows: list[dict], shown: dict[str, Tensor]) -> None:
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1))
    ax = left.subplots()
    for name in shown:
        mine = [r for r in rows if r["sampler"] == name]
        budgets = sorted({r["evaluations"] for r in mine})
        means = [sum(r["psnr"] for r in mine if r["evaluations"] == b) / len(context.seeds) for b in budgets]
        ax.plot(budgets, means, "o-", label=name, ms=4)
    ax.set(xscale="log", xlabel="evaluations of the network", ylabel="PSNR on the object, dB", title="seeds' mean")
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3)
    for ax, (name, pictures) in zip(right.subplots(len(shown), 1), shown.items(), strict=True):
        ax.imshow(torch.cat(list(context.model.decode(pictures)), dim=-1).cpu().permute(1, 2, 0).numpy())
        ax.set_title(f"{name}, {rows[-1]['evaluations']} evaluations", fontsize=8)
        ax.set_axis_off()
