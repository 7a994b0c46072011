"""Device functions that the kernels share: elementary functions to float32 accuracy, and cells of a voxel grid.

In a thin fog ``1 - exp(-x)`` and ``log(1 + x)`` cancel: small arguments take a series. Nothing here asks for libdevice
by name, so that the interpreter runs the same code.
"""

from __future__ import annotations

import triton
import triton.language as tl

PI: tl.constexpr = tl.constexpr(3.141592653589793)


@triton.jit
def log1p(x):
    """log(1 + x) for x >= 0."""
    series = x * (1 - x * (1 / 2 - x * (1 / 3 - x * (1 / 4 - x * (1 / 5)))))
    return tl.where(x < 0.03, series, tl.log(1 + x))


@triton.jit
def opacity_of(thickness):
    """1 - exp(-thickness) for thickness >= 0."""
    x = thickness
    series = x * (1 - x * (1 / 2 - x * (1 / 6 - x * (1 / 24 - x * (1 / 120 - x * (1 / 720))))))
    return tl.where(x < 0.25, series, 1 - tl.exp(-x))


@triton.jit
def softplus(x):
    """log(1 + exp(x)), and its derivative, the logistic function."""
    e = tl.exp(-tl.abs(x))
    return tl.maximum(x, 0.0) + log1p(e), tl.where(x >= 0, 1.0, e) / (1 + e)


@triton.jit
def color(raw):
    """2 sigmoid(raw) - 1 without overflow, and its derivative."""
    e = tl.exp(-tl.abs(raw))
    value = (1 - e) / (1 + e)
    return tl.where(raw >= 0, value, -value), 2 * e / ((1 + e) * (1 + e))


@triton.jit
def cosine_of_turns(turns, quarters_back):
    """cos(2 pi turns - quarters_back pi / 2) for 0 <= turns < 1 and 0 or 1 quarters (Cephes' cosf and sinf).

    The angle is reduced while it is a number of quarter turns, which is exact: the device's own functions keep memory
    for angles of any size, and multiply by pi first.
    """
    quarters = turns * 4
    nearest = (quarters + 0.5).to(tl.int32)
    a = (quarters - nearest.to(tl.float32)) * (PI / 2)
    z = a * a
    sine = a + a * z * (z * (z * -1.9515295891e-4 + 8.3321608736e-3) - 1.6666654611e-1)
    cosine = 1 - z / 2 + z * z * (z * (z * 2.443315711809948e-5 - 1.388731625493765e-3) + 4.166664568298827e-2)
    quadrant = (nearest + 4 - quarters_back) % 4
    value = tl.where(quadrant % 2 == 0, cosine, sine)
    return tl.where((quadrant == 1) | (quadrant == 2), -value, value)


@triton.jit
def tan(x):
    """Tangent of 0 < x < pi / 2 (Cephes' tanf)."""
    steep = x > PI / 4
    a = tl.where(steep, PI / 2 - x, x)
    z = a * a
    p = 9.38540185543e-3
    p = p * z + 3.11992232697e-3
    p = p * z + 2.44301354525e-2
    p = p * z + 5.34112807005e-2
    p = p * z + 1.33387994085e-1
    p = p * z + 3.33331568548e-1
    y = p * z * a + a
    return tl.where(steep, tl.div_rn(1.0, y), y)


@triton.jit
def atan2(y, x):
    """Angle of the vector (x, y) in (-pi, pi]; 0 for the null vector (Cephes' atanf on an octant, unfolded)."""
    high, low = tl.maximum(tl.abs(x), tl.abs(y)), tl.minimum(tl.abs(x), tl.abs(y))
    ratio = tl.div_rn(low, tl.maximum(high, 1e-37))
    far = ratio > 0.4142135623730950
    a = tl.where(far, tl.div_rn(ratio - 1, ratio + 1), ratio)
    z = a * a
    p = 8.05374449538e-2
    p = p * z - 1.38776856032e-1
    p = p * z + 1.99777106478e-1
    p = p * z - 3.33329491539e-1
    angle = p * z * a + a + tl.where(far, PI / 4, 0.0)
    angle = tl.where(tl.abs(y) > tl.abs(x), PI / 2 - angle, angle)
    angle = tl.where(x < 0, PI - angle, angle)
    return tl.where(y < 0, -angle, angle)


@triton.jit
def corner(c: tl.constexpr, x, y, z, fx, fy, fz, width, height, depth):
    """Corner c (bits x, y, z) of the cells at (x, y, z): its voxel's linear index and its trilinear weight.

    Outside the grid the weight is 0 and the index that of a voxel inside, so that nothing else need be masked.
    """
    return corner_along(c, x, y, z, fx, fy, fz, width, height, depth, (1, width, width * height), 0)


@triton.jit
def corner_along(c: tl.constexpr, x, y, z, fx, fy, fz, width, height, depth, strides, origin):
    """`corner`, where voxels along the axes lie `strides` apart from the first one, `origin`."""
    cx, cy, cz = x + c % 2, y + c // 2 % 2, z + c // 4
    wx = fx if c % 2 else 1 - fx
    wy = fy if c // 2 % 2 else 1 - fy
    wz = fz if c // 4 else 1 - fz
    wx = tl.where((cx >= 0) & (cx < width), wx, 0.0)
    wy = tl.where((cy >= 0) & (cy < height), wy, 0.0)
    wz = tl.where((cz >= 0) & (cz < depth), wz, 0.0)
    cx = tl.minimum(tl.maximum(cx, 0), width - 1)
    cy = tl.minimum(tl.maximum(cy, 0), height - 1)
    cz = tl.minimum(tl.maximum(cz, 0), depth - 1)
    return origin + cz * strides[2] + cy * strides[1] + cx * strides[0], wx * wy * wz


@triton.jit
def cell(position):
    """Index of the cell that holds a position in voxels (voxel centers at whole numbers), and the position in it."""
    base = tl.floor(position)
    return base.to(tl.int32), position - base
