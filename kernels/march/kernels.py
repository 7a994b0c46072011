"""The march, fused: Triton kernels that render a voxel grid along camera rays, and their backward pass.

A program is one warp, so no loop holds a barrier. Forward, a ray's consecutive samples lie on LANES neighboring lanes
(one view of 64 x 64 pixels alone fills a GPU), and a scan over them gives the transmittance. Backward, a lane walks its
own stretch (segment) of a ray: consecutive samples in one cell are merged in registers before they are added to the
gradient. A segment starts from the running sums that the forward pass left there. Mathematics, and what its letters are
called here: `sjc_fast.kernels.march`.

Channels go in groups of four, the last one padded: what has channels is a tuple of GROUPS tensors [L, 4].
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..bricks.kernels import BRICK
from ..maths import PI, atan2, cell, color, corner, corner_along, log1p, opacity_of, softplus, tan

GATE: tl.constexpr = tl.constexpr(1e-4)  # features are fetched only where the weight exceeds this
EARLY_STOP: tl.constexpr = tl.constexpr(1e-6)  # transmittance below which a ray ends
FAR_DEPTH: tl.constexpr = tl.constexpr(10.0)  # depth of the light that passes through
#: Not specialized on: each size would be a compilation, and that one divides by 16 puts shared memory into the loop.
SIZES = ("height", "width", "grid_depth", "grid_height", "grid_width")
OPAQUE: tl.constexpr = tl.constexpr(20.0)  # the scan sees no more: such a sample ends the ray, and nothing cancels


@triton.jit
def ray_of(
    c2w,  # [V, 4, 4]
    fov,  # [V] degrees
    box,  # [2, 3]
    view,
    row,  # [L]
    column,  # [L]
    height,
    width,
    grid_depth,
    grid_height,
    grid_width,
):
    """Rays of pixels: direction, position in voxels as start + t * direction, entry distance and length in the box.

    A ray that misses the box, or whose entry or exit is not a number, has length 0.
    """
    focal = tl.div_rn(width / 2.0, tan(tl.load(fov + view) * (PI / 360)))
    x = tl.div_rn(column - (width / 2.0 - 0.5), focal)
    y = -tl.div_rn(row - (height / 2.0 - 0.5), focal)
    pose = c2w + view * 16
    dx = tl.load(pose) * x + tl.load(pose + 1) * y - tl.load(pose + 2)
    dy = tl.load(pose + 4) * x + tl.load(pose + 5) * y - tl.load(pose + 6)
    dz = tl.load(pose + 8) * x + tl.load(pose + 9) * y - tl.load(pose + 10)
    norm = tl.sqrt_rn(dx * dx + dy * dy + dz * dz)
    dx, dy, dz = tl.div_rn(dx, norm), tl.div_rn(dy, norm), tl.div_rn(dz, norm)

    near_x, far_x, start_x, voxels_x = slab(tl.load(pose + 3), dx, box, grid_width)
    near_y, far_y, start_y, voxels_y = slab(tl.load(pose + 7), dy, box + 1, grid_height)
    near_z, far_z, start_z, voxels_z = slab(tl.load(pose + 11), dz, box + 2, grid_depth)
    strict: tl.constexpr = tl.PropagateNan.ALL
    near = tl.maximum(tl.maximum(near_x, near_y, strict), near_z, strict)
    near = tl.maximum(near, 0.0, strict)
    far = tl.minimum(tl.minimum(far_x, far_y, strict), far_z, strict)
    hit = near < far  # a NaN compares false
    entry, length = tl.where(hit, near, 0.0), tl.where(hit, far - near, 0.0)
    return dx, dy, dz, start_x, voxels_x, start_y, voxels_y, start_z, voxels_z, entry, length


@triton.jit
def slab(origin, direction, box, voxels):
    """One axis: entry, exit, and the position in voxels: start, and direction a unit of length."""
    low, high = tl.load(box), tl.load(box + 3)
    a, b = tl.div_rn(low - origin, direction), tl.div_rn(high - origin, direction)
    extent = high - low
    strict: tl.constexpr = tl.PropagateNan.ALL
    start = tl.div_rn(origin - low, extent) * voxels - 0.5
    direction_voxels = tl.div_rn(direction, extent) * voxels
    return tl.minimum(a, b, strict), tl.maximum(a, b, strict), start, direction_voxels


@triton.jit
def grid_of(
    density, features, background, log_scale, grid, grid_depth, grid_height, grid_width,
    C: tl.constexpr, STRIDE: tl.constexpr, TEXTURE: tl.constexpr,
):  # fmt: skip
    """Where one of several grids begins."""
    begin = grid * grid_depth * grid_height * grid_width  # grid has 64 bits
    return density + begin, features + begin * STRIDE, background + (grid * C * 16 if TEXTURE else 0), log_scale + grid


@triton.jit
def pixels(tile, ray, height, width, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """Row and column of rays of a program's tile, and which of them lie in the image."""
    across = (width + TILE_W - 1) // TILE_W
    row = tile // across * TILE_H + ray // TILE_W
    column = tile % across * TILE_W + ray % TILE_W
    return row, column, (row < height) & (column < width)


@triton.jit
def divide(length, step, SEGMENTS: tl.constexpr, LANES: tl.constexpr):
    """Sample slots of rays, and of one segment: the backward pass cuts where the forward pass did."""
    slots = tl.floor(tl.div_rn(length, step)).to(tl.int32) + 1
    samples_per_segment = (slots + SEGMENTS * LANES - 1) // (SEGMENTS * LANES) * LANES
    return slots, samples_per_segment


@triton.jit
def known_sums(up, up_depth, up_opacity, up_penalty, behind, features, depth, opacity, d_emptiness):
    """From upstream gradients and outputs: what dL/dw holds whatever the sample, and G, the sum of w dL/dw."""
    base, total = up_opacity, tl.sum(up[0] * (features[0] - behind[0]), 1)
    for g in tl.static_range(len(up)):
        base -= tl.sum(up[g] * behind[g], 1)
        if g > 0:
            total += tl.sum(up[g] * (features[g] - behind[g]), 1)
    base -= up_depth * FAR_DEPTH
    total += up_depth * (depth - FAR_DEPTH)
    return base, total + up_opacity * opacity + up_penalty * d_emptiness


@triton.jit
def fetch_density(grid, x, y, z, fx, fy, fz, width, height, depth, strides, origin, mask):
    """Trilinear raw density."""
    raw = fx * 0
    for c in tl.static_range(8):
        index, tri = corner_along(c, x, y, z, fx, fy, fz, width, height, depth, strides, origin)
        raw += tri * tl.load(grid + index, mask, other=0.0).to(tl.float32)
    return raw


@triton.jit
def fetch_features(
    grid, x, y, z, fx, fy, fz, width, height, depth, strides, origin, mask,
    GROUP: tl.constexpr, C: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """Trilinear raw features of a group of channels, [L, 4] (zero beyond C): one vector load a corner where STRIDE is
    a multiple of 4."""
    channel = GROUP * 4 + tl.arange(0, 4)
    wanted = tl.expand_dims(mask, 1) & (channel < (C if STRIDE % 4 else STRIDE))
    raw = tl.expand_dims(fx * 0, 1) + channel * 0.0
    for c in tl.static_range(8):
        index, tri = corner_along(c, x, y, z, fx, fy, fz, width, height, depth, strides, origin)
        value = tl.load(grid + tl.expand_dims(index, 1) * STRIDE + channel, wanted, other=0.0)
        raw += tl.expand_dims(tri, 1) * value.to(tl.float32)
    return tl.where(channel < C, raw, 0.0)


@triton.jit
def texture_cell(dx, dy, dz):
    """Where directions fall in the 4 x 4 background texture: cell, and position in it (the authors' mapping)."""
    u = atan2(tl.sqrt_rn(dx * dx + dy * dy), dz) / PI
    v = atan2(dy, dx) / (2 * PI) + 0.5
    x, fx = cell(u * 4 - 0.5)
    y, fy = cell(v * 4 - 0.5)
    return x, y, fx, fy


@triton.jit
def fetch_background(
    background, dx, dy, dz, view, GROUP: tl.constexpr, C: tl.constexpr, TEXTURE: tl.constexpr, SIGMOID: tl.constexpr
):  # fmt: skip
    """A group of channels behind rays [L, 4], and the derivative of their activation; a texture [C, 4, 4] or plain
    [V, C]."""
    channel = GROUP * 4 + tl.arange(0, 4)
    known = tl.expand_dims(dx == dx, 1) & (channel < C)
    raw = tl.expand_dims(dx * 0, 1) + channel * 0.0
    if TEXTURE:
        x, y, fx, fy = texture_cell(dx, dy, dz)
        for c in tl.static_range(4):
            index, tri = corner(c, x, y, y * 0, fx, fy, fy * 0, 4, 4, 1)
            raw += tl.expand_dims(tri, 1) * tl.load(
                background + tl.expand_dims(index, 1) + channel * 16, known, other=0.0
            )
    else:
        raw += tl.load(background + view * C + channel + tl.expand_dims(dx.to(tl.int32) * 0, 1), known, other=0.0)
    d_activation = raw * 0 + 1
    if TEXTURE and SIGMOID:
        raw, d_activation = color(raw)
    return tl.where(channel < C, raw, 0.0), d_activation


@triton.jit
def ray_sum(x, RAYS: tl.constexpr, LANES: tl.constexpr):
    """Sum over each ray's lanes, at each of them; x is [L] or [L, 4]."""
    if LANES > 1:
        if len(x.shape) == 1:
            total = tl.expand_dims(tl.sum(tl.reshape(x, [RAYS, LANES]), 1), 1)
            x = tl.reshape(tl.broadcast_to(total, [RAYS, LANES]), [RAYS * LANES])
        else:
            total = tl.expand_dims(tl.sum(tl.reshape(x, [RAYS, LANES, 4]), 1), 1)
            x = tl.reshape(tl.broadcast_to(total, [RAYS, LANES, 4]), [RAYS * LANES, 4])
    return x


@triton.jit
def ray_max(x, RAYS: tl.constexpr, LANES: tl.constexpr):
    """Maximum over each ray's lanes, at each of them."""
    if LANES > 1:
        most = tl.expand_dims(tl.max(tl.reshape(x, [RAYS, LANES]), 1), 1)
        x = tl.reshape(tl.broadcast_to(most, [RAYS, LANES]), [RAYS * LANES])
    return x


@triton.jit
def exclusive_sum(x, RAYS: tl.constexpr, LANES: tl.constexpr):
    """Sum over the lanes of the ray that come before each lane."""
    if LANES > 1:
        return tl.reshape(tl.cumsum(tl.reshape(x, [RAYS, LANES]), 1), [RAYS * LANES]) - x
    return x * 0


@triton.jit(do_not_specialize=SIZES)
def march_forward(
    density,  # [D, H, W], [G, …] if STACKED
    features,  # [D, H, W, STRIDE] likewise
    background,  # [C, 4, 4] likewise, or [V, C]
    log_scale,  # [] likewise
    c2w,  # [V, 4, 4]
    fov,  # [V]
    box,  # [2, 3]
    asset,  # [V] int64 if STACKED
    bricks,  # [D', H', W'] if SKIP
    out_features,  # [V, C, h, w]
    out_depth,  # [V, h, w]
    out_opacity,  # [V, h, w]
    out_penalty,  # [V, h, w] sum of log(1 + beta w)
    out_d_emptiness,  # [V, h, w] sum of w beta / (1 + beta w)
    out_slots,  # [V, h, w] int32, slots of the ray's length
    out_stop,  # [V, h, w] int32, one more than the last sample that was lit
    state,  # [V, SEGMENTS - 1, 4, h, w] thickness, opacity, depth and d_emptiness where a segment starts
    state_features,  # [V, SEGMENTS - 1, h, w, 4 GROUPS]
    height,
    width,
    grid_depth,
    grid_height,
    grid_width,
    density_shift,
    step,
    beta,
    skip_below,
    C: tl.constexpr,
    STRIDE: tl.constexpr,
    SIGMOID: tl.constexpr,
    TEXTURE: tl.constexpr,
    STACKED: tl.constexpr,
    SKIP: tl.constexpr,
    SEGMENTS: tl.constexpr,
    LANES: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    TEST: tl.constexpr,
):
    """Render; grid (tiles, V). L = rays x LANES lanes; what belongs to a ray is the same at each of its lanes."""
    RAYS: tl.constexpr = TILE_H * TILE_W
    GROUPS: tl.constexpr = (C + 3) // 4
    view = tl.program_id(1)
    if STACKED:
        grid = tl.load(asset + view)
        density, features, background, log_scale = grid_of(
            density, features, background, log_scale, grid, grid_depth, grid_height, grid_width, C, STRIDE, TEXTURE
        )
    lane = tl.arange(0, RAYS * LANES)
    row, column, valid = pixels(tl.program_id(0), lane // LANES, height, width, TILE_H, TILE_W)
    dx, dy, dz, ax, bx, ay, by, az, bz, entry, length = ray_of(
        c2w, fov, box, view, row, column, height, width, grid_depth, grid_height, grid_width
    )
    length = tl.where(valid, length, 0.0)
    slots, samples_per_segment = divide(length, step, SEGMENTS, LANES)
    scale = tl.exp(tl.load(log_scale))
    pixel = row * width + column
    image = height * width
    channel = tl.arange(0, 4)
    first = valid & (lane % LANES == 0)  # one lane a ray writes

    optical_depth = dx * 0  # so far, along the ray
    lit = ()
    for _g in tl.static_range(GROUPS):
        lit = lit + (tl.zeros([RAYS * LANES, 4], tl.float32),)
    opacity, depth, d_emptiness, penalty = optical_depth, optical_depth, optical_depth, optical_depth
    stop = row * 0
    strides = (1, grid_width, grid_width * grid_height)
    segment = 0
    while segment < SEGMENTS:
        if segment > 0:
            at = (view * (SEGMENTS - 1) + segment - 1) * image
            tl.store(state + at * 4 + pixel, optical_depth, first)
            tl.store(state + (at * 4 + image) + pixel, ray_sum(opacity, RAYS, LANES), first)
            tl.store(state + (at * 4 + 2 * image) + pixel, ray_sum(depth, RAYS, LANES), first)
            tl.store(state + (at * 4 + 3 * image) + pixel, ray_sum(d_emptiness, RAYS, LANES), first)
            where = tl.expand_dims(at + pixel, 1) * (4 * GROUPS) + channel
            for g in tl.static_range(GROUPS):
                tl.store(state_features + where + 4 * g, ray_sum(lit[g], RAYS, LANES), tl.expand_dims(first, 1))
        k = samples_per_segment * segment + lane % LANES
        end = tl.minimum(samples_per_segment * (segment + 1), slots)
        live = tl.max(((k < end) & (tl.exp(-optical_depth) >= EARLY_STOP)).to(tl.int32))
        while live > 0:
            for _ in range(TEST):
                inside = (k < end) & (k * step < length)
                t = entry + k * step
                x, fx = cell(ax + t * bx)
                y, fy = cell(ay + t * by)
                z, fz = cell(az + t * bz)
                after = k + LANES
                if SKIP:
                    empty, leave = brick_ahead(
                        bricks, x, y, z, ax, bx, ay, by, az, bz, grid_width, grid_height,
                        scale, density_shift, step, skip_below, inside,
                    )  # fmt: skip
                    ahead = tl.minimum(tl.floor((leave - entry) / step), end.to(tl.float32)).to(tl.int32)
                    after = tl.where(empty, tl.maximum(after, ahead), after)
                    inside &= empty == 0
                raw = fetch_density(
                    density, x, y, z, fx, fy, fz, grid_width, grid_height, grid_depth, strides, 0, inside
                )
                dense = softplus(scale * raw + density_shift)[0]
                thickness = tl.where(inside, dense * step, 0.0)
                scanned = tl.minimum(thickness, OPAQUE)
                transmittance = tl.exp(-optical_depth - exclusive_sum(scanned, RAYS, LANES))
                shown = inside & (transmittance >= EARLY_STOP)
                weight = tl.where(shown, transmittance * opacity_of(thickness), 0.0)
                bright = weight > GATE
                if tl.max(bright.to(tl.int32)) > 0:
                    shining = tl.expand_dims(tl.where(bright, weight, 0.0), 1)
                    brighter = ()
                    for g in tl.static_range(GROUPS):
                        fetched = fetch_features(
                            features, x, y, z, fx, fy, fz, grid_width, grid_height, grid_depth, strides, 0, bright,
                            g, C, STRIDE,
                        )  # fmt: skip
                        if SIGMOID:
                            fetched = color(fetched)[0]
                        brighter = brighter + (lit[g] + shining * fetched,)
                    lit = brighter
                opacity += weight
                depth += weight * t
                d_emptiness += weight * (beta / (1 + beta * weight))
                penalty += log1p(beta * weight)
                stop = tl.where(shown, k + 1, stop)
                optical_depth += ray_sum(scanned, RAYS, LANES)
                k = after
            live = tl.max(((k < end) & (tl.exp(-optical_depth) >= EARLY_STOP)).to(tl.int32))
        segment += 1

    at = view * image + pixel
    opaque = ray_sum(opacity, RAYS, LANES)
    for g in tl.static_range(GROUPS):
        behind = fetch_background(background, dx, dy, dz, view, g, C, TEXTURE, SIGMOID)[0]
        seen = ray_sum(lit[g], RAYS, LANES) + tl.expand_dims(1 - opaque, 1) * behind
        where = view * C * image + tl.expand_dims(pixel, 1) + (4 * g + channel) * image
        tl.store(out_features + where, seen, tl.expand_dims(first, 1) & (4 * g + channel < C))
    tl.store(out_depth + at, ray_sum(depth, RAYS, LANES) + (1 - opaque) * FAR_DEPTH, first)
    tl.store(out_opacity + at, opaque, first)
    tl.store(out_penalty + at, ray_sum(penalty, RAYS, LANES), first)
    tl.store(out_d_emptiness + at, ray_sum(d_emptiness, RAYS, LANES), first)
    tl.store(out_slots + at, slots, first)
    tl.store(out_stop + at, ray_max(stop, RAYS, LANES), first)


@triton.jit
def finish_views(
    penalty,  # [V, h, w]
    ray_slots,  # [V, h, w] int32
    given,  # [V] int64 if GIVEN
    emptiness,  # [V]
    slots,  # [V] int64
    pixels,
    GIVEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Slots of a view, given or those of its longest ray, and the mean of the penalty over the slots of its rays."""
    view = tl.program_id(0)
    total, longest = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.int32)
    for start in range(0, pixels, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.load(penalty + view * pixels + i, i < pixels, other=0.0)
        if not GIVEN:
            longest = tl.maximum(longest, tl.load(ray_slots + view * pixels + i, i < pixels, other=0))
    count = tl.load(given + view) if GIVEN else tl.max(longest).to(tl.int64)
    tl.store(slots + view, count)
    tl.store(emptiness + view, tl.sum(total) / (count * pixels).to(tl.float32))


@triton.jit
def brick_ahead(
    bricks, x, y, z, ax, bx, ay, by, az, bz, width, height,
    scale, density_shift, step, skip_below, inside,
):  # fmt: skip
    """Whether samples lie in an empty brick (none in it is as thick as `skip_below`), and where they leave it."""
    i, j, k = (x + 1) // BRICK, (y + 1) // BRICK, (z + 1) // BRICK
    index = (k * ((height + BRICK) // BRICK) + j) * ((width + BRICK) // BRICK) + i
    highest = softplus(scale * tl.load(bricks + index, inside, other=0.0) + density_shift)[0]
    leave = tl.minimum(
        tl.minimum(leave_slab(i, ax, bx), leave_slab(j, ay, by)),
        leave_slab(k, az, bz),
    )
    return inside & (highest * step < skip_below), leave


@triton.jit
def leave_slab(brick, start, direction_voxels):
    """The distance at which a ray leaves its brick along one axis."""
    bound = tl.where(direction_voxels > 0, (brick + 1) * BRICK - 1, brick * BRICK - 1)
    return tl.where(direction_voxels == 0, float("inf"), (bound - start) / direction_voxels)


@triton.jit
def add(pointer, value, mask, fixed_scale, FIXED: tl.constexpr):
    """Add to a gradient; in fixed point (integers, whose sum has no order) if FIXED."""
    if FIXED:
        tl.atomic_add(pointer, fixed_point(value, fixed_scale), mask, sem="relaxed")
    else:
        tl.atomic_add(pointer, value, mask, sem="relaxed")


@triton.jit
def fixed_point(value, fixed_scale):
    """The nearest integer, 64 bits."""
    return tl.floor(value * fixed_scale + 0.5).to(tl.int64)


@triton.jit
def flush(
    grad_density, grad_features, x, y, z, sizes, strides, origin,
    sums, sums_weight, upstream, leaving, fixed_density, fixed_features,
    AXIS: tl.constexpr, MERGE: tl.constexpr, FIXED: tl.constexpr,
):  # fmt: skip
    """Add the sums of voxels that rays leave behind to the gradients: those at a cell's near side along AXIS, or all
    eight if AXIS is 3. Sums of nothing are left out."""
    channel = tl.arange(0, 4)
    zero = sums[0] * 0
    for c in tl.static_range(8):
        if AXIS == 3 or c >> AXIS & 1 == 0:
            index = corner_along(c, x, y, z, zero, zero, zero, sizes[0], sizes[1], sizes[2], strides, origin)[0]
            add(grad_density + index, sums[c], leaving & (sums[c] != 0), fixed_density, FIXED)
            if MERGE:
                where = grad_features + tl.expand_dims(index * (4 * len(upstream)), 1) + channel
                for g in tl.static_range(len(upstream)):
                    value = tl.expand_dims(sums_weight[c], 1) * upstream[g]
                    lit = tl.expand_dims(leaving & (sums_weight[c] != 0), 1)
                    add(where + 4 * g, value, lit, fixed_features, FIXED)


@triton.jit
def shift(sums, moved, AXIS: tl.constexpr):
    """The sums of the next cell along AXIS, where a ray moved there: its near side was the far side."""
    new = ()
    for c in tl.static_range(8):
        beyond = sums[c + (1 << AXIS)] if c >> AXIS & 1 == 0 else 0.0
        new = new + (tl.where(moved, beyond, sums[c]),)
    return new


@triton.jit
def mirror(start, direction, size, stride):
    """An axis reversed where rays go down it: start and direction of the position in voxels, the voxel that is then
    first, and the stride of voxels."""
    down = direction < 0
    start = tl.where(down, (size - 1) - start, start)
    return start, tl.abs(direction), tl.where(down, (size - 1) * stride, 0), tl.where(down, -stride, stride)


@triton.jit(do_not_specialize=SIZES)
def march_backward(
    density,  # [D, H, W], [G, …] if STACKED
    features,  # [D, H, W, STRIDE] likewise
    background,  # [C, 4, 4] likewise, or [V, C]
    log_scale,  # [] likewise
    c2w,  # [V, 4, 4]
    fov,  # [V]
    box,  # [2, 3]
    asset,  # [V] int64 if STACKED
    out_features,  # [V, C, h, w] and so on: what the forward pass wrote
    out_depth,
    out_opacity,
    out_d_emptiness,
    out_stop,
    state,
    state_features,
    v_features,  # [V, C, h, w] upstream gradients
    v_depth,  # [V, h, w]
    v_opacity,  # [V, h, w]
    v_emptiness,  # [V]
    slots,  # [V] int64, over which the emptiness is a mean
    grad_density,  # [D, H, W] added to, as the others; [G, …] if STACKED
    grad_features,  # [D, H, W, 4 GROUPS]
    grad_background,  # [4, 4, 4 GROUPS]: [y, x, channel]
    grad_log_scale,  # []
    fixed,  # [4] scales of the four gradients if FIXED
    height,
    width,
    grid_depth,
    grid_height,
    grid_width,
    density_shift,
    step,
    beta,
    C: tl.constexpr,
    STRIDE: tl.constexpr,
    SIGMOID: tl.constexpr,
    TEXTURE: tl.constexpr,
    STACKED: tl.constexpr,
    DEPTH: tl.constexpr,  # whether there is a v_depth
    OPACITY: tl.constexpr,
    EMPTINESS: tl.constexpr,
    FIXED: tl.constexpr,
    SEGMENTS: tl.constexpr,
    LANES: tl.constexpr,  # of the forward pass
    SPAN: tl.constexpr,  # segments of a ray in one program
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    """Gradients of grids, texture and log-scale; grid (tiles, SEGMENTS / SPAN, V). L = rays x SPAN lanes."""
    MERGE: tl.constexpr = not SIGMOID
    GROUPS: tl.constexpr = (C + 3) // 4
    view = tl.program_id(2)
    if STACKED:
        grid = tl.load(asset + view)
        density, features, background, log_scale = grid_of(
            density, features, background, log_scale, grid, grid_depth, grid_height, grid_width, C, STRIDE, TEXTURE
        )
        grad_density, grad_features, grad_background, grad_log_scale = grid_of(
            grad_density, grad_features, grad_background, grad_log_scale, grid, grid_depth, grid_height, grid_width,
            4 * GROUPS, 4 * GROUPS, True,
        )  # fmt: skip
    lane = tl.arange(0, TILE_H * TILE_W * SPAN)
    segment = tl.program_id(1) * SPAN + lane % SPAN
    row, column, valid = pixels(tl.program_id(0), lane // SPAN, height, width, TILE_H, TILE_W)
    dx, dy, dz, ax, bx, ay, by, az, bz, entry, length = ray_of(
        c2w, fov, box, view, row, column, height, width, grid_depth, grid_height, grid_width
    )
    length = tl.where(valid, length, 0.0)
    _slots, samples_per_segment = divide(length, step, SEGMENTS, LANES)
    scale = tl.exp(tl.load(log_scale))
    pixel = row * width + column
    image = height * width
    channel = tl.arange(0, 4)

    at = view * image + pixel
    up, behind, d_activation, seen = (), (), (), ()
    for g in tl.static_range(GROUPS):
        where = view * C * image + tl.expand_dims(pixel, 1) + (4 * g + channel) * image
        known = tl.expand_dims(valid, 1) & (4 * g + channel < C)
        up = up + (tl.load(v_features + where, known, other=0.0),)
        seen = seen + (tl.load(out_features + where, known, other=0.0),)
        raw_behind, d_behind = fetch_background(background, dx, dy, dz, view, g, C, TEXTURE, SIGMOID)
        behind, d_activation = behind + (raw_behind,), d_activation + (d_behind,)
    up_depth, up_opacity = dx * 0, dx * 0
    if DEPTH:
        up_depth = tl.load(v_depth + at, valid, other=0.0)
    if OPACITY:
        up_opacity = tl.load(v_opacity + at, valid, other=0.0)
    up_penalty = 0.0  # of each slot's log(1 + beta w)
    if EMPTINESS:
        up_penalty = tl.load(v_emptiness + view) / (tl.load(slots + view) * image).to(tl.float32)
    opaque = tl.load(out_opacity + at, valid, other=0.0)
    far = tl.load(out_depth + at, valid, other=0.0)
    d_emptiness_sum = tl.load(out_d_emptiness + at, valid, other=0.0)
    base, total = known_sums(up, up_depth, up_opacity, up_penalty, behind, seen, far, opaque, d_emptiness_sum)

    optical_depth, prefix = dx * 0, dx * 0  # optical thickness and P before the segment
    if SEGMENTS > 1:
        later = valid & (segment > 0)
        from_state = (view * (SEGMENTS - 1) + tl.maximum(segment, 1) - 1) * image
        optical_depth = tl.load(state + from_state * 4 + pixel, later, other=0.0)
        prefix = base * tl.load(state + (from_state * 4 + image) + pixel, later, other=0.0)
        prefix += up_depth * tl.load(state + (from_state * 4 + 2 * image) + pixel, later, other=0.0)
        prefix += up_penalty * tl.load(state + (from_state * 4 + 3 * image) + pixel, later, other=0.0)
        begun = state_features + tl.expand_dims(from_state + pixel, 1) * (4 * GROUPS) + channel
        for g in tl.static_range(GROUPS):
            prefix += tl.sum(up[g] * tl.load(begun + 4 * g, tl.expand_dims(later, 1), other=0.0), 1)

    k = samples_per_segment * segment
    end = tl.minimum(k + samples_per_segment, tl.load(out_stop + at, valid, other=0))
    rounds = tl.max(end - k)
    # Rays go up every axis of the grid as they see it, so that a cell's near side is the one that they leave.
    ax, bx, origin_x, stride_x = mirror(ax, bx, grid_width, 1)
    ay, by, origin_y, stride_y = mirror(ay, by, grid_height, grid_width)
    az, bz, origin_z, stride_z = mirror(az, bz, grid_depth, grid_width * grid_height)
    origin = origin_x + origin_y + origin_z
    sizes, strides = (grid_width, grid_height, grid_depth), (stride_x, stride_y, stride_z)
    last_x, last_y, last_z = row * 0 - 9, row * 0 - 9, row * 0 - 9
    zero = dx * 0
    sums = (zero, zero, zero, zero, zero, zero, zero, zero)
    sums_weight = (zero, zero, zero, zero, zero, zero, zero, zero)
    grad_scale = zero
    fixed_density, fixed_features = 1.0, 1.0
    if FIXED:
        fixed_density, fixed_features = tl.load(fixed), tl.load(fixed + 1)
    while rounds > 0:
        inside = (k < end) & (k * step < length)
        t = entry + k * step
        x, fx = cell(ax + t * bx)
        y, fy = cell(ay + t * by)
        z, fz = cell(az + t * bz)
        jumped = inside & ((x > last_x + 1) | (y > last_y + 1) | (z > last_z + 1))
        if tl.max(jumped.to(tl.int32)) > 0:  # at first, and where a step is longer than a voxel
            flush(
                grad_density, grad_features, last_x, last_y, last_z, sizes, strides, origin, sums, sums_weight, up,
                jumped, fixed_density, fixed_features, 3, MERGE, FIXED,
            )  # fmt: skip
            none, none_weight = (), ()
            for c in tl.static_range(8):
                none = none + (tl.where(jumped, 0.0, sums[c]),)
                none_weight = none_weight + (tl.where(jumped, 0.0, sums_weight[c]),)
            sums, sums_weight = none, none_weight
        for axis in tl.static_range(3):
            moved = inside & ((x, y, z)[axis] != (last_x, last_y, last_z)[axis])
            flush(
                grad_density, grad_features, last_x, last_y, last_z, sizes, strides, origin, sums, sums_weight, up,
                moved, fixed_density, fixed_features, axis, MERGE, FIXED,
            )  # fmt: skip
            sums = shift(sums, moved, axis)
            if MERGE:
                sums_weight = shift(sums_weight, moved, axis)
            if axis == 0:
                last_x = tl.where(moved, x, last_x)
            elif axis == 1:
                last_y = tl.where(moved, y, last_y)
            else:
                last_z = tl.where(moved, z, last_z)

        raw = fetch_density(density, x, y, z, fx, fy, fz, grid_width, grid_height, grid_depth, strides, origin, inside)
        dense, logistic = softplus(scale * raw + density_shift)
        thickness = dense * step
        transmittance = tl.exp(-optical_depth)
        weight = tl.where(inside, transmittance * opacity_of(thickness), 0.0)
        bright = weight > GATE
        d_emptiness = beta / (1 + beta * weight)
        d_weight = base + up_depth * t + up_penalty * d_emptiness
        d_raw_features = ()
        for g in tl.static_range(GROUPS):
            fetched = fetch_features(
                features, x, y, z, fx, fy, fz, grid_width, grid_height, grid_depth, strides, origin, bright,
                g, C, STRIDE,
            )  # fmt: skip
            if SIGMOID:
                fetched, d_color = color(fetched)
                d_raw_features = d_raw_features + (up[g] * d_color,)
            d_weight += tl.where(bright, tl.sum(up[g] * fetched, 1), 0.0)
        prefix += d_weight * weight
        d_density = step * (transmittance * tl.exp(-thickness) * d_weight - (total - prefix))
        d_argument = tl.where(inside, d_density * logistic, 0.0)  # of softplus
        d_raw = d_argument * scale
        grad_scale += d_raw * raw
        optical_depth += tl.where(inside, thickness, 0.0)

        lit = tl.where(bright, weight, 0.0)
        new, new_weight = (), ()
        for c in tl.static_range(8):
            index, tri = corner_along(c, x, y, z, fx, fy, fz, grid_width, grid_height, grid_depth, strides, origin)
            new = new + (sums[c] + tri * d_raw,)
            if MERGE:
                new_weight = new_weight + (sums_weight[c] + tri * lit,)
            else:
                spot = grad_features + tl.expand_dims(index * (4 * GROUPS), 1) + channel
                for g in tl.static_range(GROUPS):
                    value = tl.expand_dims(tri * lit, 1) * d_raw_features[g]
                    add(spot + 4 * g, value, tl.expand_dims(bright, 1), fixed_features, FIXED)
        sums = new
        if MERGE:
            sums_weight = new_weight
        k += 1
        rounds -= 1
    flush(
        grad_density, grad_features, last_x, last_y, last_z, sizes, strides, origin, sums, sums_weight, up,
        valid, fixed_density, fixed_features, 3, MERGE, FIXED,
    )  # fmt: skip

    fixed_background, fixed_scale = 1.0, 1.0
    if FIXED:
        fixed_background, fixed_scale = tl.load(fixed + 2), tl.load(fixed + 3)
        # Each ray's share is rounded by itself, so that the sum does not depend on how it is taken.
        tl.atomic_add(grad_log_scale, tl.sum(fixed_point(grad_scale, fixed_scale)), sem="relaxed")
    else:
        tl.atomic_add(grad_log_scale, tl.sum(grad_scale), sem="relaxed")
    if TEXTURE and tl.program_id(1) == 0:
        tx, ty, ux, uy = texture_cell(dx, dy, dz)
        first = valid & (segment == 0)
        one_x = tl.min(tl.where(first, tx, 9)) == tl.max(tl.where(first, tx, -9))
        one_y = tl.min(tl.where(first, ty, 9)) == tl.max(tl.where(first, ty, -9))
        for c in tl.static_range(4):
            index, tri = corner(c, tx, ty, ty * 0, ux, uy, uy * 0, 4, 4, 1)
            for g in tl.static_range(GROUPS):
                value = tl.expand_dims(1 - opaque, 1) * up[g] * d_activation[g]
                part = tl.expand_dims(tri, 1) * tl.where(tl.expand_dims(first, 1), value, 0.0)
                if FIXED:
                    part = fixed_point(part, fixed_background)
                texel = grad_background + 4 * g + channel
                if one_x & one_y:  # as most warps are: there are few texels, and many rays that add to each
                    here = tl.max(tl.where(first, index, 0))
                    tl.atomic_add(texel + here * (4 * GROUPS), tl.sum(part, 0), sem="relaxed")
                else:
                    spot = texel + tl.expand_dims(index * (4 * GROUPS), 1)
                    tl.atomic_add(spot, part, tl.expand_dims(first, 1), sem="relaxed")
