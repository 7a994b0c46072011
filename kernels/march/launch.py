"""How Triton runs the march: launches of the kernels in kernels.py, and how rays are cut up for a GPU."""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from ..contract import GROUP, Gradients, Quadrature, Rendering, Saved, Scene, Upstream, padded, state_shape
from ..options import INTERPRETING, OPTIONS, launch
from . import kernels
from .emptiness import penalty_gradient

#: Lanes that fill a large GPU: rays are split, forward over neighboring lanes, backward into segments, to reach it.
FULL = 1 << 16
#: At most, a thread: with up to four channels, and for each further one.
FORWARD_REGISTERS, BACKWARD_REGISTERS, FIXED_REGISTERS = (96, 6), (136, 9), (192, 9)


def registers(channels: int, usual: int, each: int) -> int:
    """At most, a thread, where four channels want `usual` and each further one `each`."""
    return min(255, usual + each * (padded(channels) - GROUP))


def split(rays: int) -> tuple[int, int]:
    """Lanes a ray has forward, and segments backward, so that `FULL` lanes are busy; powers of two up to 32."""
    if INTERPRETING:  # which pays by the operation, not by the lane
        return 4, 16
    lanes = 2 ** max(0, min(5, math.ceil(math.log2(FULL / max(1, rays)))))
    return lanes, lanes


def tile_of(rays: int, width: int) -> dict[str, int]:
    """A program's pixels: a compact patch of one warp; the interpreter, which pays per program, gets a large one."""
    if INTERPRETING:
        side = min(32, triton.next_power_of_2(width))
        return {"TILE_H": side, "TILE_W": side}
    tile_h = 2 ** (int(math.log2(rays)) // 2)
    return {"TILE_H": tile_h, "TILE_W": rays // tile_h}


def count_tiles(tile: dict[str, int], height: int, width: int) -> int:
    """Programs that cover a view."""
    return triton.cdiv(height, tile["TILE_H"]) * triton.cdiv(width, tile["TILE_W"])


def chunks_between_tests(segments: int) -> int:
    """Chunks between two tests of the early stop; a segment may be a single chunk."""
    return 1 if INTERPRETING or segments > 1 else 4


def forward(
    scene: Scene,
    size: tuple[int, int],
    quadrature: Quadrature,
    plan: tuple[int, int],
    *,
    channels: int | None = None,
    slots: Tensor | None = None,
    bricks: Tensor | None = None,
    skip_below: float = 0.0,
) -> tuple[Rendering, Saved]:
    """Render height x width pixels; `channels` of padded features count."""
    (height, width), (lanes, segments) = size, plan
    views, channels = len(scene.c2w), channels or scene.features.shape[-1]
    new = {"device": scene.density.device, "dtype": torch.float32}
    features = torch.empty(views, channels, height, width, **new)
    depth, opacity, penalty, d_emptiness = (torch.empty(views, height, width, **new) for _ in range(4))
    ray_slots, stop = (
        torch.empty(views, height, width, device=scene.density.device, dtype=torch.int32) for _ in range(2)
    )
    state = torch.empty(state_shape(views, channels, height * width, segments), **new)
    if views:
        tile = tile_of(32 // lanes, width)
        tiles = count_tiles(tile, height, width)
        with torch.cuda.device_of(scene.density):
            launch(kernels.march_forward, tiles, views)(
                *_contiguous(scene), scene.density if bricks is None else bricks,
                features, depth, opacity, penalty, d_emptiness, ray_slots, stop, state[0], state[1:],
                height, width, *scene.density.shape[-3:], quadrature.density_shift, quadrature.step, quadrature.beta,
                skip_below, C=channels, STRIDE=scene.features.stride(-2), SIGMOID=quadrature.sigmoid,
                TEXTURE=scene.background.ndim > 2, STACKED=scene.asset is not None, SKIP=bricks is not None,
                SEGMENTS=segments, LANES=lanes,
                TEST=chunks_between_tests(segments), **tile, **OPTIONS, maxnreg=registers(channels, *FORWARD_REGISTERS),
            )  # fmt: skip
    emptiness, counted = torch.empty(views, **new), torch.empty(views, device=new["device"], dtype=torch.int64)
    if views:
        with torch.cuda.device_of(scene.density):
            launch(kernels.finish_views, views)(
                penalty, ray_slots, counted if slots is None else slots.contiguous(), emptiness, counted,
                height * width, GIVEN=slots is not None, BLOCK=4096, **(OPTIONS | {"num_warps": 16}),
            )  # fmt: skip
    rendering = Rendering(features, depth, opacity, emptiness)
    return rendering, Saved(features, depth, opacity, d_emptiness, stop, counted, state)


def backward(
    grads: Gradients,
    scene: Scene,
    saved: Saved,
    upstream: Upstream,
    quadrature: Quadrature,
    plan: tuple[int, int],
    scales: Tensor | None,
) -> None:
    """Add the gradients to `grads`; in fixed point, times `scales` [4], where these are given."""
    views, channels, height, width = saved.features.shape
    lanes, segments = plan
    if not views:
        return
    tile = tile_of(32, width)
    tiles = count_tiles(tile, height, width)
    span = segments if INTERPRETING else 1
    unused = saved.features  # an address that a kernel gets and does not read
    limits = BACKWARD_REGISTERS if scales is None else FIXED_REGISTERS
    with torch.cuda.device_of(scene.density):
        launch(kernels.march_backward, tiles, segments // span, views)(
            *_contiguous(scene), saved.features, saved.depth, saved.opacity, saved.d_emptiness, saved.stop,
            saved.state[0], saved.state[1:], upstream.features.contiguous(),
            unused if upstream.depth is None else upstream.depth.contiguous(),
            unused if upstream.opacity is None else upstream.opacity.contiguous(),
            unused if upstream.emptiness is None else upstream.emptiness.contiguous(), saved.slots, *grads,
            unused if scales is None else scales,
            height, width, *scene.density.shape[-3:], quadrature.density_shift, quadrature.step, quadrature.beta,
            C=channels, STRIDE=scene.features.stride(-2), SIGMOID=quadrature.sigmoid,
            TEXTURE=scene.background.ndim > 2, STACKED=scene.asset is not None, DEPTH=upstream.depth is not None,
            OPACITY=upstream.opacity is not None, EMPTINESS=upstream.emptiness is not None, FIXED=scales is not None,
            SEGMENTS=segments, LANES=lanes, SPAN=span, **tile, **OPTIONS, maxnreg=registers(channels, *limits),
        )  # fmt: skip


def _contiguous(scene: Scene) -> Scene:
    """Background and cameras as the kernels read them; the grids have been checked."""
    log_scale, asset = scene.log_scale.contiguous(), scene.asset
    return scene._replace(
        background=scene.background.contiguous(), c2w=scene.c2w.contiguous(), fov=scene.fov.contiguous(),
        log_scale=log_scale, asset=scene.density if asset is None else asset.contiguous(),  # an address, unread
    )  # fmt: skip


def fixed_scales(scene: Scene, saved: Saved, upstream: Upstream, quadrature: Quadrature) -> Tensor:
    """Powers of two [4] that keep every gradient, summed over all rays, inside 62 bits; nothing is read on the host.

    A bound on |dL/dw| over the samples bounds each sample's gradients; the farthest a sample can be is the far corner
    of the box, whose distance is under the camera's own plus the box's extent.
    """
    device, channels = saved.features.device, saved.features.shape[1]
    largest = lambda x: torch.zeros((), device=device) if x is None else x.abs().max().float()  # noqa: E731
    color = torch.ones((), device=device)
    if not quadrature.sigmoid:
        color = torch.maximum(largest(scene.features[..., :channels]), largest(scene.background))
    elif scene.background.ndim == 2:
        color = torch.maximum(color, largest(scene.background))
    reach = 10 + scene.c2w[:, :3, 3].norm(dim=-1).max() + scene.box.norm()
    d_weight = 2 * channels * largest(upstream.features) * color + largest(upstream.depth) * reach
    d_weight = d_weight + largest(upstream.opacity)
    if upstream.emptiness is not None:
        d_weight = d_weight + penalty_gradient(saved, upstream).abs().max() * quadrature.beta
    d_raw = 2 * quadrature.step * d_weight * scene.log_scale.max().exp()
    d_features = largest(upstream.features)
    bounds = torch.stack([d_raw, d_features, d_features, d_raw * largest(scene.density)])
    samples = 12 + math.ceil(math.log2(max(1, saved.depth.numel())))  # up to 4096 a ray
    return torch.exp2((62 - samples - bounds.clamp_min(1e-30).log2().ceil()).clamp_max(126))
