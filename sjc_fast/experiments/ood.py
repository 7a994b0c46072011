"""The out-of-distribution problem: a denoiser is asked about clean renderings, and was taught noisy pictures only."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ..paas import draw_noise
from .context import Context
from .report import Finding
from .statistics import format_ci, mean_exceeds, paired_difference, values_of

NOISE = 16  # noised discs a seed, in pairs


def run(context: Context) -> Finding:
    """Denoise a flat orange disc, which no picture shows, as it is and with noise added, at every noise level."""
    sigmas = torch.logspace(-1, 1.1, context.pick(15, 4)).tolist()
    disc = orange_disc(context)
    rows, pictures = _errors(context, disc, sigmas)
    known = "error" in rows[0]
    worse = paired_difference(*(values_of(rows, "error", input=i) for i in ("clean", "noised"))) if known else []
    return Finding(
        "A denoiser that is given a clean rendering, as if it were noisy, fails to correct it; given noised copies, on "
        "average it moves it towards real pictures (section 4.1, the orange disc).",
        _measured(rows, sigmas, worse),
        mean_exceeds(worse) if known else None,
        {"rows": rows},
        lambda figure: _draw(figure, rows, sigmas, dict(list(pictures.items())[:: context.pick(3, 2)]), known),
        (10, 6),
    )


def _measured(rows: list[dict[str, Any]], sigmas: list[float], worse: list[float]) -> str:
    """The numbers in words."""
    text = f"Without words; root mean squares{', pixels in [-1, 1]' if worse else ''}."
    for sigma in (sigmas[len(sigmas) // 3], sigmas[2 * len(sigmas) // 3]):
        of = lambda key, kind, sigma=sigma: values_of(rows, key, sigma=sigma, input=kind)  # noqa: E731
        text += f" At sigma {sigma:.2g} D moves the clean disc by {fmean(of('moved', 'clean')):.3f}, the mean of D of "
        text += f"noised ones moves it by {format_ci(of('moved', 'noised'))}"
        if worse:
            text += (
                f"; they are {fmean(of('error', 'clean')):.3f} and {format_ci(of('error', 'noised'))} from what the "
            )
            text += "exact denoiser makes of the same inputs"
        text += "."
    if not worse:
        return f"{text} What an exact denoiser would answer is not known."
    return f"{text} Mean over all noise levels: the clean disc's error is larger by {format_ci(worse)}."


def orange_disc(context: Context) -> Tensor:
    """A flat orange disc over gray, features [1, C, size, size]; through the VAE for latents."""
    side = context.model.size * context.model.upscale
    axis = torch.linspace(-1, 1, side)
    inside = (axis[:, None] ** 2 + axis**2).sqrt() < 0.5
    picture = torch.where(inside, torch.tensor([1.0, 0.5, 0.0])[:, None, None], 0.5)
    return context.model.encode_image(picture[None]).cpu()


def _errors(context: Context, disc: Tensor, sigmas: list[float]) -> tuple[list[dict[str, Any]], dict[float, Tensor]]:
    """How far D moves the clean disc, and D's mean over noised ones, and how far either is from the exact answer.

    Returns:
        a row a sigma, seed and input (the clean disc knows no seed); and by sigma, D of the clean disc and of a noised
        one, then the exact answers, below each other, [3, ., size] in [0, 1].
    """
    cases = [(sigma, seed) for sigma in sigmas for seed in context.seeds]
    inputs = torch.stack([_inputs(disc, *case) for case in cases])
    level = torch.tensor([sigma for sigma, _ in cases])[:, None].expand(inputs.shape[:2])
    truth = context.judge.truth(inputs.flatten(0, 1), level.flatten())  # of all at once, which is much faster
    truths = [None] * len(cases) if truth is None else truth.reshape(inputs.shape)
    rows, pictures = [], {}
    for (sigma, seed), noisy, exact in zip(cases, inputs, truths, strict=True):
        answers = _denoise(context, noisy, sigma)
        for kind, part in (("clean", slice(0, 1)), ("noised", slice(1, None))):
            answer = answers[part].mean(dim=0)
            row = {"sigma": sigma, "seed": seed, "input": kind, "moved": _rms(answer - disc)}
            rows.append(row | ({} if exact is None else {"error": _rms(answer - exact[part].mean(dim=0))}))
        if sigma not in pictures:
            shown = torch.cat([answers[:2], *([] if exact is None else [exact[:2]])]).to(context.device)
            pictures[sigma] = torch.cat(list(context.model.decode(shown)), dim=-2).cpu()
    return rows, pictures


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def _inputs(disc: Tensor, sigma: float, seed: int) -> Tensor:
    """The clean disc, then noised ones, [1 + NOISE, C, size, size]."""
    noise = draw_noise(disc, NOISE, True, generator=torch.Generator().manual_seed(seed))[0]
    return torch.cat([disc, disc + sigma * noise])


def _denoise(context: Context, inputs: Tensor, sigma: float) -> Tensor:
    """D of the inputs, without words."""
    condition = context.model.encode([""])
    condition = condition.expand(len(inputs), *condition.shape[1:])
    level = torch.full((len(inputs),), sigma, device=context.device)
    return context.model.denoise(inputs.to(context.device), level, condition).cpu()


def _draw(figure: Any, rows: list[dict], sigmas: list[float], pictures: dict[float, Tensor], known: bool) -> None:
    left, right = figure.subfigures(1, 2, width_ratios=(3, 4))
    axes = left.subplots(1 + known, 1, squeeze=False, sharex=True)[:, 0]
    labels = {"moved": "distance to the disc"} | ({"error": "distance to the exact answer"} if known else {})
    names = {"clean": "D of the clean disc", "noised": "mean of D of noised ones"}
    for ax, (key, label) in zip(axes, labels.items(), strict=True):
        for kind, color in (("clean", "tab:red"), ("noised", "tab:blue")):
            means = [fmean(values_of(rows, key, sigma=s, input=kind)) for s in sigmas]
            ax.semilogx(sigmas, means, "o-", color=color, ms=3, label=names[kind])
        ax.set(ylabel=f"{label}, RMS", ylim=(0, None))
        ax.grid(alpha=0.3)
    axes[0].legend()
    axes[-1].set_xlabel("sigma")
    for ax, (sigma, picture) in zip(right.subplots(1, len(pictures)), pictures.items(), strict=True):
        ax.imshow(picture.permute(1, 2, 0).numpy())
        ax.set_title(f"sigma {sigma:.2g}", fontsize=8)
        ax.set_axis_off()
    exact = "; below, the exact denoiser of both" if known else ""
    right.supxlabel(f"D of the clean disc, D of a noised one{exact}", fontsize=9)
