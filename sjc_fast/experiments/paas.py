"""Perturb-and-average scoring: its variance, its bias, and what either costs in 3D."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..paas import Coefficient, average_scores, draw_noise, paas_score
from ..scores.mixture import MixtureModel
from ..scores.sampling import guided
from ..shapes.dataset import direction_cameras, render_views
from ..shapes.prompts import ParsedPrompt
from .context import Context
from .known import GRAY, KnownScenes
from .report import Finding, draw_intervals
from .runs import config_for, make, steps_for
from .statistics import all_hold, format_ci, mean_exceeds, paired_difference, table_of, values_of

SIGMAS = (0.3, 1.0, 3.0, 8.0)
SAMPLES = (1, 2, 4, 8, 16, 32, 64)
ESTIMATORS: dict[str, tuple[Coefficient, bool]] = {
    "Eq. 15": (1.0, False),
    "Eq. 16": (0.0, False),
    "auto": ("auto", False),
    "antithetic": (0.0, True),
}


def run(context: Context) -> Finding:
    """Variance with the network; bias with an exact score; objects at equal evaluations."""
    variance = [row for sigma in SIGMAS for row in _variances(context, sigma)]
    context.say("  variances done")
    bias, identity = _biases(context), _identity()
    objects = _objects(context)
    of = {name: values_of(objects, context.quality, variant=name) for name in variants()}
    gain = paired_difference(of["Eq. 16, n=1"], of["Eq. 15, n=1"])
    pairs, many = (paired_difference(of[f"antithetic, n={n}"], of["Eq. 16, n=1"]) for n in (2, 8))
    return Finding(
        "Averaging over noise gives a score at a clean rendering; subtracting the noise (Eq. 16) lowers its variance, "
        "and so helps (Eq. 13 to 18). Asked beside it: how near this is to the score at sqrt(2) sigma.",
        _measured(variance, bias, identity)
        + f" In 3D at equal evaluations ({context.label}; table): Eq. 16 less Eq. 15, one noise sample, same seed, "
        f"{format_ci(gain, 2)}. Variance that is paid for with fewer steps: antithetic pairs less Eq. 16 with one "
        f"sample, {format_ci(pairs, 2)} with two samples, {format_ci(many, 2)} with eight.",
        all_hold(min(_ratio(variance, "Eq. 15", "Eq. 16", sigma) for sigma in SIGMAS) > 1, mean_exceeds(gain)),
        {"variance": variance, "bias": bias, "identity": identity, "objects": objects},
        lambda figure: _draw(figure, context, variance, bias, objects),
        (11, 7),
        table_of(objects, context.judge.labels),
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
        + f". Bias: the means differ from that of other noise by at most {max(r['bias'] for r in variance):.1f} "
        "standard errors. On an exact mixture of 24 pictures, the PAAS mean points where the score at sqrt(2) sigma "
        f"points (cosine at least {turned['cosine']:.3f}, at sigma {turned['sigma']:g}; {turned['twice']:.3f} between "
        f"two halves of the noise) and is {min(lengths):.2f} to {max(lengths):.2f} times as long. The identity "
        f"p_(sqrt 2 sigma)(x) = E p_sigma(x + sigma n) holds to {identity:.1e} (Monte Carlo, 2 dimensions)."
    )


@torch.no_grad()
def _variances(context: Context, sigma: float) -> list[dict[str, Any]]:
    """Variance a pixel of the estimated score, from disjoint groups of the same noised copies.

    And its bias in standard errors: of the groups' mean, from the mean of all pairs of other noise.
    """
    x, words = context.judge.unfinished()
    x, words = x.to(context.device), context.model.encode([words])
    pool, level = context.pick(512, 16), torch.tensor([sigma], device=x.device)
    noise, answers = _copies(context, x, sigma, words, pool, context.seeds[0])
    other, theirs = _copies(context, x, sigma, words, pool, context.seeds[0] + 1000)
    pairs = _scores(x, level, theirs, other, _groups(pool, 2, True), 0.0, True)
    rows = []
    for name, (coefficient, paired) in ESTIMATORS.items():
        for n in SAMPLES:
            if n > pool // 8 or (n < 2 and (paired or name == "auto")):
                continue
            scores = _scores(x, level, answers, noise, _groups(pool, n, paired), coefficient, paired)
            error = (scores.mean(dim=0) - pairs.mean(dim=0)).square().mean().sqrt()
            chance = (_variance(scores) / len(scores) + _variance(pairs) / len(pairs)) ** 0.5
            row = {"estimator": name, "sigma": sigma, "n": n, "variance": _variance(scores)}
            rows.append(row | {"bias": float(error) / max(chance, 1e-12)})
    return rows


def _variance(scores: Tensor) -> float:
    return float(scores.var(dim=0).mean())


def _scores(
    x: Tensor,
    level: Tensor,
    answers: Tensor,
    noise: Tensor,
    groups: list[Tensor],
    coefficient: Coefficient,
    paired: bool,
) -> Tensor:
    """The estimate of every group, [groups, C, H, W]."""
    return torch.cat([average_scores(x, level, answers[:, g], noise[:, g], coefficient, paired) for g in groups])


def _copies(context: Context, x: Tensor, sigma: float, words: Tensor, pool: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise in pairs side by side, and guided D of x so noised, both [1, pool, C, H, W]."""
    half = draw_noise(x, pool // 2, False, generator=torch.Generator().manual_seed(seed))
    noise = torch.stack([half, -half], dim=2).flatten(1, 2)
    empty, parts = context.model.encode([""]), []
    for chunk in noise[0].split(32):
        condition = words.expand(len(chunk), *words.shape[1:])
        parts.append(guided(context.model, x + sigma * chunk, sigma, condition, context.base.guidance, empty))
    return noise, torch.cat(parts)[None]


def _groups(pool: int, n: int, paired: bool) -> list[Tensor]:
    """Disjoint groups of n copies out of mirrored neighbors (0, 1), (2, 3), …: whole pairs, or one of each pair."""
    if paired:
        pairs = torch.arange(pool).reshape(-1, n // 2, 2)
        return [g.T.flatten() for g in pairs]  # the mirrored half last
    return list(torch.arange(0, pool, 2).reshape(-1, n))


def _biases(context: Context) -> list[dict[str, Any]]:
    """The PAAS mean against the exact score at sqrt(2) sigma, which is that of 24 known pictures, whatever the model.

    "twice" is the cosine between the means of two halves of the noise: 1 where chance plays no part.
    """
    layers = render_views("mushroom", direction_cameras())
    model = MixtureModel(layers.paint(*ParsedPrompt("mushroom", "red").colors(), background=GRAY) * 2 - 1)
    x, condition = KnownScenes().unfinished()[0], model.encode([""])
    options = {"noise_samples": context.pick(256, 16), "guidance": 1.0, "antithetic": True}
    rows = []
    for sigma in (0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0):
        generator = torch.Generator().manual_seed(0)
        one, other = (paas_score(model, x, sigma, condition, generator=generator, **options) for _ in range(2))
        mean, wide = (one + other) / 2, 2**0.5 * sigma
        true = (model.denoise(x, torch.tensor([wide]), condition) - x) / wide**2
        row = {"sigma": sigma, "difference": float((mean - true).norm() / true.norm())}
        row |= {"scale": float(mean.norm() / true.norm()), "cosine": _cosine(mean, true), "twice": _cosine(one, other)}
        rows.append(row)
    return rows


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


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


def variants() -> dict[str, dict[str, Any]]:
    """Settings by name: estimator and number of noise samples."""
    table = {
        "Eq. 15, n=1": (1, {"estimator": "eq15", "antithetic": False}),
        "Eq. 16, n=1": (1, {"estimator": "eq16", "antithetic": False}),
        "auto, n=2": (2, {"estimator": "auto", "antithetic": False}),
        "antithetic, n=2": (2, {"estimator": "eq16", "antithetic": True}),
        "antithetic, n=8": (8, {"estimator": "eq16", "antithetic": True}),
    }
    return {name: {"noise_samples": n, "score": score | {"weighting": "sigma"}} for name, (n, score) in table.items()}


def _objects(context: Context) -> list[dict[str, Any]]:
    """The same object from as many evaluations by every variant and seed."""
    rows = []
    (prompt,) = context.judge.prompts("a red mushroom")
    for name, changes in variants().items():
        steps = {"steps": steps_for(context, changes["noise_samples"])}
        for seed in context.seeds:
            made = make(context, config_for(context, prompt, seed, changes | steps))
            rows.append({"variant": name, "seed": seed, **made[-1]})
        context.say(f"  {name}: {format_ci(values_of(rows, context.quality, variant=name), 2)}")
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
