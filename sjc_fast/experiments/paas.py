"""Perturb-and-average scoring: its variance, its bias, and what either costs in 3D."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..paas import combine, draw_noise, paas_score
from ..scores.mixture import MixtureModel
from ..shapes.dataset import direction_cameras, render_views
from ..shapes.objects import COLOURS, OBJECTS
from .frame import Context, Finding, interval, told
from .objects import config_for, make

VIEW = 9  # front left
SIGMAS = (0.3, 1.0, 3.0, 8.0)
SAMPLES = (1, 2, 4, 8, 16, 32, 64)
ESTIMATORS: dict[str, tuple[float | str, bool]] = {
    "Eq. 15": (1.0, False),
    "Eq. 16": (0.0, False),
    "auto": ("auto", False),
    "antithetic": (0.0, True),
}


def run(context: Context) -> Finding:
    """Variance with the network; bias with an exact score; objects at equal evaluations."""
    context.need_scenes()
    variance = _variances(context)
    context.say("  variances done")
    bias, identity = _biases(context), _identity()
    objects = _objects(context)
    psnr = lambda name: [r["psnr"] for r in objects if r["variant"] == name]  # noqa: E731
    gap = [a - b for a, b in zip(psnr("Eq. 16, n=1"), psnr("Eq. 15, n=1"), strict=True)]
    mean, half = interval(gap)
    return Finding(
        "Averaging over noise gives the score at a clean rendering, approximately that at sqrt(2) sigma; subtracting "
        "the noise (Eq. 16) lowers the variance, and so helps (Eq. 13 to 18).",
        _measured(variance, bias, identity, {r["variant"]: told(psnr(r["variant"]), 2) for r in objects}),
        _ratio(variance, "Eq. 15", "Eq. 16", SIGMAS[-1]) > 1 and mean - half > 0,
        {"variance": variance, "bias": bias, "identity": identity, "objects": objects},
        lambda figure: _draw(figure, variance, bias, objects),
        (11, 7),
    )


def _ratio(variance: list[dict[str, Any]], one: str, other: str, sigma: float) -> float:
    """Variance of one estimator over that of another, with two noise samples."""
    at = {r["estimator"]: r["variance"] for r in variance if r["sigma"] == sigma and r["n"] == 2}
    return at[one] / at[other]


def _measured(variance: list[dict], bias: list[dict], identity: float, objects: dict[str, str]) -> str:
    """The numbers in words."""
    first, last = bias[0], bias[-1]
    ratios = {
        f"{one} over {other}": " and ".join(f"{_ratio(variance, one, other, s):.2g}" for s in (SIGMAS[0], SIGMAS[-1]))
        for one, other in (("Eq. 15", "Eq. 16"), ("Eq. 16", "auto"), ("Eq. 16", "antithetic"))
    }
    return (
        f"Variance with two noise samples at sigma {SIGMAS[0]:g} and {SIGMAS[-1]:g}: "
        + ", ".join(f"{name} {values}" for name, values in ratios.items())
        + f". The PAAS mean is not the score at sqrt(2) sigma: on an exact mixture of 24 pictures they differ by "
        f"{first['difference']:.0%} of it at sigma {first['sigma']:g} and {last['difference']:.1%} at sigma "
        f"{last['sigma']:g}. The identity p_(sqrt 2 sigma)(x) = E p_sigma(x + sigma n) holds to {identity:.1e} (Monte "
        f"Carlo, 2 dimensions). In 3D at equal evaluations: "
        + ", ".join(f"{name} {values} dB" for name, values in objects.items())
        + "."
    )


def _rendering() -> Tensor:
    """What a half-finished object looks like: the true picture, blurred and dimmed, over grey, [1, 3, size, size]."""
    layers = render_views("mushroom", direction_cameras()[VIEW : VIEW + 1])
    colours = torch.tensor([COLOURS["red"], OBJECTS["mushroom"].second(), (0.5, 0.5, 0.5)])
    true = layers.paint(*colours) * 2 - 1
    return 0.6 * torch.nn.functional.avg_pool2d(true, 9, stride=1, padding=4, count_include_pad=False)


@torch.no_grad()
def _variances(context: Context) -> list[dict[str, Any]]:
    """Variance a pixel of the estimated score, from disjoint groups of the same noised copies."""
    x = _rendering().to(context.device)
    condition = context.model.encode(["front left view of a red mushroom"])
    pool = context.pick(512, 16)
    rows = []
    for sigma in SIGMAS:
        generator = torch.Generator().manual_seed(context.seeds[0])
        half = draw_noise(x, pool // 2, False, generator=generator)
        noise = torch.stack([half, -half], dim=2).flatten(1, 2)  # pairs side by side
        answers = _denoise(context, x, sigma, condition, noise)
        for name, (coefficient, paired) in ESTIMATORS.items():
            for n in SAMPLES:
                if n > pool // 8 or (paired and n < 2) or (name == "auto" and n < 2):
                    continue
                order = _groups(pool, n, paired)
                level = torch.tensor([sigma], device=x.device)
                scores = torch.cat([combine(x, level, answers[:, g], noise[:, g], coefficient, paired) for g in order])
                rows.append({"estimator": name, "sigma": sigma, "n": n, "variance": float(scores.var(dim=0).mean())})
    return rows


def _groups(pool: int, n: int, paired: bool) -> list[Tensor]:
    """Disjoint groups of n copies out of mirrored neighbours (0, 1), (2, 3), …: whole pairs, or one of each pair."""
    if paired:
        pairs = torch.arange(pool).reshape(-1, n // 2, 2)
        return [g.T.flatten() for g in pairs]  # the mirrored half last
    return list(torch.arange(0, pool, 2).reshape(-1, n))


def _denoise(context: Context, x: Tensor, sigma: float, condition: Tensor, noise: Tensor) -> Tensor:
    """D of every copy, [1, N, C, H, W], in batches."""
    parts = []
    for chunk in noise[0].split(32):
        level = torch.full((len(chunk),), sigma, device=x.device)
        parts.append(context.model.denoise(x + sigma * chunk, level, condition.expand(len(chunk), -1, -1)))
    return torch.cat(parts)[None]


def _biases(context: Context) -> list[dict[str, Any]]:
    """Distance between the PAAS mean and the exact score at sqrt(2) sigma, as a share of the latter."""
    layers = render_views("mushroom", direction_cameras())
    colours = torch.tensor([COLOURS["red"], OBJECTS["mushroom"].second(), (0.5, 0.5, 0.5)])
    model = MixtureModel(layers.paint(*colours) * 2 - 1)
    x, condition = _rendering(), model.encode([""])
    rows = []
    for sigma in (0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0):
        generator = torch.Generator().manual_seed(0)
        samples = context.pick(256, 16)
        mean = paas_score(
            model, x, sigma, condition, noise_samples=samples, guidance=1.0, antithetic=True, generator=generator
        )
        wide = 2**0.5 * sigma
        true = (model.denoise(x, torch.tensor([wide]), condition) - x) / wide**2
        cosine = torch.nn.functional.cosine_similarity(mean.flatten(), true.flatten(), dim=0)
        rows.append(
            {
                "sigma": sigma,
                "difference": float((mean - true).norm() / true.norm()),
                "scale": float(mean.norm() / true.norm()),
                "cosine": float(cosine),
            }
        )
    return rows


def _identity() -> float:
    """Relative error of a Monte Carlo estimate of ``p_{sqrt(2) sigma}(x) = E_n[p_sigma(x + sigma n)]``, in 2D."""
    points = torch.tensor([[-1.0, 0.5], [0.8, 0.2], [0.1, -0.9]])
    x, sigma = torch.tensor([0.3, 0.1]), 0.5
    density = lambda at, s: (  # noqa: E731
        (-(at[:, None] - points).square().sum(dim=-1) / (2 * s**2)).exp().mean(dim=1) / (2 * math.pi * s**2)
    )
    noise = torch.randn(2_000_000, 2, generator=torch.Generator().manual_seed(0))
    exact = density(x[None], 2**0.5 * sigma)
    return float((density(x + sigma * noise, sigma).mean() / exact - 1).abs())


def _objects(context: Context) -> list[dict[str, Any]]:
    """The same object from as many evaluations, by estimator and number of samples."""
    variants: dict[str, tuple[int, dict[str, Any]]] = {
        "Eq. 15, n=1": (1, {"estimator": "eq15", "antithetic": False}),
        "Eq. 16, n=1": (1, {"estimator": "eq16", "antithetic": False}),
        "auto, n=2": (2, {"estimator": "auto", "antithetic": False}),
        "antithetic, n=2": (2, {"estimator": "eq16", "antithetic": True}),
        "antithetic, n=8": (8, {"estimator": "eq16", "antithetic": True}),
    }
    rows = []
    for name, (n, score) in variants.items():
        for seed in context.seeds:
            changes = {"noise_samples": n, "steps": 800 // n, "score": score}
            judged = make(context, config_for(context, "a red mushroom", seed, changes))[1][-1]
            rows.append({"variant": name, "seed": seed, **judged})
        context.say(f"  {name}: {told(r['psnr'] for r in rows if r['variant'] == name)} dB")
    return rows


def _draw(figure: Any, variance: list[dict], bias: list[dict], objects: list[dict]) -> None:
    top, bottom = figure.subfigures(2, 1)
    for ax, sigma in zip(top.subplots(1, len(SIGMAS)), SIGMAS, strict=True):
        for name in ESTIMATORS:
            mine = [r for r in variance if r["estimator"] == name and r["sigma"] == sigma]
            ax.loglog([r["n"] for r in mine], [r["variance"] for r in mine], "o-", ms=3, label=name)
        ax.set(title=f"sigma {sigma:g}", xlabel="noise samples n")
        ax.grid(alpha=0.3)
    top.axes[0].set_ylabel("variance of the score, a pixel")
    top.axes[0].legend(fontsize=8)
    left, right = bottom.subplots(1, 2)
    left.loglog([r["sigma"] for r in bias], [r["difference"] for r in bias], "o-", label="|PAAS - score| / |score|")
    left.loglog([r["sigma"] for r in bias], [max(1e-6, 1 - r["cosine"]) for r in bias], "s--", label="1 - cosine")
    left.set(xlabel="sigma", title="PAAS mean against the exact score at sqrt(2) sigma")
    left.legend(fontsize=8)
    left.grid(alpha=0.3)
    for i, name in enumerate(dict.fromkeys(r["variant"] for r in objects)):
        mean, half = interval(r["psnr"] for r in objects if r["variant"] == name)
        right.barh(name, mean, xerr=half, color=f"C{i}", capsize=3)
    right.set(xlabel="PSNR at held-out views, dB", title="3D at equal evaluations")
    right.invert_yaxis()
