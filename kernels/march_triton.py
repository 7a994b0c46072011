"""How Triton runs the march: launches of the kernels in march_kernels.py, and how rays are cut up for a GPU."""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from . import march_kernels as kernels
from .launch import INTERPRETING, OPTIONS

#: Lanes that fill a large GPU: rays are split, forward over neighbouring lanes, backward into segments, to reach it.
FULL = 1 << 16


def split(rays: int) -> tuple[int, int]:
    """Lanes a ray has forward, and segments backward, so that `FULL` lanes are busy; powers of two up to 16."""
    if INTERPRETING:  # which pays by the operation, not by the lane
        return 4, 16
    share = 2 ** max(0, min(4, math.ceil(math.log2(FULL / max(1, rays)))))
    return share, share


def _tile(rays: int, width: int) -> dict[str, int]:
    """A program's pixels: a compact patch of one warp; the interpreter, which pays per program, gets a large one."""
    if INTERPRETING:
        side = min(32, triton.next_power_of_2(width))
        return {"TILE_H": side, "TILE_W": side}
    tile_h = 2 ** (int(math.log2(rays)) // 2)
    return {"TILE_H": tile_h, "TILE_W": rays // tile_h}


def _chunks(segments: int) -> int:
    """Chunks between two tests of the early stop; a segment may be a single chunk."""
    return 1 if INTERPRETING or segments > 1 else 4


def forward(
    scene: tuple[Tensor, ...],
    shape: tuple[int, int, float, float, bool, float],
    *,
    lanes: int,
    segments: int,
    channels: int | None = None,
    bricks: Tensor | None = None,
    skip_below: float = 0.0,
) -> tuple[Tensor, ...]:
    """Render: features, depth, opacity, penalty, slope, slots, stop, state (see `march.Views`)."""
    density, features, background, log_scale, c2w, fov, box = scene
    height, width, step, density_shift, sigmoid, beta = shape
    views, channels = len(c2w), channels or features.shape[-1]
    new = {"device": density.device, "dtype": torch.float32}
    image = torch.empty(views, channels, height, width, **new)
    depth, opacity, penalty, slope = (torch.empty(views, height, width, **new) for _ in range(4))
    slots, stop = (torch.empty(views, height, width, device=density.device, dtype=torch.int32) for _ in range(2))
    state = torch.empty(2, views, segments - 1, 4 * height * width, **new)
    tile = _tile(32 // lanes, width)
    tiles = triton.cdiv(height, tile["TILE_H"]) * triton.cdiv(width, tile["TILE_W"])
    with torch.cuda.device_of(density):
        if not views:
            return image, depth, opacity, penalty, slope, slots, stop, state
        kernels.march_forward[(tiles, views)](
            density, features, background.contiguous(), log_scale, c2w.contiguous(), fov.contiguous(), box,
            density if bricks is None else bricks, image, depth, opacity, penalty, slope, slots, stop,
            state[0], state[1], height, width, *density.shape, density_shift, step, beta, skip_below,
            C=channels, STRIDE=features.stride(2), SIGMOID=sigmoid, TEXTURE=background.ndim == 3,
            SKIP=bricks is not None, SEGMENTS=segments, LANES=lanes, TEST=_chunks(segments),
            **tile, **OPTIONS, maxnreg=96,
        )  # fmt: skip
    return image, depth, opacity, penalty, slope, slots, stop, state


def backward(
    grads: tuple[Tensor, ...],
    forward: tuple[Tensor, ...],
    upstream: tuple[Tensor | None, ...],
    shape: tuple[float, float, bool, float],
    lanes: int,
    segments: int,
    scales: Tensor | None,
) -> None:
    """Add the gradients to `grads`."""
    density, features, background, log_scale, c2w, fov, box, image, depth, opacity, slope, stop, slots, state = forward
    v_features, v_depth, v_opacity, v_emptiness = upstream
    step, density_shift, sigmoid, beta = shape
    views, channels, height, width = image.shape
    if v_emptiness is None:
        v_penalty = torch.zeros(views, device=density.device)
    else:
        v_penalty = v_emptiness / (slots * (height * width))
    tile = _tile(32, width)
    tiles = triton.cdiv(height, tile["TILE_H"]) * triton.cdiv(width, tile["TILE_W"])
    span = segments if INTERPRETING else 1
    if not views:
        return
    with torch.cuda.device_of(density):
        kernels.march_backward[(tiles, segments // span, views)](
            density, features, background.contiguous(), log_scale, c2w.contiguous(), fov.contiguous(), box,
            image, depth, opacity, slope, stop, state[0], state[1], v_features.contiguous(),
            image if v_depth is None else v_depth.contiguous(),
            image if v_opacity is None else v_opacity.contiguous(),
            v_penalty, *grads, image if scales is None else scales,
            height, width, *density.shape, density_shift, step, beta,
            C=channels, STRIDE=features.stride(2), SIGMOID=sigmoid, TEXTURE=background.ndim == 3,
            DEPTH=v_depth is not None, OPACITY=v_opacity is not None, FIXED=scales is not None,
            SEGMENTS=segments, LANES=lanes, SPAN=span, **tile, **OPTIONS, maxnreg=128,
        )  # fmt: skip


def fixed_scales(
    forward: tuple[Tensor, ...], upstream: tuple[Tensor | None, ...], step: float, sigmoid: bool, beta: float
) -> Tensor:
    """Powers of two [4] that keep every gradient, summed over all rays, inside 62 bits; nothing is read on the host.

    A bound on |dL/dw| over the samples bounds each sample's gradients; the farthest a sample can be is the far corner
    of the box, whose distance is under the camera's own plus the box's extent.
    """
    density, features, background, log_scale, c2w, _fov, box, image = forward[:8]
    slots = forward[12]
    v_features, v_depth, v_opacity, v_emptiness = upstream
    largest = lambda x: torch.zeros((), device=image.device) if x is None else x.abs().max().float()  # noqa: E731
    colour = torch.ones((), device=image.device)
    if not sigmoid:
        colour = torch.maximum(largest(features[..., : image.shape[1]]), largest(background))
    elif background.ndim == 2:
        colour = torch.maximum(colour, largest(background))
    reach = 10 + c2w[:, :3, 3].norm(dim=-1).max() + box.norm()
    gain = 2 * image.shape[1] * largest(v_features) * colour + largest(v_depth) * reach + largest(v_opacity)
    if v_emptiness is not None:
        gain = gain + (v_emptiness / (slots * image[0, 0].numel())).abs().max() * beta
    of_raw = 2 * step * gain * log_scale.exp()
    bounds = torch.stack([of_raw, largest(v_features), largest(v_features), of_raw * largest(density)])
    samples = 12 + math.ceil(math.log2(max(1, image[:, 0].numel())))  # up to 4096 a ray
    return torch.exp2((62 - samples - bounds.clamp_min(1e-30).log2().ceil()).clamp_max(126))
