"""`march`: a voxel grid and cameras to rendered views, fused, with its one-pass backward.

Kernels: march_kernels.py in Triton (launched by march_triton.py), and csrc/ in C++ for CPU tensors (march_native.py).

Along a ray, samples lie at ``t_k = t_entry + k d`` while ``k d < t_exit - t_entry``. With r the trilinear raw density
(0 outside the grid): ``density = softplus(exp(log_scale) r + density_shift)``, ``alpha = 1 - exp(-density d)``,
``T_k = prod_{j<k} (1 - alpha_j)``, ``w_k = alpha_k T_k``. A ray ends where T < 1e-6. With b the background, features
are ``sum w c + (1 - sum w) b`` (a sample's features c count where w > 1e-4), depth ``sum w t + (1 - sum w) 10``.

Backward, front to back, with g_k = dL/dw_k, P_k the running sum of g w up to and including k, and G their sum over the
ray, known beforehand from what the forward pass wrote: ``dL/ddensity_k = d ((1 - alpha_k) T_k g_k - (G - P_k))``.
Nothing is divided and nothing scanned in reverse, so hidden samples get exactly nothing.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .bricks import bricks_shape
from .native import serves


class March(NamedTuple):
    """What `march` returns for V views."""

    features: Tensor  # [V, C, h, w]
    depth: Tensor  # [V, h, w]
    opacity: Tensor  # [V, h, w]
    emptiness: Tensor  # [V] mean of log(1 + beta w) over the view's slots


def march(
    density: Tensor,  # [D, H, W] float32 or float16, bfloat16
    features: Tensor,  # [D, H, W, C] the same, C = 3 or 4; a voxel's features contiguous, voxels 3 or 4 numbers apart
    background: Tensor,  # [C, 4, 4] texture over ray directions, or [V, C] plain
    log_scale: Tensor,  # []
    c2w: Tensor,  # [V, 4, 4] camera-to-world, OpenGL axes
    fov: Tensor,  # [V] degrees across the width
    box: Tensor,  # [2, 3]
    *,
    height: int,
    width: int,
    step: float,
    density_shift: float = -1.0,
    sigmoid: bool = False,
    beta: float = 10.0,
    slots: Tensor | None = None,
    copies: tuple[Tensor, Tensor] | None = None,
    deterministic: bool = False,
    native: bool | None = None,
) -> March:
    """Render V views of a voxel grid, with gradients to density, features, background and log_scale.

    Args:
        step: distance d between samples, in world units.
        sigmoid: features (and texture) are ``2 sigmoid(.) - 1`` of the interpolated raw values.
        beta: scale inside the emptiness logarithm.
        slots: int64 [V], the sample slots of each view; counted if not given: floor(longest / d) + 1.
        copies: half-precision copies of density and features (these may be padded to four channels) to read instead;
            gradients go to density and features, in float32.
        deterministic: gradients are summed in fixed point, so they are the same bits from run to run (the C++ code's
            always are).
        native: the compiled C++ code rather than Triton's; default: for CPU tensors.

    Raises:
        ValueError: a shape, type or layout that the kernels cannot read.
        NativeError: the C++ code is wanted, and cannot be built here.
    """
    native = serves(density, native)
    _check((density, features, background, log_scale, c2w, fov, box), height * width, step, native, copies)
    lanes, segments = _code(native).split(len(c2w) * height * width)
    reads = (None, None) if copies is None else copies
    out = _march(
        density, features, background, log_scale, c2w, fov, box, slots, *reads,
        height, width, step, density_shift, sigmoid, beta, lanes, segments, deterministic, native,
    )  # fmt: skip
    return March(*out[:4])


@torch.no_grad()
def march_skip(
    density: Tensor,
    features: Tensor,
    background: Tensor,
    log_scale: Tensor,
    c2w: Tensor,
    fov: Tensor,
    box: Tensor,
    bricks: Tensor,  # from `brick_maximum`
    *,
    height: int,
    width: int,
    step: float,
    density_shift: float = -1.0,
    sigmoid: bool = False,
    beta: float = 10.0,
    skip_below: float = 1e-5,
    native: bool | None = None,
) -> March:
    """`march` without gradients, which leaps over bricks that hold no sample of optical thickness `skip_below`.

    A ray's opacity falls short by less than `skip_below` times its number of samples: at most 0.0035 (less than one of
    256 grey levels) for 100^3 voxels. For previews and video; not for training, where a tiny gradient is not nothing.
    """
    scene = (density, features, background, log_scale, c2w, fov, box)
    native = serves(density, native)
    _check(scene, height * width, step, native)
    if list(bricks.shape) != bricks_shape(density):
        raise ValueError("bricks must be what brick_maximum returns for the density")
    shape = (height, width, step, density_shift, sigmoid, beta)
    forward = _code(native).forward
    views = Views(*forward(scene, shape, lanes=1, segments=1, bricks=bricks, skip_below=skip_below))
    return March(*views[:3], _emptiness(views, _counted(views)))


def _check(
    scene: tuple[Tensor, ...],
    pixels: int,
    step: float,
    native: bool,
    copies: tuple[Tensor, Tensor] | None = None,
) -> None:
    density, features, background, *others = scene
    _log_scale, c2w, fov, box = others
    kinds = (torch.float32, torch.float16, torch.bfloat16)
    reads = (density, features) if copies is None else copies
    channels = features.shape[-1]
    if density.ndim != 3 or features.shape[:3] != density.shape or features.ndim != 4 or channels not in (3, 4):
        raise ValueError(
            f"density {list(density.shape)} and features {list(features.shape)} are not one grid of 3 or 4"
        )
    if 0 in density.shape or not 0 < step < float("inf"):
        raise ValueError(f"a grid of {list(density.shape)} cannot be marched in steps of {step}")
    if c2w.shape[1:] != (4, 4) or fov.shape != c2w.shape[:1] or box.shape != (2, 3):
        raise ValueError("cameras are c2w [V, 4, 4] with fov [V], and the box is [2, 3]")
    if native and any(x.device.type != "cpu" for x in (*scene, *reads)):
        raise ValueError("the compiled code takes CPU tensors")
    if any(x.dtype not in kinds for x in (density, features, *reads)):
        raise ValueError("the kernels read float32, float16 and bfloat16 grids")
    if any(x.dtype != torch.float32 for x in (background, *others)):
        raise ValueError("background, log_scale, cameras and box must be float32")
    if not box.is_contiguous():
        raise ValueError("box must be contiguous")
    if tuple(background.shape) not in ((channels, 4, 4), (len(c2w), channels)):
        raise ValueError(f"background is [{channels}, 4, 4] or [{len(c2w)}, {channels}], not {list(background.shape)}")
    deep, high, wide = density.shape
    gap = reads[1].stride(2)
    if (
        not reads[0].is_contiguous()
        or reads[1].stride() != (high * wide * gap, wide * gap, gap, 1)
        or gap not in (3, 4)
    ):
        raise ValueError("density must be contiguous, and features contiguous but for padding to 4 channels")
    if deep * high * wide * 4 >= 2**31 or len(c2w) * pixels * 4 >= 2**31:
        raise ValueError("the kernels count in 32 bits: at most 2^29 voxels, and as many pixels")


class Saved(NamedTuple):
    """What `march_forward` returns: the rendering, and what `march_accumulate` needs of it."""

    features: Tensor  # [V, C, h, w]
    depth: Tensor  # [V, h, w]
    opacity: Tensor  # [V, h, w]
    emptiness: Tensor  # [V]
    slope: Tensor  # [V, h, w] sum of w beta / (1 + beta w)
    stop: Tensor  # [V, h, w] int32, samples until the ray is opaque
    slots: Tensor  # [V] int64
    state: Tensor  # running sums where segments start


@torch.no_grad()
def march_forward(
    scene: tuple[Tensor, ...],  # density, features, background, log_scale, c2w, fov, box, as `march` takes them
    *,
    height: int,
    width: int,
    step: float,
    density_shift: float = -1.0,
    sigmoid: bool = False,
    beta: float = 10.0,
    slots: Tensor | None = None,
    native: bool | None = None,
) -> Saved:
    """`march` for a step that holds its own gradient buffers; half-precision copies go straight into `scene`."""
    native = serves(scene[0], native)
    _check(scene, height * width, step, native)
    plan = (*_code(native).split(len(scene[4]) * height * width), False, native)
    return Saved(*_march(*scene, slots, None, None, height, width, step, density_shift, sigmoid, beta, *plan))


@torch.no_grad()
def march_accumulate(
    grads: tuple[Tensor, Tensor, Tensor, Tensor],  # float32: density [D, H, W], features [D, H, W, 4], texture
    # [4, 4, 4] ([y, x, channel]) and log_scale []; added to
    scene: tuple[Tensor, ...],
    saved: Saved,
    v_features: Tensor,  # [V, C, h, w] upstream gradients
    v_emptiness: Tensor | None = None,  # [V]
    v_depth: Tensor | None = None,  # [V, h, w]
    v_opacity: Tensor | None = None,  # [V, h, w]
    *,
    step: float,
    density_shift: float = -1.0,
    sigmoid: bool = False,
    beta: float = 10.0,
    native: bool | None = None,
) -> None:
    """The backward pass of `march_forward`, added to buffers that the optimiser step leaves at zero.

    Raises:
        ValueError: buffers of another shape or type, or not 16-byte aligned; upstream gradients of another shape.
    """
    if tuple(tuple(g.shape) for g in grads) != _gradient_shapes(scene[0]):
        raise ValueError(f"the gradient buffers must be {_gradient_shapes(scene[0])}")
    if any(g.dtype != torch.float32 or not g.is_contiguous() or g.data_ptr() % 16 for g in grads):
        raise ValueError("the gradient buffers must be float32, contiguous and 16-byte aligned")
    image, depth, opacity, emptiness, *rest = saved
    expected = (image.shape, emptiness.shape, depth.shape, opacity.shape)
    upstream = (v_features, v_emptiness, v_depth, v_opacity)
    if any(v is not None and v.shape != s for v, s in zip(upstream, expected, strict=True)):
        raise ValueError("upstream gradients must have the shapes of what they belong to")
    native = serves(depth, native)
    plan = (*_code(native).split(depth.numel()), native)  # as march_forward chose
    _accumulate(
        *grads, *scene, image, depth, opacity, *rest, v_features, v_depth, v_opacity, v_emptiness,
        step, density_shift, sigmoid, beta, *plan,
    )  # fmt: skip


class Views(NamedTuple):
    """What a forward pass leaves, whichever code took it."""

    features: Tensor  # [V, C, h, w]
    depth: Tensor  # [V, h, w]
    opacity: Tensor  # [V, h, w]
    penalty: Tensor  # [V, h, w] sum of log(1 + beta w)
    slope: Tensor  # [V, h, w] sum of w beta / (1 + beta w)
    slots: Tensor  # [V, h, w] int32
    stop: Tensor  # [V, h, w] int32
    state: Tensor  # running sums at the segments' starts


def _code(native: bool) -> ModuleType:
    """The compiled C++ code or Triton's: each has `split`, `forward` and `backward`."""
    if native:
        from . import march_native

        return march_native
    from . import march_triton

    return march_triton


def _counted(views: Views) -> Tensor:
    """Sample slots of each view [V]: those of its longest ray."""
    return views.slots.flatten(1).amax(1).long()


def _emptiness(views: Views, slots: Tensor) -> Tensor:
    _count, height, width = views.penalty.shape
    return views.penalty.flatten(1).sum(1) / (slots * (height * width))


@torch.library.custom_op("sjc_fast::march", mutates_args=())
def _march(
    density: Tensor,
    features: Tensor,
    background: Tensor,
    log_scale: Tensor,
    c2w: Tensor,
    fov: Tensor,
    box: Tensor,
    slots: Tensor | None,
    density_copy: Tensor | None,
    features_copy: Tensor | None,
    height: int,
    width: int,
    step: float,
    density_shift: float,
    sigmoid: bool,
    beta: float,
    lanes: int,
    segments: int,
    deterministic: bool,
    native: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Features, depth, opacity, emptiness; and for the backward pass slope, stop, slots, state."""
    read = (
        density if density_copy is None else density_copy,
        features if features_copy is None else features_copy,
    )
    scene, shape = (*read, background, log_scale, c2w, fov, box), (height, width, step, density_shift, sigmoid, beta)
    plan = {"lanes": lanes, "segments": segments, "channels": features.shape[-1]}
    views = Views(*_code(native).forward(scene, shape, **plan))
    counted = _counted(views) if slots is None else slots.clone()
    return *views[:3], _emptiness(views, counted), views.slope, views.stop, counted, views.state


@_march.register_fake
def _(density, features, background, log_scale, c2w, fov, box, slots, density_copy, features_copy,
      height, width, step, density_shift, sigmoid, beta, lanes, segments, deterministic, native):  # fmt: skip
    views = c2w.shape[0]
    new = {"device": density.device, "dtype": torch.float32}
    image = torch.empty(views, features.shape[-1], height, width, **new)
    depth, opacity, slope = (torch.empty(views, height, width, **new) for _ in range(3))
    stop = torch.empty(views, height, width, device=density.device, dtype=torch.int32)
    counted = torch.empty(views, device=density.device, dtype=torch.int64)
    state = torch.empty(2, views, segments - 1, 4 * height * width, **new)
    return image, depth, opacity, torch.empty(views, **new), slope, stop, counted, state


def _remember(ctx: Any, inputs: tuple, output: tuple) -> None:
    density, features, background, log_scale, c2w, fov, box, _slots, density_copy, features_copy = inputs[:10]
    image, depth, opacity, _emptiness, slope, stop, counted, state = output
    ctx.mark_non_differentiable(slope, stop, counted, state)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(
        density if density_copy is None else density_copy,
        features if features_copy is None else features_copy,
        background, log_scale, c2w, fov, box, image, depth, opacity, slope, stop, counted, state,
    )  # fmt: skip
    ctx.channels, ctx.shape, ctx.settings = features.shape[-1], inputs[10:16], inputs[16:]


def _chain(ctx: Any, v_features: Any, v_depth: Any, v_opacity: Any, v_emptiness: Any, *_: Any) -> tuple:
    _height, _width, step, density_shift, sigmoid, beta = ctx.shape
    image, opacity = ctx.saved_tensors[7], ctx.saved_tensors[9]
    upstream = torch.zeros_like(image) if v_features is None else v_features
    grads = march_gradients(
        *ctx.saved_tensors, upstream, v_depth, v_opacity, v_emptiness, step, density_shift, sigmoid, beta, *ctx.settings
    )
    density, features, background, log_scale = grads
    if ctx.saved_tensors[2].ndim == 2:
        background = ((1 - opacity)[:, None] * upstream).sum((2, 3))
    else:
        background = background.permute(2, 0, 1)[: ctx.channels]
    return density, features[..., : ctx.channels], background, log_scale, *[None] * 16


@torch.library.custom_op("sjc_fast::march_gradients", mutates_args=())
def march_gradients(
    density: Tensor,
    features: Tensor,
    background: Tensor,
    log_scale: Tensor,
    c2w: Tensor,
    fov: Tensor,
    box: Tensor,
    image: Tensor,
    depth: Tensor,
    opacity: Tensor,
    slope: Tensor,
    stop: Tensor,
    slots: Tensor,
    state: Tensor,
    v_features: Tensor,
    v_depth: Tensor | None,
    v_opacity: Tensor | None,
    v_emptiness: Tensor | None,
    step: float,
    density_shift: float,
    sigmoid: bool,
    beta: float,
    lanes: int,
    segments: int,
    deterministic: bool,
    native: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """New gradients of `march`: density [D, H, W], features [D, H, W, 4], texture [4, 4, 4] ([y, x, channel]), scale.

    Of backgrounds, only a texture has its gradient here.
    """
    forward = (
        density,
        features,
        background,
        log_scale,
        c2w,
        fov,
        box,
        image,
        depth,
        opacity,
        slope,
        stop,
        slots,
        state,
    )
    upstream = (v_features, v_depth, v_opacity, v_emptiness)
    code, fixed = _code(native), deterministic and not native
    kind = torch.int64 if fixed else torch.float32
    grads = tuple(torch.zeros(s, device=density.device, dtype=kind) for s in _gradient_shapes(density))
    scales = code.fixed_scales(forward, upstream, step, sigmoid, beta) if fixed else None
    code.backward(grads, forward, upstream, (step, density_shift, sigmoid, beta), lanes, segments, scales)
    if scales is not None:
        grads = tuple((g / s).float() for g, s in zip(grads, scales.double(), strict=True))
    return grads


@march_gradients.register_fake
def _(density, *_rest):
    return tuple(torch.empty(s, device=density.device, dtype=torch.float32) for s in _gradient_shapes(density))


_march.register_autograd(_chain, setup_context=_remember)


@torch.library.custom_op(
    "sjc_fast::march_accumulate", mutates_args=("grad_density", "grad_features", "grad_texture", "grad_log_scale")
)
def _accumulate(
    grad_density: Tensor,
    grad_features: Tensor,
    grad_texture: Tensor,
    grad_log_scale: Tensor,
    density: Tensor,
    features: Tensor,
    background: Tensor,
    log_scale: Tensor,
    c2w: Tensor,
    fov: Tensor,
    box: Tensor,
    image: Tensor,
    depth: Tensor,
    opacity: Tensor,
    slope: Tensor,
    stop: Tensor,
    slots: Tensor,
    state: Tensor,
    v_features: Tensor,
    v_depth: Tensor | None,
    v_opacity: Tensor | None,
    v_emptiness: Tensor | None,
    step: float,
    density_shift: float,
    sigmoid: bool,
    beta: float,
    lanes: int,
    segments: int,
    native: bool,
) -> None:
    grads = (grad_density, grad_features, grad_texture, grad_log_scale)
    forward = (
        density,
        features,
        background,
        log_scale,
        c2w,
        fov,
        box,
        image,
        depth,
        opacity,
        slope,
        stop,
        slots,
        state,
    )
    upstream = (v_features, v_depth, v_opacity, v_emptiness)
    _code(native).backward(grads, forward, upstream, (step, density_shift, sigmoid, beta), lanes, segments, None)


@_accumulate.register_fake
def _(*_arguments: object) -> None:
    return None


def _gradient_shapes(density: Tensor) -> tuple[tuple[int, ...], ...]:
    """Features are padded to 4 channels: one 16-byte reduction a voxel."""
    return tuple(density.shape), (*density.shape, 4), (4, 4, 4), ()
