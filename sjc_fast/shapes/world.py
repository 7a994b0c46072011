"""The exact denoiser without words: the posterior mean over every scene that the embedded model was taught."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .dataset import direction_cameras, render_views
from .exact import GRAY, TINT, posterior_background
from .objects import COLORS, OBJECTS
from .scenes import Layers


class Group(NamedTuple):
    """An object from one direction, in K combinations of colors."""

    lit: Tensor  # [K, 3 pixels] float64: the object over nothing, in [-1, 1]
    clear: Tensor  # [pixels]: where the background shows
    prior: Tensor  # [K]: log probabilities, up to a constant of all groups


class ExactWorld:
    """Pictures ``lit + clear * b`` with every object, direction and colors, as often as in training.

    As in `ExactScenes`, the plain background b is taken as a Gaussian of the same mean and covariance, so that
    everything has a closed form.

    Args:
        names: objects to take in; default all.
        directions: indices of the directions to take in; default all.
    """

    def __init__(self, names: tuple[str, ...] = tuple(OBJECTS), directions: slice = slice(None)) -> None:
        self.views = {name: render_views(name, direction_cameras()[directions]) for name in names}

    @torch.no_grad()
    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Posterior mean of the clean picture.

        Args:
            x: noisy pictures, [B, 3, size, size].
            sigma: noise levels, [B].

        Returns:
            Like `x`.
        """
        flat = x.double().flatten(1)
        logits = self._logits(flat, sigma)
        total = torch.cat(logits, dim=1).logsumexp(dim=1)
        answer = torch.zeros_like(flat)
        for group, logit in zip(self._groups(), logits, strict=True):
            weight = (logit - total[:, None]).exp()
            if float(weight.max()) > 1e-9:
                means = weight[..., None] * _backgrounds(flat, sigma.double(), group)
                shown = means.sum(dim=1)[..., None] * group.clear  # [B, 3, pixels]
                answer += weight @ group.lit + shown.flatten(1)
        return answer.reshape(x.shape).to(x)

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Of noisy pictures, up to a constant of each sigma, [B] float64, with gradient."""
        return torch.cat(self._logits(x.double().flatten(1), sigma), dim=1).logsumexp(dim=1)

    def _logits(self, flat: Tensor, sigma: Tensor) -> list[Tensor]:
        """Joint log densities with every scene, [B, K] a group."""
        return [_log_densities(flat, sigma.double(), group) for group in self._groups()]

    def _groups(self) -> Iterator[Group]:
        """Made when they are needed: all of them would take gigabytes."""
        for name, layers in self.views.items():
            thing = OBJECTS[name]
            seconds = ["", *COLORS] if thing.accent else [""]  # half of the pictures have a second color
            prior = torch.tensor([0.5, *[0.5 / len(COLORS)] * len(COLORS)] if thing.accent else [1.0])
            colors = torch.tensor([[c, thing.second(s)] for c in COLORS.values() for s in seconds]).unbind(1)
            for i in range(len(layers.coverage)):
                view = Layers(*(getattr(layers, part)[i] for part in ("main", "accent", "fixed", "coverage")))
                lit = (2 * view.lit(*colors) - view.coverage).double().flatten(1)
                yield Group(lit, 1 - view.coverage.double().flatten(), prior.double().log().repeat(len(COLORS)))


def _seen(x: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Least squares of the background, [B, K, 3], and the pixels that show it."""
    pixels = group.clear.square().sum()
    dots = [(t.unflatten(1, (3, -1)) * group.clear).sum(dim=2) / pixels for t in (x, group.lit)]
    return dots[0][:, None] - dots[1], pixels


def _backgrounds(x: Tensor, sigma: Tensor, group: Group) -> Tensor:
    """Posterior means of the background, [B, K, 3]."""
    seen, pixels = _seen(x, group)
    return posterior_background(seen, sigma[:, None, None] ** 2 / pixels)


def _log_densities(x: Tensor, sigma: Tensor, group: Group) -> Tensor:
    """Joint log densities of noisy pictures and scenes, the background integrated out, [B, K]."""
    seen, pixels = _seen(x, group)
    variance = sigma[:, None] ** 2
    apart = x.square().sum(dim=1, keepdim=True) - 2 * x @ group.lit.T + group.lit.square().sum(dim=1)
    gray = seen.mean(dim=2).square() * 3
    tint = seen.square().sum(dim=2) - gray
    known, spread = torch.zeros(()), torch.zeros(())
    for square, prior, count in ((gray, GRAY, 1), (tint, TINT, 2)):
        ratio = prior * pixels / variance
        known = known + square * pixels * ratio / (1 + ratio)
        spread = spread + count * torch.log1p(ratio)
    return group.prior - (apart - known) / (2 * variance) - spread / 2
