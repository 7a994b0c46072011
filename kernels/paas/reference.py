"""Network input and PAAS update line by line: the naive twin of the kernels, with the noise given."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from . import Coefficients


def perturb(x: Tensor, sigma: Tensor, c_in: Tensor, noise: Tensor, doubled: bool, patch: int) -> Tensor:
    """See `sjc_fast.kernels.paas.perturb`; `noise` [V, N, C, H, W] in the order of the copies."""
    noisy = _views(c_in) * (x[:, None] + _views(sigma) * noise)
    batch = pixel_unshuffle(noisy.flatten(0, 1), patch)
    return torch.cat([batch, batch]) if doubled else batch


def difference(
    x: Tensor,
    sigma: Tensor,
    coefficients: Coefficients,
    answer: Tensor,
    noise: Tensor,
    guidance: float | None,
    patch: int,
) -> Tensor:
    """D - x of every copy, [V, N, C, H, W]."""
    said = pixel_shuffle(answer, patch)
    if guidance is not None:
        cond, uncond = said.chunk(2)
        said = uncond + guidance * (cond - uncond)
    z = x[:, None] + _views(sigma) * noise
    return _views(coefficients.c_skip) * z + _views(coefficients.c_out) * said.reshape(noise.shape) - x[:, None]


def _views(number: Tensor) -> Tensor:
    return number[:, None, None, None, None]
