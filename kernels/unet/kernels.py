"""What a UNet does between its products and convolutions, in Triton; mathematics: `sjc_fast.kernels.unet`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def group_norm_kernel(
    x,  # [B, P, WIDTH]
    residual,  # [B, P, WIDTH] if RESIDUAL
    skip,  # [B, P, C - WIDTH] where C > WIDTH
    bias,  # [WIDTH] if BIAS
    shift,  # [B, WIDTH] if SHIFT
    weight,  # [C]
    offset,  # [C]
    total,  # [B, P, C] if STORE; may be x
    out,  # [B, P, C]
    pixels,
    epsilon,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,  # channels of a group
    RESIDUAL: tl.constexpr,
    BIAS: tl.constexpr,
    SHIFT: tl.constexpr,
    STORE: tl.constexpr,
    SILU: tl.constexpr,
    ONE: tl.constexpr,  # whether a group is a single block, which stays in registers
    BLOCK: tl.constexpr,
):
    """One group of one image; grid (groups, B)."""
    first, image = tl.program_id(0) * GROUP, tl.program_id(1)
    count = pixels * GROUP
    mean, spread, seen = 0.0, 0.0, 0.0  # of the blocks so far: sum of squared deviations, numbers
    value = tl.zeros([BLOCK], tl.float32)
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)
        mask = i < count
        value = gather_terms(
            x, residual, skip, bias, shift, image, pixels, i // GROUP, first + i % GROUP, mask,
            C, WIDTH, RESIDUAL, BIAS, SHIFT,
        )  # fmt: skip
        if STORE:
            where = (image * pixels + i // GROUP) * C + first + i % GROUP
            tl.store(total + where, value.to(total.dtype.element_ty), mask)
        numbers = tl.minimum(count - start, BLOCK).to(tl.float32)
        block_mean = tl.sum(value) / numbers
        deviation = tl.where(mask, value - block_mean, 0.0)
        both = seen + numbers
        apart = block_mean - mean
        mean += apart * (numbers / both)
        spread += tl.sum(deviation * deviation) + apart * apart * (seen * numbers / both)
        seen = both
    scale = 1 / tl.sqrt_rn(spread / count.to(tl.float32) + epsilon)
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)
        mask = i < count
        channel = first + i % GROUP
        where = (image * pixels + i // GROUP) * C + channel
        if not ONE:
            if STORE:
                value = tl.load(total + where, mask, other=0.0).to(tl.float32)
            else:
                value = gather_terms(
                    x, residual, skip, bias, shift, image, pixels, i // GROUP, channel, mask,
                    C, WIDTH, RESIDUAL, BIAS, SHIFT,
                )  # fmt: skip
        gain = tl.load(weight + channel, mask, other=0.0).to(tl.float32)
        y = (value - mean) * scale * gain + tl.load(offset + channel, mask, other=0.0).to(tl.float32)
        if SILU:
            y = y / (1 + tl.exp(-y))
        tl.store(out + where, y.to(out.dtype.element_ty), mask)


@triton.jit
def gather_terms(
    x, residual, skip, bias, shift, image, pixels, pixel, channel, mask,
    C: tl.constexpr, WIDTH: tl.constexpr, RESIDUAL: tl.constexpr, BIAS: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """What is normalized, rounded as it would be in memory; 0 outside of the mask."""
    near = mask
    if C > WIDTH:
        near = mask & (channel < WIDTH)
    where = (image * pixels + pixel) * WIDTH + channel
    value = tl.load(x + where, near, other=0.0).to(tl.float32)
    if RESIDUAL:
        value += tl.load(residual + where, near, other=0.0).to(tl.float32)
    if BIAS:
        value += tl.load(bias + channel, near, other=0.0).to(tl.float32)
    if SHIFT:
        value += tl.load(shift + image * WIDTH + channel, near, other=0.0).to(tl.float32)
    if C > WIDTH:
        beside = (image * pixels + pixel) * (C - WIDTH) + channel - WIDTH
        value += tl.load(skip + beside, mask & (channel >= WIDTH), other=0.0).to(tl.float32)
    return value.to(x.dtype.element_ty).to(tl.float32)


@triton.jit
def layer_norm_kernel(
    x,  # [rows, C]; to which `ahead` is added if AHEAD
    weight,  # [C]
    offset,  # [C]
    ahead,  # [C] if AHEAD
    out,  # [rows, C]
    rows,
    epsilon,
    C: tl.constexpr,
    AHEAD: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A few rows."""
    row = tl.expand_dims(tl.program_id(0) * ROWS + tl.arange(0, ROWS), 1)
    i = tl.expand_dims(tl.arange(0, BLOCK), 0)
    known = i < C
    mask = known & (row < rows)
    where = row * C + i
    value = tl.load(x + where, mask, other=0.0).to(tl.float32)
    mean = tl.sum(value, 1, keep_dims=True) / C
    deviation = tl.where(mask, value - mean, 0.0)
    scale = 1 / tl.sqrt_rn(tl.sum(deviation * deviation, 1, keep_dims=True) / C + epsilon)
    y = deviation * scale * tl.load(weight + i, known, other=0.0).to(tl.float32)
    y += tl.load(offset + i, known, other=0.0).to(tl.float32)
    tl.store(out + where, y.to(out.dtype.element_ty), mask)
    if AHEAD:
        more = value + tl.load(ahead + i, known, other=0.0).to(tl.float32)
        tl.store(x + where, more.to(x.dtype.element_ty), mask)


@triton.jit
def geglu_kernel(
    x,  # [rows, 2 C]
    out,  # [rows, C]
    count,  # rows C
    C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of elements."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    where = i // C * (2 * C) + i % C
    value = tl.load(x + where, mask, other=0.0).to(tl.float32)
    gate = tl.load(x + where + C, mask, other=0.0).to(tl.float32)
    y = value * (gate * (0.5 + 0.5 * tl.erf(gate * 0.7071067811865476)))
    tl.store(out + i, y.to(out.dtype.element_ty), mask)
