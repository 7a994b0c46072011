"""The out-of-distribution problem: a denoiser is asked about clean renderings, and was taught noisy pictures only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..scores.protocol import ScoreModel
from .frame import Context, Finding


def run(context: Context) -> Finding:
    """Denoise an orange disc as it is, and with noise added, at every noise level."""
    sigmas = torch.logspace(-1, 1.1, context.pick(15, 4)).tolist()
    disc, prompt = context.stage.disc()
    rows = [_errors(context, disc, sigma, words) for words in (prompt, "") for sigma in sigmas]
    told, free = ([r for r in rows if r["prompt"] == words] for words in (prompt, ""))
    shown = sigmas[:: context.pick(3, 2)]
    pictures = {sigma: _strip(context, disc, sigma) for sigma in shown}
    curves = {"without words": free, f'"{prompt}"': told}
    return Finding(
        "A denoiser trained on noisy pictures fails on clean ones: it must be given noised copies (section 3.1, the "
        "orange disc).",
        _measured(free, told, prompt),
        sum(r["clean"] > r["noisy"] for r in free) > len(free) / 2,
        {"rows": rows},
        lambda figure: _draw(figure, curves, pictures),
        (9, 6),
    )


def _measured(free: list[dict[str, Any]], told: list[dict[str, Any]], prompt: str) -> str:
    """The numbers in words."""
    worse = [sum(r["clean"] > r["noisy"] for r in rows) for rows in (free, told)]
    at = max(free, key=lambda r: r["clean"] / r["noisy"])
    text = (
        f"Without words, D of the clean disc is farther from the disc than D of the noised one at {worse[0]} of "
        f"{len(free)} noise levels; the worst for it is sigma {at['sigma']:.2g}, with a root mean square error of "
        f'{at["clean"]:.3f} against {at["noisy"]:.3f} (pictures in [-1, 1]). With the words "{prompt}" it is so at '
        f"{worse[1]} of {len(told)}."
    )
    if "clean_exact" in told[0]:
        low, high = told[0], told[-1]
        text += (
            f" From what the exact denoiser answers to the same input and words, the network is "
            f"{low['clean_exact']:.3f} (sigma {low['sigma']:.2g}) to {high['clean_exact']:.3f} (sigma "
            f"{high['sigma']:.2g}) away on the clean disc, {low['noisy_exact']:.3f} to {high['noisy_exact']:.3f} on "
            "the noised one."
        )
    return text


def _errors(context: Context, disc: Tensor, sigma: float, words: str) -> dict[str, Any]:
    """Root mean square error of D against the clean disc, fed clean, and fed with noise (mean of several).

    With words, and where there is an exact denoiser, also against its answers.
    """
    inputs = _inputs(context, disc, sigma, context.pick(16, 2))
    answers, exact = _denoise(context, context.model, inputs, sigma, words), context.stage.exact
    row = {"prompt": words, "sigma": sigma} | _apart(answers, disc, "")
    return row | (_apart(answers, _denoise(context, exact, inputs, sigma, words), "_exact") if exact and words else {})


def _apart(answers: Tensor, truth: Tensor, suffix: str) -> dict[str, float]:
    error = (answers - truth).square().mean(dim=(1, 2, 3))
    return {f"clean{suffix}": float(error[0].sqrt()), f"noisy{suffix}": float(error[1:].mean().sqrt())}


def _inputs(context: Context, disc: Tensor, sigma: float, count: int) -> Tensor:
    """The clean disc, then noised ones, [1 + count, C, size, size]."""
    noise = torch.randn(count, *disc.shape[1:], generator=torch.Generator().manual_seed(context.seeds[0]))
    return torch.cat([disc, disc + sigma * noise])


def _denoise(context: Context, model: ScoreModel, inputs: Tensor, sigma: float, words: str) -> Tensor:
    """D of the inputs."""
    condition = model.encode([words])
    condition = condition.expand(len(inputs), *condition.shape[1:])
    level = torch.full((len(inputs),), sigma, device=context.device)
    return model.denoise(inputs.to(context.device), level, condition).cpu()


def _strip(context: Context, disc: Tensor, sigma: float) -> Tensor:
    """D of the clean disc above D of a noised one, without words, [3, 2 size, size] in [0, 1]."""
    answers = _denoise(context, context.model, _inputs(context, disc, sigma, 1), sigma, "")
    return torch.cat(list(context.model.decode(answers.to(context.device))), dim=-2).cpu()


def _draw(figure: Any, curves: dict[str, list[dict]], pictures: dict[float, Tensor]) -> None:
    above, below = figure.subfigures(2, 1, height_ratios=(3, 2))
    axes = above.subplots(1, 2, sharey=True)
    for ax, (title, rows) in zip(axes, curves.items(), strict=True):
        for key, colour in (("clean", "tab:red"), ("noisy", "tab:blue")):
            values = [r[key] for r in rows]
            ax.loglog([r["sigma"] for r in rows], values, "o-", color=colour, ms=3, label=f"{key} input")
        ax.set(title=title, xlabel="sigma")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("RMS error of D against the disc")
    axes[0].legend()
    for ax, (sigma, picture) in zip(below.subplots(1, len(pictures)), pictures.items(), strict=True):
        ax.imshow(picture.permute(1, 2, 0).numpy())
        ax.set_title(f"sigma {sigma:.2g}", fontsize=8)
        ax.set_axis_off()
    below.supxlabel("D without words: of the clean disc (above), of the noised disc (below)", fontsize=9)
