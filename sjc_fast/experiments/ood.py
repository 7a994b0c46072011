"""The out-of-distribution problem: a denoiser is asked about clean renderings, and was taught noisy pictures only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..shapes.dataset import direction_cameras, render_views
from ..shapes.exact import ExactScenes
from ..shapes.objects import COLOURS, OBJECTS
from .frame import Context, Finding

VIEW = 8  # the front
PROMPT = "front view of an orange ball"


def run(context: Context) -> Finding:
    """Denoise an orange disc as it is, and with noise added, at every noise level."""
    context.need_scenes()
    sigmas = torch.logspace(-1, 1.1, context.pick(15, 4)).tolist()
    disc = _disc()
    rows = [_errors(context, disc, sigma, words) for words in (PROMPT, "") for sigma in sigmas]
    told, free = ([r for r in rows if r["prompt"] == words] for words in (PROMPT, ""))
    worse = [r for r in free if r["clean"] > r["noisy"]]
    at = max(free, key=lambda r: r["clean"] / r["noisy"])
    exact = ExactScenes(context.model.sigmas, {})
    limit = float(
        (exact.denoise(disc, torch.tensor([at["sigma"]]), exact.encode([PROMPT])) - disc).square().mean() ** 0.5
    )
    measured = (
        f"Without words, D of the clean disc is farther from the disc than D of the noised one at {len(worse)} of "
        f"{len(free)} noise levels, by up to {at['clean'] / at['noisy']:.1f} times (sigma {at['sigma']:.2g}: root mean "
        f"square error {at['clean']:.3f} against {at['noisy']:.3f}, pictures in [-1, 1]). With the words "
        f'"{PROMPT}" it is so at {sum(r["clean"] > r["noisy"] for r in told)} of {len(told)}. The exact score of the '
        f"scenes maps the same clean disc to within {limit:.3f} of itself, so that any such error is the network's own."
    )
    pictures = [_strip(context, disc, sigma) for sigma in sigmas[:: context.pick(3, 2)]]
    return Finding(
        "A denoiser trained on noisy pictures fails on clean ones: it must be given noised copies (section 3.1, the "
        "orange disc).",
        measured,
        len(worse) > len(free) / 2,
        {"rows": rows, "exact": limit},
        lambda figure: _draw(figure, told, free, pictures, sigmas[:: context.pick(3, 2)]),
        (9, 6),
    )


def _disc() -> Tensor:
    """The true picture, over grey: [1, 3, size, size]."""
    layers = render_views("ball", direction_cameras()[VIEW : VIEW + 1])
    return layers.paint(*torch.tensor([COLOURS["orange"], OBJECTS["ball"].second(), (0.5, 0.5, 0.5)])) * 2 - 1


def _errors(context: Context, disc: Tensor, sigma: float, words: str) -> dict[str, Any]:
    """Root mean square error of D against the clean disc, fed clean, and fed with noise (mean of several)."""
    count = context.pick(16, 2)
    noise = torch.randn(count, *disc.shape[1:], generator=torch.Generator().manual_seed(context.seeds[0]))
    condition = context.model.encode([words]).expand(count + 1, -1, -1)
    inputs = torch.cat([disc, disc + sigma * noise]).to(context.device)
    answers = context.model.denoise(inputs, torch.full((count + 1,), sigma), condition).cpu()
    error = (answers - disc).square().mean(dim=(1, 2, 3))
    return {"prompt": words, "sigma": sigma, "clean": float(error[0] ** 0.5), "noisy": float(error[1:].mean() ** 0.5)}


def _strip(context: Context, disc: Tensor, sigma: float) -> Tensor:
    """D of the clean disc above D of a noised one, without words, [3, 2 size, size] in [0, 1]."""
    noise = torch.randn(disc.shape, generator=torch.Generator().manual_seed(context.seeds[0]))
    inputs = torch.cat([disc, disc + sigma * noise]).to(context.device)
    answers = context.model.denoise(inputs, torch.full((2,), sigma), context.model.encode(["", ""]))
    return torch.cat(list(context.model.decode(answers)), dim=-2).cpu()


def _draw(figure: Any, told: list[dict], free: list[dict], pictures: list[Tensor], sigmas: list[float]) -> None:
    curves, strips = figure.subfigures(2, 1, height_ratios=(3, 2))
    axes = curves.subplots(1, 2, sharey=True)
    for ax, rows, title in zip(axes, (free, told), ("without words", f'"{PROMPT}"'), strict=True):
        for key, colour in (("clean", "tab:red"), ("noisy", "tab:blue")):
            ax.loglog(
                [r["sigma"] for r in rows], [r[key] for r in rows], "o-", color=colour, ms=3, label=f"{key} input"
            )
        ax.set(title=title, xlabel="sigma")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("RMS error of D against the disc")
    axes[0].legend()
    for ax, picture, sigma in zip(strips.subplots(1, len(pictures)), pictures, sigmas, strict=True):
        ax.imshow(picture.permute(1, 2, 0).numpy())
        ax.set_title(f"sigma {sigma:.2g}", fontsize=8)
        ax.set_axis_off()
    strips.supxlabel("D without words: of the clean disc (above), of the noised disc (below)", fontsize=9)
