"""Pictures from a score model alone: the sampler of Karras et al. (EDM, arXiv 2206.00364, Algorithm 2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .protocol import NetworkModel, ScoreModel


@dataclass(frozen=True)
class Sampler:
    """How the noise is taken away. Defaults: deterministic, second order, over the model's own noise levels."""

    steps: int = 32
    rho: float = 7.0
    """Bend of the schedule; larger means shorter steps at low noise."""
    low: float | None = None
    """Smallest sigma; default the model's."""
    high: float | None = None
    """Largest sigma; default the model's."""
    heun: bool = True
    """Correct every step by the derivative at its end (second order, two evaluations a step); else Euler."""
    churn: float = 0.0
    """S_churn: how much new noise is added on the way; 0 is the probability-flow ODE."""
    churn_noise: float = 1.0
    """S_noise: standard deviation of that noise."""

    def levels(self, sigmas: Tensor) -> Tensor:
        """Noise levels from the largest to 0, [steps + 1] (Eq. 5)."""
        low = float(sigmas[0]) if self.low is None else self.low
        high = float(sigmas[-1]) if self.high is None else self.high
        if self.steps < 1 or not 0 < low <= high:
            raise UserError(
                f"sampling needs at least one step and 0 < low <= high, not {self.steps}, {low:g}, {high:g}"
            )
        fraction = torch.linspace(0, 1, self.steps, dtype=torch.float64)
        ends = high ** (1 / self.rho), low ** (1 / self.rho)
        return torch.cat([(ends[0] + fraction * (ends[1] - ends[0])) ** self.rho, torch.zeros(1)]).float()


@torch.no_grad()
def guided(model: ScoreModel, x: Tensor, sigma: float, condition: Tensor, guidance: float, empty: Tensor) -> Tensor:
    """``D_uncond + guidance (D_cond - D_uncond)`` at one noise level; one evaluation where guidance is 1."""
    level = torch.full((len(x),), sigma, device=x.device)
    if guidance == 1:
        return model.denoise(x, level, condition)
    both = torch.cat([condition, empty.expand_as(condition)])
    cond, uncond = model.denoise(torch.cat([x, x]), torch.cat([level, level]), both).float().chunk(2)
    return uncond + guidance * (cond - uncond)


@torch.no_grad()
def sample_steps(
    model: ScoreModel,
    prompts: list[str],
    sampler: Sampler | None = None,
    *,
    guidance: float = 1.0,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
    c2w: Tensor | None = None,
) -> Iterator[tuple[float, Tensor]]:
    """Sample one picture a prompt, yielding (sigma, x) after every step; the last sigma is 0.

    Args:
        model: the score model.
        prompts: B prompts.
        guidance: classifier-free guidance scale.
        generator: where the noise comes from, on the CPU.
        start: noise to begin with, [B, C, size, size] of unit variance.
        c2w: cameras of the pictures, [B, 4, 4], for a multi-view model.

    Raises:
        UserError: the sampler's settings make no schedule.
    """
    sampler = sampler or Sampler()
    levels = sampler.levels(model.sigmas).tolist()
    condition, empty = model.encode(prompts), model.encode([""])
    if isinstance(model, NetworkModel) and model.views > 1:  # as many views of one object as it scores at once
        if len(prompts) % model.views:
            views = model.views
            raise UserError(f"{model.name} makes {views} views at once: ask for a multiple of {views} pictures")
        if c2w is None:
            raise UserError(f"{model.name} makes views of an object: say from which cameras")
        c2w = c2w.to(condition.device)
        empty = empty.expand(len(prompts), *empty.shape[1:])
        condition, empty = (model.place_cameras(words, c2w) for words in (condition, empty))
    shape = (len(prompts), model.channels, model.size, model.size)
    normal = lambda: torch.randn(shape, generator=generator).to(condition.device)  # noqa: E731
    x = levels[0] * (normal() if start is None else start.to(condition.device))

    def derivative(x: Tensor, t: float) -> Tensor:  # dx/dt of the probability-flow ODE at sigma = t (Eq. 3)
        return (x - guided(model, x, t, condition, guidance, empty)) / t

    gamma = min(sampler.churn / sampler.steps, 2**0.5 - 1)
    for t_cur, t_next in pairwise(levels):
        t_hat = min(t_cur * (1 + gamma), max(levels[0], t_cur))  # not above what the model knows
        if t_hat > t_cur:
            x = x + (t_hat**2 - t_cur**2) ** 0.5 * sampler.churn_noise * normal()
        d_cur = derivative(x, t_hat)
        x_next = x + (t_next - t_hat) * d_cur
        if sampler.heun and t_next > 0:
            d_prime = derivative(x_next, t_next)
            x_next = x + (t_next - t_hat) * (d_cur + d_prime) / 2
        x = x_next
        yield t_next, x


def sample(model: ScoreModel, prompts: list[str], sampler: Sampler | None = None, **options: Any) -> Tensor:
    """The pictures at the end of `sample_steps`, [B, C, size, size]."""
    for _, x in sample_steps(model, prompts, sampler, **options):  # noqa: B007
        pass
    return x
