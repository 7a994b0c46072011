"""Compositing in Triton; mathematics: `sjc_fast.kernels.march`, whose letters have the same names here."""

from __future__ import annotations

import triton
import triton.language as tl

from ..march.kernels import EARLY_STOP, FAR_DEPTH, GATE, OPAQUE, exclusive_sum, known_sums, ray_sum
from ..maths import log1p, opacity_of
from ..options import INTERPRETING

LANES_A_RAY = 8 if INTERPRETING else 16
RAYS_A_PROGRAM = 256 if INTERPRETING else 2


@triton.jit
def composite_kernel(
    density,  # [N, K]
    features,  # [N, K, C]
    background,  # [N, C]
    entry,  # [N]
    out_features,  # [N, C]
    out_depth,  # [N]
    out_opacity,  # [N]
    out_emptiness,  # [N]
    out_d_emptiness,  # [N] sum of w beta / (1 + beta w)
    rays,
    samples,
    step,
    beta,
    C: tl.constexpr,
    RAYS: tl.constexpr,
    LANES: tl.constexpr,
):
    """RAYS rays, LANES samples of each at a time."""
    lane = tl.arange(0, RAYS * LANES)
    ray = tl.program_id(0) * RAYS + lane // LANES
    valid = ray < rays
    channel = tl.arange(0, 4)
    start = tl.load(entry + ray, valid, other=0.0)
    optical_depth = start * 0
    opacity, depth, d_emptiness, penalty = optical_depth, optical_depth, optical_depth, optical_depth
    lit = tl.zeros([RAYS * LANES, 4], tl.float32)
    k = lane % LANES
    live = 1
    while live > 0:
        inside = valid & (k < samples)
        thickness = tl.load(density + ray * samples + k, inside, other=0.0) * step
        scanned = tl.minimum(thickness, OPAQUE)
        transmittance = tl.exp(-optical_depth - exclusive_sum(scanned, RAYS, LANES))
        weight = tl.where(transmittance >= EARLY_STOP, transmittance * opacity_of(thickness), 0.0)
        bright = tl.expand_dims(weight > GATE, 1) & (channel < C)
        where = tl.expand_dims((ray * samples + k) * C, 1) + channel
        lit += tl.expand_dims(weight, 1) * tl.load(features + where, bright, other=0.0)
        opacity += weight
        depth += weight * (start + k * step)
        d_emptiness += weight * (beta / (1 + beta * weight))
        penalty += log1p(beta * weight)
        optical_depth += ray_sum(scanned, RAYS, LANES)
        k += LANES
        live = tl.max((valid & (k < samples) & (tl.exp(-optical_depth) >= EARLY_STOP)).to(tl.int32))
    first = valid & (lane % LANES == 0)
    opaque = ray_sum(opacity, RAYS, LANES)
    known = tl.expand_dims(first, 1) & (channel < C)
    at = tl.expand_dims(ray * C, 1) + channel
    behind = tl.load(background + at, known, other=0.0)
    tl.store(out_features + at, ray_sum(lit, RAYS, LANES) + tl.expand_dims(1 - opaque, 1) * behind, known)
    tl.store(out_depth + ray, ray_sum(depth, RAYS, LANES) + (1 - opaque) * FAR_DEPTH, first)
    tl.store(out_opacity + ray, opaque, first)
    tl.store(out_emptiness + ray, ray_sum(penalty, RAYS, LANES) / samples, first)
    tl.store(out_d_emptiness + ray, ray_sum(d_emptiness, RAYS, LANES), first)


@triton.jit
def composite_gradient_kernel(
    density,
    features,
    background,
    entry,
    out_features,  # what the forward pass wrote
    out_depth,
    out_opacity,
    out_d_emptiness,
    v_features,  # [N, C] upstream gradients
    v_depth,  # [N]
    v_opacity,  # [N]
    v_emptiness,  # [N]
    grad_density,  # [N, K]
    grad_features,  # [N, K, C]
    rays,
    samples,
    step,
    beta,
    C: tl.constexpr,
    RAYS: tl.constexpr,
    LANES: tl.constexpr,
):
    """RAYS rays, LANES samples of each at a time; hidden samples get exactly zero."""
    lane = tl.arange(0, RAYS * LANES)
    ray = tl.program_id(0) * RAYS + lane // LANES
    valid = ray < rays
    channel = tl.arange(0, 4)
    known = tl.expand_dims(valid, 1) & (channel < C)
    at = tl.expand_dims(ray * C, 1) + channel
    up = tl.load(v_features + at, known, other=0.0)
    behind = tl.load(background + at, known, other=0.0)
    up_depth = tl.load(v_depth + ray, valid, other=0.0)
    up_opacity = tl.load(v_opacity + ray, valid, other=0.0)
    up_penalty = tl.load(v_emptiness + ray, valid, other=0.0) / samples
    seen = tl.load(out_features + at, known, other=0.0)
    far = tl.load(out_depth + ray, valid, other=0.0)
    opaque = tl.load(out_opacity + ray, valid, other=0.0)
    d_emptiness_sum = tl.load(out_d_emptiness + ray, valid, other=0.0)
    base, total = known_sums((up,), up_depth, up_opacity, up_penalty, (behind,), (seen,), far, opaque, d_emptiness_sum)
    start = tl.load(entry + ray, valid, other=0.0)
    optical_depth, prefix = start * 0, start * 0
    k = lane % LANES
    done = 0
    while done < samples:
        inside = valid & (k < samples)
        there = ray * samples + k
        thickness = tl.load(density + there, inside, other=0.0) * step
        scanned = tl.minimum(thickness, OPAQUE)
        transmittance = tl.exp(-optical_depth - exclusive_sum(scanned, RAYS, LANES))
        shown = transmittance >= EARLY_STOP
        weight = tl.where(shown, transmittance * opacity_of(thickness), 0.0)
        bright = weight > GATE
        where = tl.expand_dims(there * C, 1) + channel
        value = tl.load(features + where, tl.expand_dims(bright, 1) & (channel < C), other=0.0)
        d_weight = base + up_depth * (start + k * step) + up_penalty * (beta / (1 + beta * weight))
        d_weight += tl.sum(up * value, 1)
        gained = d_weight * weight
        up_to = prefix + exclusive_sum(gained, RAYS, LANES) + gained
        d_density = step * (transmittance * tl.exp(-thickness) * d_weight - (total - up_to))
        tl.store(grad_density + there, tl.where(shown, d_density, 0.0), inside)
        light = tl.expand_dims(tl.where(bright, weight, 0.0), 1) * up
        tl.store(grad_features + where, light, tl.expand_dims(inside, 1) & (channel < C))
        prefix += ray_sum(gained, RAYS, LANES)
        optical_depth += ray_sum(scanned, RAYS, LANES)
        k += LANES
        done += LANES
