"""Families of diffusion models as rows of numbers: how a network's raw answer becomes the denoiser D.

As in EDM (Karras et al., arXiv 2206.00364, Eq. 7), for noisy images ``z = x + sigma n``:

    D(z; sigma) = c_skip z + c_out F(c_in z; c_noise)

with F the network's raw answer. A family is a noise law and what the network predicts. The laws:

    beta    sigma^2 = (1 - alpha_bar) / alpha_bar of a table of ticks; the network sees sqrt(alpha_bar) z
    flow    z_t = (1 - t) x + t n, so that t = sigma / (1 + sigma); the network sees (1 - t) z
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.paas import Coefficients


class Family(NamedTuple):
    """Functions of sigma, [B] float64 to [B] float64."""

    c_in: Callable[[Tensor], Tensor]
    c_skip: Callable[[Tensor], Tensor]
    c_skip_less_one: Callable[[Tensor], Tensor]
    c_out: Callable[[Tensor], Tensor]


def _variance(s: Tensor) -> Tensor:
    """1 + sigma^2."""
    return 1 + s**2


#: Every family by noise law and prediction; predictions as diffusers names them. A new family is a row.
FAMILIES: dict[tuple[str, str], Family] = {
    ("beta", "epsilon"): Family(
        c_in=lambda s: _variance(s).rsqrt(),
        c_skip=torch.ones_like,
        c_skip_less_one=torch.zeros_like,
        c_out=lambda s: -s,
    ),
    ("beta", "v_prediction"): Family(
        c_in=lambda s: _variance(s).rsqrt(),
        c_skip=lambda s: 1 / _variance(s),
        c_skip_less_one=lambda s: -(s**2) / _variance(s),
        c_out=lambda s: -s * _variance(s).rsqrt(),
    ),
    ("beta", "sample"): Family(
        c_in=lambda s: _variance(s).rsqrt(),
        c_skip=torch.zeros_like,
        c_skip_less_one=lambda s: -torch.ones_like(s),
        c_out=torch.ones_like,
    ),
    ("flow", "velocity"): Family(  # F predicts n - x
        c_in=lambda s: 1 / (1 + s),
        c_skip=lambda s: 1 / (1 + s),
        c_skip_less_one=lambda s: -s / (1 + s),
        c_out=lambda s: -s / (1 + s),
    ),
}


def predictions(law: str) -> tuple[str, ...]:
    """What networks of a noise law may predict."""
    return tuple(prediction for known, prediction in FAMILIES if known == law)


@dataclass(frozen=True)
class Preconditioning:
    """The numbers of one model.

    Args:
        law, prediction: a key of `FAMILIES`.
        sigmas: the model's noise levels, ascending, [ticks] float32.
        timestep: of the law "beta", the "nearest" tick of the table in log sigma, or "interpolated" between two.
        timestep_scale: of the law "flow", what the network calls t = 1.

    Raises:
        ValueError: no such family.
    """

    law: str
    prediction: str
    sigmas: Tensor
    timestep: str = "nearest"
    timestep_scale: float = 1000.0

    def __post_init__(self) -> None:
        if (self.law, self.prediction) not in FAMILIES:
            raise ValueError(f"no family of the law {self.law!r} predicts {self.prediction!r}")

    @functools.cached_property
    def _log_sigmas(self) -> Tensor:
        return self.sigmas.log()

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Of noise levels [B], on their device: float32, but for c_noise, which may be int64.

        They are computed in float64: float32 numbers near 1 lose what is left of 1.
        """
        family, s = FAMILIES[self.law, self.prediction], sigma.double()
        return Coefficients(
            family.c_in(s).float(),
            family.c_skip(s).float(),
            family.c_skip_less_one(s).float(),
            family.c_out(s).float(),
            self.c_noise(sigma),
        )

    def c_noise(self, sigma: Tensor) -> Tensor:
        """What the network is told of noise levels [B]: ticks, or t times the scale."""
        if self.law == "flow":
            return (self.time(sigma) * self.timestep_scale).float()
        tick = self.time(sigma)
        return tick.float() if self.timestep == "interpolated" else tick.round().long()

    def time(self, sigma: Tensor) -> Tensor:
        """t of noise levels [B]: a fractional tick of the table ("beta"), or in [0, 1) ("flow")."""
        if self.law == "flow":
            return sigma.double() / (1 + sigma.double())
        table = self._log_sigmas.to(sigma.device)
        level = sigma.to(table).log()
        above = torch.searchsorted(table, level.contiguous()).clamp(1, len(table) - 1)
        low, high = table[above - 1], table[above]
        return above - 1 + ((level - low) / (high - low)).clamp(0, 1)
