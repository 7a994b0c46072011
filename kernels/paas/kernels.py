"""What surrounds the network in PAAS, in Triton; mathematics: `sjc_fast.kernels.paas`."""

from __future__ import annotations

import triton
import triton.language as tl

from ..maths import cosine_of_turns
from ..options import INTERPRETING

BLOCK_SIZE = 1 << 14 if INTERPRETING else 128
REGRESSION_BLOCK = BLOCK_SIZE if INTERPRETING else 1024


@triton.jit
def normal_at(i, seed, step):
    """Standard normal number i of a step."""
    block = (i // 4).to(tl.uint32)
    zero = block * 0
    w0, w1, w2, w3 = tl.philox(seed, block, zero, zero + step.to(tl.uint32), zero)
    early = i % 4 < 2
    # 23 bits and a half: exact in float32, never 0 and never 1.
    first = ((tl.where(early, w0, w2) >> 9).to(tl.float32) + 0.5) * (1 / 8388608)
    second = ((tl.where(early, w1, w3) >> 9).to(tl.float32) + 0.5) * (1 / 8388608)
    return tl.sqrt_rn(-2 * tl.log(first)) * cosine_of_turns(second, (i % 2).to(tl.int32))


@triton.jit
def place(j, height, width, CHANNELS: tl.constexpr, PATCH: tl.constexpr, LAST: tl.constexpr):
    """Where number j of a view [C, H, W] lies in the network's image [C p p, H / p, W / p], channels last or not."""
    x, y, c = j % width, j // width % height, j // (width * height)
    channel = (c * PATCH + y % PATCH) * PATCH + x % PATCH
    down, across = y // PATCH, x // PATCH
    if LAST:
        return (down * (width // PATCH) + across) * (CHANNELS * PATCH * PATCH) + channel
    return (channel * (height // PATCH) + down) * (width // PATCH) + across


@triton.jit
def perturb_kernel(
    clean,  # [V, C, H, W]
    sigma,  # [V]
    c_in,  # [V]
    seed,  # [objects]
    step,  # [objects]
    out,  # [V N (x 2), C p p, H / p, W / p]
    views,  # of an object
    first_view,  # of the object's that is here, and draw; and draws in all
    first_draw,
    draws,
    count,  # of its noise here: views DRAWN C H W
    copies,  # V N C H W
    height,
    width,
    CHANNELS: tl.constexpr,
    DRAWN: tl.constexpr,  # independent copies of a view: N, or N / 2 of mirrored pairs
    MIRRORED: tl.constexpr,
    DOUBLED: tl.constexpr,
    PATCH: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of an object's noise; grid (blocks, objects)."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    which = tl.program_id(1)
    mask = i < count
    size = CHANNELS * height * width
    j, drawn, view = i % size, i // size % DRAWN, which * views + i // (size * DRAWN)
    s = tl.load(sigma + view, mask, other=1.0)
    x = tl.load(clean + view * size + j, mask, other=0.0)
    number = ((first_view + i // (size * DRAWN)) * draws + first_draw + drawn) * size + j
    offset = s * normal_at(number, tl.load(seed + which), tl.load(step + which))
    scale = tl.load(c_in + view, mask, other=1.0)
    spot = place(j, height, width, CHANNELS, PATCH, LAST)
    for mirror in tl.static_range(2 if MIRRORED else 1):
        value = ((x - offset if mirror else x + offset) * scale).to(out.dtype.element_ty)
        there = (view * (DRAWN * (2 if MIRRORED else 1)) + mirror * DRAWN + drawn) * size + spot
        tl.store(out + there, value, mask)
        if DOUBLED:
            tl.store(out + copies + there, value, mask)


@triton.jit
def difference(x, s, noise, skip, skip_less_one, c_out, answer, there, copies, strength, mask, DOUBLED: tl.constexpr):
    """D - x of noised copies from what the network answered, guidance in float32.

    ``D = c_skip (x + s n) + c_out F``; with c_skip - 1 as a number of its own, x is not taken from something that holds
    it.
    """
    said = tl.load(answer + there, mask, other=0.0).to(tl.float32)
    if DOUBLED:
        plain = tl.load(answer + copies + there, mask, other=0.0).to(tl.float32)
        said = plain + strength * (said - plain)
    return skip_less_one * x + skip * s * noise + c_out * said


@triton.jit
def regress_kernel(
    clean,  # [V, C, H, W]
    sigma,  # [V]
    c_skip,  # [V]
    c_skip_less_one,  # [V] c_skip - 1
    c_out,  # [V]
    answer,  # [V N (x 2), C p p, H / p, W / p]
    guidance,  # [V]
    seed,  # [objects]
    step,  # [objects]
    out,  # [2, V, N]
    views,  # of an object
    first_view,  # of the object's that is here
    copies,  # V N C H W
    height,
    width,
    COUNT: tl.constexpr,  # N
    CHANNELS: tl.constexpr,
    DOUBLED: tl.constexpr,
    PATCH: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One copy: the products of D - x and sigma n, and of sigma n with itself, summed over C, H, W in a fixed order.

    Grid (copies of an object, objects).
    """
    own, which = tl.program_id(0), tl.program_id(1)
    size = CHANNELS * height * width
    view = which * views + own // COUNT
    copy = (which * views * COUNT + own).to(tl.int64)
    s, skip, out_scale = tl.load(sigma + view), tl.load(c_skip + view), tl.load(c_out + view)
    less_one = tl.load(c_skip_less_one + view)
    strength = tl.load(guidance + view)
    dot, power = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    start = 0
    while start < size:
        j = start + tl.arange(0, BLOCK)
        mask = j < size
        x = tl.load(clean + view * size + j, mask, other=0.0)
        noise = normal_at((first_view * COUNT + own) * size + j, tl.load(seed + which), tl.load(step + which))
        there = copy * size + place(j, height, width, CHANNELS, PATCH, LAST)
        change = difference(
            x, s, noise, skip, less_one, out_scale, answer, there, copies, strength, mask, DOUBLED
        )  # fmt: skip
        dot += tl.where(mask, change * s * noise, 0.0)
        power += tl.where(mask, s * noise * s * noise, 0.0)
        start += BLOCK
    tl.store(out + copy, tl.sum(dot, 0))
    tl.store(out + tl.num_programs(0) * tl.num_programs(1) + copy, tl.sum(power, 0))


@triton.jit
def paas_update_kernel(
    clean,  # [V, C, H, W]
    sigma,  # [V]
    c_skip,  # [V]
    c_skip_less_one,  # [V] c_skip - 1
    c_out,  # [V]
    answer,  # [V N (x 2), C p p, H / p, W / p]
    guidance,  # [V]
    seed,  # [objects]
    step,  # [objects]
    fitted,  # [V, N] c of every copy, if FITTED
    scale,  # [V] what the mean is multiplied by: the weight of the score over sigma^2
    out,  # [V, C, H, W]
    views,  # of an object
    first_view,  # of the object's that is here, and draw; and draws in all
    first_draw,
    draws,
    count,  # of its numbers here: views C H W
    copies,  # V N C H W
    height,
    width,
    coefficient,  # c of all of them, else
    FITTED: tl.constexpr,
    CHANNELS: tl.constexpr,
    DRAWN: tl.constexpr,
    MIRRORED: tl.constexpr,
    DOUBLED: tl.constexpr,
    PATCH: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of the update: the mean over the view's copies of ``D - x - c sigma n``, times `scale`.

    Grid (blocks of an object, objects).
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    which = tl.program_id(1)
    mask = i < count
    size = CHANNELS * height * width
    j, own = i % size, i // size
    view = which * views + own
    s = tl.load(sigma + view, mask, other=1.0)
    skip, out_scale = tl.load(c_skip + view, mask, other=1.0), tl.load(c_out + view, mask, other=0.0)
    less_one = tl.load(c_skip_less_one + view, mask, other=0.0)
    strength = tl.load(guidance + view, mask, other=0.0)
    x = tl.load(clean + view * size + j, mask, other=0.0)
    spot = place(j, height, width, CHANNELS, PATCH, LAST)
    total = s * 0
    c = total + coefficient
    for drawn in range(DRAWN):
        number = ((first_view + own) * draws + first_draw + drawn) * size + j
        drawn_noise = normal_at(number, tl.load(seed + which), tl.load(step + which))
        for mirror in tl.static_range(2 if MIRRORED else 1):
            noise = -drawn_noise if mirror else drawn_noise
            copy = view * (DRAWN * (2 if MIRRORED else 1)) + mirror * DRAWN + drawn
            if FITTED:
                c = tl.load(fitted + copy, mask, other=0.0)
            there = copy * size + spot
            change = difference(
                x, s, noise, skip, less_one, out_scale, answer, there, copies, strength, mask, DOUBLED
            )  # fmt: skip
            total += change - c * s * noise
    update = total / (DRAWN * (2 if MIRRORED else 1)) * tl.load(scale + view, mask, other=0.0)
    tl.store(out + view * size + j, update, mask)
