"""Counter-based noise: Philox-4x32-10 (Salmon et al. 2011), the same integers on every device and in every language.

The noise of a run is a pure function of (seed, step, index): nothing is stored, and any part can be drawn on its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of the product of two unsigned 32-bit numbers held in int64, without signed overflow."""
    low = (a & 0xFFFF) * b
    high = (a >> 16) * b + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """Ten rounds of Philox-4x32.

    Args:
        counter: unsigned 32-bit words held in int64, [..., 4].
        key: two unsigned 32-bit words.

    Returns:
        Random unsigned 32-bit words held in int64, [..., 4].
    """
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return torch.stack([c0, c1, c2, c3], dim=-1)


def normal(seed: int, step: int | Tensor, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal numbers of one step, [count] float32, by Box-Muller from Philox words.

    Number i comes from word i % 4 of the counter (i // 4, 0, step, 0) under the key (seed low, seed high).

    Args:
        seed: 0 <= seed < 2**64.
        step: which step of the run; an integer or a 0-dimensional integer tensor (which is never read on the host).
    """
    block = torch.arange(-(-count // 4), device=device)
    zero = torch.zeros_like(block)
    counter = torch.stack([block, zero, zero + step, zero], dim=-1)
    words = philox(counter, (seed & _MASK, seed >> 32))
    # 23 bits and a half: exact in float32, never 0 (the logarithm is finite) and never 1.
    unit = ((words >> 9).float() + 0.5) * 2.0**-23
    radius = (-2 * unit[:, 0::2].log()).sqrt()
    angle = (2 * math.pi) * unit[:, 1::2]
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1).reshape(-1)[:count]
