"""The optimizer's step in Triton; mathematics: `sjc_fast.kernels.adamax`."""

from __future__ import annotations

import triton
import triton.language as tl

from ..bricks.kernels import BRICK
from ..maths import opacity_of
from ..options import INTERPRETING

BLOCK_SIZE = 1 << 16 if INTERPRETING else 512  # four numbers a thread: with eight, the copy goes through shared memory


@triton.jit
def optimizer_kernel(
    param,
    grad,
    first,  # running mean of the gradient
    second,  # Adam: running mean of its square; Adamax: its decaying maximum
    copy,
    bricks,  # [D / 8 + 1, ...] maxima of a density [D, H, W]
    rate,  # [] learning rate
    step,  # [] number of this step, from 1
    count,
    rest1,  # 1 - beta1, from the host: float32 numbers near 1 lose what is left of 1
    beta2,
    rest2,  # 1 - beta2
    decay1,  # -log(beta1)
    decay2,
    epsilon,
    height,  # of a density, if BRICKS
    width,
    ADAM: tl.constexpr,
    COPY: tl.constexpr,
    BRICKS: tl.constexpr,
    ROW: tl.constexpr,  # numbers in a row of param, and in rows of grad and copy, which may be padded
    GRAD_ROW: tl.constexpr,
    COPY_ROW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of elements."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    where = i if GRAD_ROW == ROW else i // ROW * GRAD_ROW + i % ROW
    value = move(
        param, grad, first, second, rate, step, i, where, mask, rest1, beta2, rest2, decay1, decay2, epsilon, ADAM
    )
    if COPY:
        there = i if COPY_ROW == ROW else i // ROW * COPY_ROW + i % ROW
        tl.store(copy + there, value.to(copy.dtype.element_ty), mask)
    if BRICKS:
        raise_bricks(bricks, value, i, mask, height, width)


@triton.jit
def move(
    param, grad, first, second, rate, step, i, where, mask,
    rest1, beta2, rest2, decay1, decay2, epsilon, ADAM: tl.constexpr,
):  # fmt: skip
    """Step numbers i of a parameter, whose gradients lie at `where` and become zero; their new values."""
    g = tl.load(grad + where, mask, other=0.0)
    m = tl.load(first + i, mask, other=0.0)
    v = tl.load(second + i, mask, other=0.0)
    taken = tl.load(step).to(tl.float32)
    m += (g - m) * rest1
    rate_now = tl.load(rate).to(tl.float32) / opacity_of(taken * decay1)  # lr / (1 - beta1^step)
    if ADAM:
        v = v * beta2 + g * g * rest2
        change = m / (tl.sqrt_rn(v) / tl.sqrt_rn(opacity_of(taken * decay2)) + epsilon)
    else:
        v = tl.maximum(v * beta2, tl.abs(g) + epsilon)
        change = m / v
    value = tl.load(param + i, mask, other=0.0) - rate_now * change
    tl.store(param + i, value, mask)
    tl.store(first + i, m, mask)
    tl.store(second + i, v, mask)
    tl.store(grad + where, tl.zeros_like(g), mask)
    return value


@triton.jit
def optimizer_parts_kernel(
    parameters,  # tuples: a parameter each (Triton has its own `params`)
    grads,
    firsts,
    seconds,
    rates,  # [objects]
    counts,  # numbers of an object
    apart,  # from one object's gradients to the next's
    step,  # [objects]
    sums,  # [objects, programs] of the new values
    rest1,
    beta2,
    rest2,
    decay1,
    decay2,
    epsilon,
    ADAM: tl.constexpr,
    ROWS: tl.constexpr,  # a parameter's (numbers in a row, and strides of rows and of numbers in its gradient)
    BLOCK: tl.constexpr,
):
    """One block of elements of one of several parameters, whose blocks follow each other; grid (blocks, objects)."""
    program = tl.program_id(0)
    which = tl.program_id(1).to(tl.int64)
    begin = 0
    for k in tl.static_range(len(ROWS)):
        blocks = tl.cdiv(counts[k], BLOCK)
        if (program >= begin) & (program < begin + blocks):
            i = (program - begin) * BLOCK + tl.arange(0, BLOCK)
            mask = i < counts[k]
            where = i // ROWS[k][0] * ROWS[k][1] + i % ROWS[k][0] * ROWS[k][2]
            skip = which * counts[k]
            value = move(
                parameters[k] + skip, grads[k] + which * apart[k], firsts[k] + skip, seconds[k] + skip,
                rates[k] + which, step + which, i, where, mask, rest1, beta2, rest2, decay1, decay2, epsilon, ADAM,
            )  # fmt: skip
            tl.store(sums + which * tl.num_programs(0) + program, tl.sum(tl.where(mask, value, 0.0)))
        begin += blocks


@triton.jit
def raise_bricks(bricks, value, i, mask, height, width):
    """Raise the maxima of the bricks that voxels i belong to: two along an axis at a brick's last voxel, else one."""
    x, y, z = i % width, i // width % height, i // (width * height)
    high, wide = height // BRICK + 1, width // BRICK + 1
    for c in tl.static_range(8):
        on_x, on_y, on_z = (x + c % 2) // BRICK, (y + c // 2 % 2) // BRICK, (z + c // 4) // BRICK
        # The second brick of an axis counts only where it is another one.
        other = (c % 2 == 0) | (x % BRICK == BRICK - 1)
        other &= (c // 2 % 2 == 0) | (y % BRICK == BRICK - 1)
        other &= (c // 4 == 0) | (z % BRICK == BRICK - 1)
        tl.atomic_max(bricks + (on_z * high + on_y) * wide + on_x, value, mask & other, sem="relaxed")
