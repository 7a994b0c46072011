"""Sums of a few small tensors in Triton; what they are for: `sjc_fast.kernels.measure`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def measure_kernel(
    sigma,
    opacity,
    emptiness,
    update,
    sums,
    out,  # [5]
    views,
    pixels,  # of all views
    numbers,  # of the update
    parts,  # of sums
    BLOCK: tl.constexpr,
):
    """All of it, by a single program: the largest tensor is as large as the rendered views."""
    tl.store(out, sum_of(sigma, views, False, BLOCK) / views)
    tl.store(out + 1, sum_of(opacity, pixels, False, BLOCK) / pixels)
    tl.store(out + 2, sum_of(emptiness, views, False, BLOCK) / views)
    tl.store(out + 3, tl.sqrt_rn(sum_of(update, numbers, True, BLOCK) / numbers))
    tl.store(out + 4, sum_of(sums, parts, False, BLOCK))


@triton.jit
def sum_of(x, count, SQUARE: tl.constexpr, BLOCK: tl.constexpr):
    """The sum of so many numbers, or of their squares."""
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)
        value = tl.load(x + i, i < count, other=0.0)
        total += value * value if SQUARE else value
    return tl.sum(total)
