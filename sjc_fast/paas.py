"""Perturb-and-average scoring (PAAS): the score of a noisy-image model at a clean rendering (paper, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from .scores.protocol import ScoreModel

Coefficient = float | Literal["auto"]
#: The paper's two estimators by name, and ours; DreamFusion's is Eq. 16 with the weight "sds".
ESTIMATORS: dict[str, Coefficient] = {"eq15": 1.0, "eq16": 0.0, "auto": "auto", "sds": 0.0}
#: What the score is multiplied by, functions of sigma. "sigma" is the paper's code, its update ``(D - x) / sigma``;
#: "sigma2" is ``D - x``; "one" the score itself. "sds" is DreamFusion's ``w(t) = 1 - alpha_bar(t)`` (arXiv 2209.14988,
#: Eq. 3) on top of "sigma", which with one noise sample and Eq. 16 makes noise minus predicted noise.
WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigma": lambda sigma: sigma,
    "sigma2": lambda sigma: sigma**2,
    "one": torch.ones_like,
    "sds": lambda sigma: sigma * (sigma**2 / (1 + sigma**2)),
}


def paas_score(
    model: ScoreModel,
    features: Tensor,
    sigma: float | Tensor,
    prompts: list[str] | str | Tensor,
    *,
    noise_samples: int = 8,
    guidance: float = 100.0,
    coefficient: Coefficient = 0.0,
    antithetic: bool = False,
    unconditional: Tensor | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Estimate the score at clean renderings from N noised copies of each, in one `denoise` call (Eq. 13-18).

        (1/N) sum_i (D(x + sigma n_i; sigma) - x - c sigma n_i) / sigma^2

    Its mean is the gradient of ``E_n[log p_sigma(x + sigma n)]`` whatever c is; c changes the variance only.

    Args:
        model: the score model.
        features: clean views x, [V, C, H, W]; they get no gradient.
        sigma: noise level, one for all or [V].
        prompts: one prompt, one a view, or rows that `model.encode` returned, [V, ...].
        noise_samples: N, noised copies a view.
        guidance: classifier-free guidance g in ``D_uncond + g (D_cond - D_uncond)``; 1 skips the unconditional half.
        coefficient: c. 1 is Eq. 15, 0 is Eq. 16, "auto" is the regression of ``D - x`` on ``sigma n``.
        antithetic: use pairs (n, -n); N must be even. Within a pair every c gives the same sum.
        unconditional: the encoded negative prompt, [1, ...]; default ``model.encode([""])``.
        noise: standard normal numbers to use, [V, N, C, H, W] (or N/2 of them with `antithetic`).
        generator: where the noise comes from otherwise.

    Returns:
        The score, [V, C, H, W] float32, detached.

    Raises:
        ValueError: N < 1, an odd N with `antithetic`, sigma <= 0, noise of the wrong shape, or a multi-view model
            (which wants cameras: train with it).
    """
    if getattr(model, "views", 1) > 1:
        raise ValueError(f"{model.name} scores several views with their cameras at once; train with it")
    x = features.detach().float()
    sigma = torch.as_tensor(sigma, dtype=torch.float32).expand(len(x)).to(x.device)
    if not bool((sigma > 0).all()):
        raise ValueError("sigma must be positive")
    condition = _encode(model, prompts, len(x)).to(x.device)
    if guidance == 1:
        unconditional = None
    elif unconditional is None:
        unconditional = model.encode([""])
    noise = draw_noise(x, noise_samples, antithetic, noise, generator)
    denoised = denoise_copies(model, x, sigma, condition, unconditional, guidance, noise)
    return average_scores(
        x, sigma, denoised, noise, "auto" if coefficient == "auto" else float(coefficient), antithetic
    )


def noise_shape(x: Tensor, samples: int, antithetic: bool) -> tuple[int, ...]:
    """Shape of the independent noise behind N copies of every view [V, C, H, W]; a mirrored pair shares one.

    Raises:
        ValueError: N < 1, or an odd N with `antithetic`.
    """
    if samples < 1:
        raise ValueError(f"at least one noise sample is needed, not {samples}")
    if antithetic and samples % 2:
        raise ValueError(f"antithetic noise comes in pairs: {samples} noise samples are odd")
    return (len(x), samples // 2 if antithetic else samples, *x.shape[1:])


def draw_noise(
    x: Tensor, samples: int, antithetic: bool, noise: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Noise for N copies of every view, [V, N, C, H, W]; with `antithetic`, the second half mirrors the first."""
    drawn = noise_shape(x, samples, antithetic)
    if noise is None:
        noise = torch.randn(drawn, generator=generator, device=generator.device if generator else x.device).to(x.device)
    elif noise.shape != drawn:
        raise ValueError(f"noise must be {list(drawn)}, not {list(noise.shape)}")
    noise = noise.to(x)
    return torch.cat([noise, -noise], dim=1) if antithetic else noise


def denoise_copies(
    model: ScoreModel,
    x: Tensor,  # [V, C, H, W]
    sigma: Tensor,  # [V]
    condition: Tensor,  # [V, ...]
    unconditional: Tensor | None,  # [1, ...]
    guidance: float | Tensor,
    noise: Tensor,  # [V, N, C, H, W]
    rescale: float = 0.0,
    together: int = 1,
) -> Tensor:
    """Guided D of every noised copy, [V, N, C, H, W] float32, from one call of batch V N (2 V N with guidance).

    Args:
        unconditional: [1, ...] for all, or [V, ...].
        guidance: one scale for all, or [V].
        rescale: how far the contrast of guided pictures is brought back; see `rescaled`.
        together: views that are one picture then.
    """
    copies = noise.shape[1]
    noisy = (x[:, None] + sigma[:, None, None, None, None] * noise).flatten(0, 1)
    level = sigma.repeat_interleave(copies)
    rows = condition.repeat_interleave(copies, dim=0)
    if unconditional is None:
        return model.denoise(noisy, level, rows).reshape(noise.shape)
    avoided = unconditional.to(rows).expand_as(condition).repeat_interleave(copies, dim=0)
    both = torch.cat([rows, avoided])
    cond, uncond = model.denoise(torch.cat([noisy, noisy]), torch.cat([level, level]), both).float().chunk(2)
    if isinstance(guidance, Tensor) and guidance.ndim:
        guidance = guidance.repeat_interleave(copies)[:, None, None, None]
    guided = (uncond + guidance * (cond - uncond)).reshape(noise.shape)
    return rescaled(guided, cond.reshape(noise.shape), rescale, together) if rescale else guided


def rescaled(guided: Tensor, plain: Tensor, rescale: float, together: int = 1) -> Tensor:
    """Guided pictures [V, N, C, H, W] with their contrast brought back to that of unguided ones, by a share.

    ``(rescale std(plain) / std(guided) + 1 - rescale) guided`` (Lin et al., arXiv 2305.08891, Eq. 15-16), each std over
    the pixels of `together` views that follow each other (as MVDream does).
    """
    of_guided, of_plain = (
        x.reshape(-1, together, *x.shape[1:]).std(dim=(1, 3, 4, 5)).repeat_interleave(together, dim=0) + 1e-8
        for x in (guided, plain)
    )
    return (rescale * of_plain / of_guided + 1 - rescale)[:, :, None, None, None] * guided


def average_scores(
    x: Tensor, sigma: Tensor, denoised: Tensor, noise: Tensor, coefficient: Coefficient, antithetic: bool = False
) -> Tensor:
    """Average noised copies into the score: Eq. 15 (c = 1), Eq. 16 (c = 0), or any c. Shapes as in `denoise_copies`."""
    s = sigma[:, None, None, None, None]
    difference = denoised - x[:, None]
    c: float | Tensor = 0.0
    if coefficient != "auto":
        c = float(coefficient)
    elif not antithetic:  # within a pair c n cancels, so there is nothing to fit
        c = regression_coefficient(difference, s * noise)
    return (difference - c * s * noise).mean(dim=1) / s[:, 0] ** 2


def regression_coefficient(difference: Tensor, perturbation: Tensor) -> Tensor:
    """The c that explains most of ``D - x`` by ``sigma n``: one scalar a view and copy, [V, N, 1, 1, 1].

    Fitted over all of C, H, W of the view's other copies where there are any, so that c is independent of the noise it
    multiplies and the estimate's mean stays exact.
    """
    dot = (difference * perturbation).sum(dim=(2, 3, 4), keepdim=True)
    power = perturbation.square().sum(dim=(2, 3, 4), keepdim=True)
    if difference.shape[1] == 1:
        return dot / power
    return (dot.sum(dim=1, keepdim=True) - dot) / (power.sum(dim=1, keepdim=True) - power)


def weigh(score: Tensor, sigma: Tensor, weighting: str) -> Tensor:
    """The trainer's update from a score [V, C, H, W] and sigma [V]: times a weight of `WEIGHTS`."""
    return score * WEIGHTS[weighting](sigma)[:, None, None, None]


def _encode(model: ScoreModel, prompts: list[str] | str | Tensor, views: int) -> Tensor:
    if isinstance(prompts, Tensor):
        return prompts
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if len(prompts) not in (1, views):
        raise ValueError(f"give one prompt, or one for each of the {views} views, not {len(prompts)}")
    encoded = model.encode(prompts)
    return encoded if len(encoded) == views else encoded.expand(views, *encoded.shape[1:])
