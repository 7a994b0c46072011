"""Perturb-and-average scoring: its variance, its bias, and what either costs in 3D."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..paas import combine, draw_noise, paas_score
from ..scores.mixture import MixtureModel
from ..shapes.dataset import direction_cameras, render_views
from ..shapes.prompts import Asked
from .frame import Context, Finding, draw_intervals, interval, table_of, told, values_of
from .known import GREY, KnownScenes
from .objects import config_for, make, steps_for

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
    variance = _variances(context)
    context.say("  variances done")
    bias, identity = _biases(context), _identity()
    objects = _objects(context)
    pair = (values_of(objects, context.quality, variant=name) for name in ("Eq. 16, n=1", "Eq. 15, n=1"))
    gap = [a - b for a, b in zip(*pair, strict=True)]
    mean, half = interval(gap)
    return Finding(
        "Averaging over noise gives the score at a clean rendering, approximately that at sqrt(2) sigma; subtracting "
        "the noise (Eq. 16) lowers the variance, and so helps (Eq. 13 to 18).",
        _measured(variance, bias, identity)
        + f" In 3D at equal evaluations (table), Eq. 16 less Eq. 15, both n = 1 and the same seed: {told(gap, 2)} dB.",
        _ratio(variance, "Eq. 15", "Eq. 16", SIGMAS[-1]) > 1 and mean - half > 0,
        {"variance": variance, "bias": bias, "identity": identity, "objects": objects},
        lambda figure: _draw(figure, context, variance, bias, objects),
        (11, 7),
        table_of(objects, context.stage.labels),
    )


def _ratio(variance: list[dict[str, Any]], one: str, other: str, sigma: float) -> float:
    """Variance of one estimator over that of another, with two noise samples."""
    at = {r["estimator"]: r["variance"] for r in variance if r["sigma"] == sigma and r["n"] == 2}
    return at[one] / at[other]


def _measured(variance: list[dict], bias: list[dict], identity: float) -> str:
    """The numbers in words, but for objects."""
    ratios = {
        f"{one} over {other}": " and ".join(f"{_ratio(variance, one, other, s):.2g}" for s in (SIGMAS[0], SIGMAS[-1]))
        for one, other in (("Eq. 15", "Eq. 16"), ("Eq. 16", "auto"), ("Eq. 16", "antithetic"))
    }
    turned = min(bias, key=lambda r: r["cosine"])
    lengths = [r["scale"] for r in bias]
    return (
        f"Variance with two noise samples at sigma {SIGMAS[0]:g} and {SIGMAS[-1]:g}: "
        + ", ".join(f"{name} {values}" for name, values in ratios.items())
        + f". Bias: no estimator's mean is farther from that of all pairs than {max(r['bias'] for r in variance):.1f} "
        "standard errors. On an exact mixture of 24 pictures, the PAAS mean points where the score at sqrt(2) sigma "
        f"points (cosine at least {turned['cosine']:.3f}, at sigma {turned['sigma']:g}) and is {min(lengths):.2f} to "
        f"{max(lengths):.2f} times as long. The identity p_(sqrt 2 sigma)(x) = E p_sigma(x + sigma n) holds to "
        f"{identity:.1e} (Monte Carlo, 2 dimensions)."
    )


@torch.no_grad()
def _variances(context: Context) -> list[dict[str, Any]]:
    """Variance a pixel of the estimated score, from disjoint groups of the same noised copies.

    And its bias in standard errors: of the groups' mean, from the mean of all pairs.
    """
    x, words = context.stage.unfinished()
    x, condition = x.to(context.device), context.model.encode([words])
    pool = context.pick(512, 16)
    rows = []
    for sigma in SIGMAS:
        generator = torch.Generator().manual_seed(context.seeds[0])
        half = draw_noise(x, pool // 2, False, generator=generator)
        noise = torch.stack([half, -half], dim=2).flatten(1, 2)  # pairs side by side
        answers = _denoise(context, x, sigma, condition, noise)
        level = torch.tensor([sigma], device=x.device)
        truth = combine(x, level, answers, noise, 0.0)
        for name, (coefficient, paired) in ESTIMATORS.items():
            for n in SAMPLES:
                if n > pool // 8 or (paired and n < 2) or (name == "auto" and n < 2):
                    continue
                order = _groups(pool, n, paired)
                scores = torch.cat([combine(x, level, answers[:, g], noise[:, g], coefficient, paired) for g in order])
                variance = scores.var(dim=0).mean()
                error = (scores.mean(dim=0) - truth).square().mean().sqrt()
                bias = float(error / (variance / len(scores)).sqrt())
                rows.append({"estimator": name, "sigma": sigma, "n": n, "variance": float(variance), "bias": bias})
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
    """Distance between the PAAS mean and the exact score at sqrt(2) sigma, as a share of the latter.

    The score is that of 24 known pictures, whatever the model.
    """
    layers = render_views("mushroom", direction_cameras())
    model = MixtureModel(layers.paint(*Asked("mushroom", "red").colours(), GREY) * 2 - 1)
    x, condition = KnownScenes(context.model).unfinished()[0], model.encode([""])
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
    (prompt,) = context.stage.prompts("a red mushroom")
    for name, (n, score) in variants.items():
        for seed in context.seeds:
            changes = {"noise_samples": n, "steps": steps_for(context, n), "score": score}
            judged = make(context, config_for(context, prompt, seed, changes))[1][-1]
            rows.append({"variant": name, "seed": seed, **judged})
        context.say(f"  {name}: {told(values_of(rows, context.quality, variant=name), 2)}")
    return rows


def _draw(figure: Any, context: Context, variance: list[dict], bias: list[dict], objects: list[dict]) -> None:
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
    left.loglog([r["sigma"] for r in bias], [r["scale"] for r in bias], "^:", label="|PAAS| / |score|")
    left.set(xlabel="sigma", title="PAAS mean against the exact score at sqrt(2) sigma")
    left.legend(fontsize=8)
    left.grid(alpha=0.3)
    draw_intervals(right, objects, context.quality, context.label)
    right.set(title="3D at equal evaluations")
