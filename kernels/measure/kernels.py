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
    out,  # [objects, 5]
    views,  # of an object, as the others
    pixels,  # of all its views
    numbers,  # of the update
    parts,  # of sums
    BLOCK: tl.constexpr,
):
    """All of an object, by a single program: the largest tensor is as large as its rendered views."""
    which = tl.program_id(0).to(tl.int64)
    out += which * 5
    tl.store(out, sum_of(sigma + which * views, views, False, BLOCK) / views)
    tl.store(out + 1, sum_of(opacity + which * pixels, pixels, False, BLOCK) / pixels)
    tl.store(out + 2, sum_of(emptiness + which * views, views, False, BLOCK) / views)
    tl.store(out + 3, tl.sqrt_rn(sum_of(update + which * numbers, numbers, True, BLOCK) / numbers))
    tl.store(out + 4, sum_of(sums + which * parts, parts, False, BLOCK))


@triton.jit
def sum_of(x, count, SQUARE: tl.constexpr, BLOCK: tl.constexpr):
    """The sum of so many numbers, or of their squares."""
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)
        value = tl.load(x + i, i < count, other=0.0)
        total += value * value if SQUARE else value
    return tl.sum(total)
