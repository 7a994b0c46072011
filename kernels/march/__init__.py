"""`march`: a voxel grid and cameras to rendered views, fused, with its one-pass backward.

Along a ray, samples lie at ``t_k = t_entry + k d`` while ``k d < t_exit - t_entry``. With r the trilinear raw density
(0 outside the grid): ``density = softplus(exp(log_scale) r + density_shift)``, ``alpha = 1 - exp(-density d)``,
``T_k = prod_{j<k} (1 - alpha_j)``, ``w_k = alpha_k T_k``. A ray ends where T < 1e-6. With b the background, features
are ``sum w c + (1 - sum w) b`` (a sample's features c count where w > 1e-4), depth ``sum w t + (1 - sum w) 10``.

Backward, front to back, with g_k = dL/dw_k, P_k the running sum of g w up to and including k, and G their sum over the
ray, known beforehand from what the forward pass wrote: ``dL/ddensity_k = d ((1 - alpha_k) T_k g_k - (G - P_k))``.
Nothing is divided and nothing scanned in reverse, so hidden samples get exactly nothing.

| above | in the kernels |
| --- | --- |
| d, t_k, density d | step, t, thickness |
| T_k | transmittance = exp(-optical_depth) |
| w_k, c_k, b | weight, fetched, behind |
| g_k, P_k, G | d_weight, prefix, total |

The naive twin of this operation is the reference renderer, `sjc_fast.rendering.reference`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..bricks import bricks_shape
from ..contract import (
    MOST_CHANNELS,
    Gradients,
    Quadrature,
    Rendering,
    Saved,
    Scene,
    Upstream,
    choose_backend,
    gradient_shapes,
    implementation,
    padded,
    state_shape,
)


def march(
    scene: Scene,
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
    backend: str | None = None,
) -> Rendering:
    """Render V views of a voxel grid, with gradients to density, features, background and log_scale.

    Args:
        height, width: pixels.
        step: distance d between samples, in world units.
        sigmoid: features (and texture) are ``2 sigmoid(.) - 1`` of the interpolated raw values.
        beta: scale inside the emptiness logarithm.
        slots: int64 [V], the sample slots of each view; counted if not given: floor(longest / d) + 1.
        copies: half-precision copies of density and features (which may have gaps after a voxel's channels, up to the
            next multiple of four) to read instead; gradients go to density and features, in float32.
        deterministic: gradients are summed in fixed point, so they are the same bits from run to run (the C++ code's
            always are).
        backend: "triton" or "cpu"; default by the tensors' device.

    Raises:
        ValueError: a shape, type or layout that the kernels cannot read.
        NativeError: the C++ code is wanted, and cannot be built here.
    """
    backend = choose_backend(scene.density, backend)
    _check(scene, height * width, step, backend, copies)
    plan = _plan(backend, len(scene.c2w) * height * width)
    reads = (None, None) if copies is None else copies
    quadrature = Quadrature(step, density_shift, sigmoid, beta)
    out = _march(*scene, slots, *reads, height, width, *quadrature, *plan, deterministic, backend)
    return Rendering(*out[:4])


@torch.no_grad()
def march_skip(
    scene: Scene,
    bricks: Tensor,  # from `brick_maximum`
    *,
    height: int,
    width: int,
    step: float,
    density_shift: float = -1.0,
    sigmoid: bool = False,
    beta: float = 10.0,
    skip_below: float = 1e-5,
    backend: str | None = None,
) -> Rendering:
    """`march` without gradients, which leaps over bricks that hold no sample of optical thickness `skip_below`.

    A ray's opacity falls short by less than `skip_below` times its number of samples: at most 0.0035 (less than one of
    256 gray levels) for 100^3 voxels. For previews and video; not for training, where a tiny gradient is not nothing.
    """
    backend = choose_backend(scene.density, backend)
    _check(scene, height * width, step, backend)
    if list(bricks.shape) != bricks_shape(scene.density):
        raise ValueError("bricks must be what brick_maximum returns for the density")
    quadrature = Quadrature(step, density_shift, sigmoid, beta)
    forward = implementation("march", backend).forward
    return forward(scene, (height, width), quadrature, (1, 1), bricks=bricks, skip_below=skip_below)[0]


@torch.no_grad()
def march_forward(
    scene: Scene,
    *,
    height: int,
    width: int,
    step: float,
    density_shift: float = -1.0,
    sigmoid: bool = False,
    beta: float = 10.0,
    slots: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Rendering, Saved]:
    """`march` for a step that holds its own gradient buffers; half-precision copies go straight into `scene`."""
    backend = choose_backend(scene.density, backend)
    _check(scene, height * width, step, backend)
    plan = _plan(backend, len(scene.c2w) * height * width)
    quadrature = Quadrature(step, density_shift, sigmoid, beta)
    features, depth, opacity, emptiness, *rest = _march(
        *scene, slots, None, None, height, width, *quadrature, *plan, False, backend
    )
    return Rendering(features, depth, opacity, emptiness), Saved(features, depth, opacity, *rest)


@torch.no_grad()
def march_accumulate(
    grads: Gradients,
    scene: Scene,
    saved: Saved,
    upstream: Upstream,
    *,
    step: float,
    density_shift: float = -1.0,
    sigmoid: bool = False,
    beta: float = 10.0,
    deterministic: bool = False,
    backend: str | None = None,
) -> None:
    """The backward pass of `march_forward`, added to buffers that the optimizer step leaves at zero.

    Args:
        deterministic: the same bits from run to run, as for `march`; by buffers of its own, in 64 bits.

    Raises:
        ValueError: buffers of another shape or type, or not 16-byte aligned; upstream gradients of another shape.
    """
    shapes = gradient_shapes(scene.density.shape, scene.features.shape[-1])
    if tuple(tuple(g.shape) for g in grads) != shapes:
        raise ValueError(f"the gradient buffers must be {shapes}")
    if any(g.dtype != torch.float32 or not g.is_contiguous() or g.data_ptr() % 16 for g in grads):
        raise ValueError("the gradient buffers must be float32, contiguous and 16-byte aligned")
    expected = (saved.features.shape, saved.depth.shape, saved.opacity.shape, saved.slots.shape)
    if any(v is not None and v.shape != s for v, s in zip(upstream, expected, strict=True)):
        raise ValueError("upstream gradients must have the shapes of what they belong to")
    backend = choose_backend(saved.depth, backend)
    plan = _plan(backend, saved.depth.numel())  # as march_forward chose
    quadrature = Quadrature(step, density_shift, sigmoid, beta)
    if deterministic and backend != "cpu":  # whose sums have one order anyway
        new = march_gradients(*scene, *saved, *upstream, *quadrature, *plan, True, backend)
        for buffer, gradient in zip(grads, new, strict=True):
            buffer.add_(gradient)
        return
    _accumulate(*grads, *scene, *saved, *upstream, *quadrature, *plan, backend)


@torch.compiler.assume_constant_result
def _plan(backend: str, rays: int) -> tuple[int, int]:
    """Lanes and segments of a ray."""
    return implementation("march", backend).split(rays)


def _check(
    scene: Scene,
    pixels: int,
    step: float,
    backend: str,
    copies: tuple[Tensor, Tensor] | None = None,
) -> None:
    density, features, background, log_scale, c2w, fov, box, asset = scene
    kinds = (torch.float32, torch.float16, torch.bfloat16)
    reads = (density, features) if copies is None else copies
    channels = features.shape[-1]
    grids = density.shape[:-3]
    one_grid = density.ndim == (3 if asset is None else 4) and features.shape[:-1] == density.shape
    if not one_grid or not 1 <= channels <= MOST_CHANNELS:
        raise ValueError(
            f"density {list(density.shape)} and features {list(features.shape)} are not one grid of 1 to "
            f"{MOST_CHANNELS} channels"
        )
    if 0 in density.shape or not 0 < step < float("inf"):
        raise ValueError(f"a grid of {list(density.shape)} cannot be marched in steps of {step}")
    if c2w.shape[1:] != (4, 4) or fov.shape != c2w.shape[:1] or box.shape != (2, 3):
        raise ValueError("cameras are c2w [V, 4, 4] with fov [V], and the box is [2, 3]")
    if backend == "cpu" and any(x is not None and x.device.type != "cpu" for x in (*scene, *reads)):
        raise ValueError("the compiled code takes CPU tensors")
    if asset is not None and (asset.shape != fov.shape or asset.dtype != torch.int64 or log_scale.shape != grids):
        raise ValueError("asset is the number of each view's grid, [V] int64, and log_scale has one number a grid")
    if (
        asset is not None
        and asset.device.type == "cpu"
        and len(asset)
        and not 0 <= asset.min() <= asset.max() < grids[0]
    ):
        raise ValueError(f"asset must number the {grids[0]} grids from 0")
    if any(x.dtype not in kinds for x in (density, features, *reads)):
        raise ValueError("the kernels read float32, float16 and bfloat16 grids")
    if any(x.dtype != torch.float32 for x in (background, log_scale, c2w, fov, box)):
        raise ValueError("background, log_scale, cameras and box must be float32")
    if not box.is_contiguous():
        raise ValueError("box must be contiguous")
    texture = (*grids, channels, 4, 4)
    if tuple(background.shape) not in (texture, (len(c2w), channels)):
        raise ValueError(f"background is {list(texture)} or [{len(c2w)}, {channels}], not {list(background.shape)}")
    deep, high, wide = density.shape[-3:]
    gap = reads[1].stride(-2)
    if (
        not reads[0].is_contiguous()
        or reads[1].stride()[-4:] != (high * wide * gap, wide * gap, gap, 1)
        or (grids and reads[1].stride(0) != deep * high * wide * gap)
        or gap not in (channels, padded(channels))
    ):
        raise ValueError("density must be contiguous, and features contiguous but for padding to groups of 4 channels")
    if max(deep * high * wide, len(c2w) * pixels) * padded(channels) >= 2**31:
        most = f"at most {2**31 // padded(channels)} voxels of {channels} channels, and as many pixels"
        raise ValueError(f"the kernels count in 32 bits: {most}")


class _Inputs(NamedTuple):
    """The flat argument list of the custom op, by name."""

    density: Tensor
    features: Tensor
    background: Tensor
    log_scale: Tensor
    c2w: Tensor
    fov: Tensor
    box: Tensor
    asset: Tensor | None
    slots: Tensor | None
    density_copy: Tensor | None
    features_copy: Tensor | None
    height: int
    width: int
    step: float
    density_shift: float
    sigmoid: bool
    beta: float
    lanes: int
    segments: int
    deterministic: bool
    backend: str

    @property
    def scene(self) -> Scene:
        """What is read: copies in place of the grids, where there are any."""
        density = self.density if self.density_copy is None else self.density_copy
        features = self.features if self.features_copy is None else self.features_copy
        return Scene(density, features, self.background, self.log_scale, self.c2w, self.fov, self.box, self.asset)

    @property
    def quadrature(self) -> Quadrature:
        return Quadrature(self.step, self.density_shift, self.sigmoid, self.beta)


@torch.library.custom_op("sjc_fast::march", mutates_args=())
def _march(
    density: Tensor,
    features: Tensor,
    background: Tensor,
    log_scale: Tensor,
    c2w: Tensor,
    fov: Tensor,
    box: Tensor,
    asset: Tensor | None,
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
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`Rendering`, and for the backward pass what `Saved` has beyond it."""
    inputs = _Inputs(
        density, features, background, log_scale, c2w, fov, box, asset, slots, density_copy, features_copy,
        height, width, step, density_shift, sigmoid, beta, lanes, segments, deterministic, backend,
    )  # fmt: skip
    rendering, saved = implementation("march", backend).forward(
        inputs.scene, (height, width), inputs.quadrature, (lanes, segments), channels=features.shape[-1], slots=slots
    )
    return *rendering, saved.d_emptiness, saved.stop, saved.slots, saved.state


@_march.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    inputs = _Inputs(*arguments)
    views, height, width = len(inputs.c2w), inputs.height, inputs.width
    device = inputs.density.device
    new = lambda *shape: torch.empty(*shape, device=device, dtype=torch.float32)  # noqa: E731
    rendering = Rendering(
        new(views, inputs.features.shape[-1], height, width),
        new(views, height, width),
        new(views, height, width),
        new(views),
    )
    stop = torch.empty(views, height, width, device=device, dtype=torch.int32)
    slots = torch.empty(views, device=device, dtype=torch.int64)
    state = new(*state_shape(views, inputs.features.shape[-1], height * width, inputs.segments))
    return *rendering, new(views, height, width), stop, slots, state


def _remember(ctx: Any, inputs: tuple, output: tuple) -> None:
    given = _Inputs(*inputs)
    features, depth, opacity, _emptiness, *rest = output
    saved = Saved(features, depth, opacity, *rest)
    ctx.mark_non_differentiable(saved.d_emptiness, saved.stop, saved.slots, saved.state)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*given.scene, *saved)
    ctx.channels, ctx.quadrature = given.features.shape[-1], given.quadrature
    ctx.plan, ctx.settings = (given.lanes, given.segments), (given.deterministic, given.backend)


def _chain(
    ctx: Any,
    v_features: Tensor | None,
    v_depth: Tensor | None,
    v_opacity: Tensor | None,
    v_emptiness: Tensor | None,
    *_rest: None,
) -> tuple:
    tensors = ctx.saved_tensors
    scene, saved = Scene(*tensors[: len(Scene._fields)]), Saved(*tensors[len(Scene._fields) :])
    v_features = torch.zeros_like(saved.features) if v_features is None else v_features
    upstream = Upstream(v_features, v_depth, v_opacity, v_emptiness)
    grads = Gradients(*march_gradients(*scene, *saved, *upstream, *ctx.quadrature, *ctx.plan, *ctx.settings))
    if scene.background.ndim == 2:
        background = ((1 - saved.opacity)[:, None] * v_features).sum((2, 3))
    else:
        background = grads.texture.movedim(-1, -3)[..., : ctx.channels, :, :]
    by_input = {
        "density": grads.density,
        "features": grads.features[..., : ctx.channels],
        "background": background,
        "log_scale": grads.log_scale,
    }
    return tuple(by_input.get(name) for name in _Inputs._fields)


@torch.library.custom_op("sjc_fast::march_gradients", mutates_args=())
def march_gradients(
    density: Tensor,
    features: Tensor,
    background: Tensor,
    log_scale: Tensor,
    c2w: Tensor,
    fov: Tensor,
    box: Tensor,
    asset: Tensor | None,
    out_features: Tensor,
    out_depth: Tensor,
    out_opacity: Tensor,
    d_emptiness: Tensor,
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
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """New `Gradients` of `march`. Of backgrounds, only a texture has its gradient here."""
    scene = Scene(density, features, background, log_scale, c2w, fov, box, asset)
    saved = Saved(out_features, out_depth, out_opacity, d_emptiness, stop, slots, state)
    upstream = Upstream(v_features, v_depth, v_opacity, v_emptiness)
    quadrature = Quadrature(step, density_shift, sigmoid, beta)
    code = implementation("march", backend)
    scales = code.fixed_scales(scene, saved, upstream, quadrature) if deterministic else None
    kind = torch.float32 if scales is None else torch.int64
    shapes = gradient_shapes(density.shape, features.shape[-1])
    grads = Gradients(*(torch.zeros(shape, device=density.device, dtype=kind) for shape in shapes))
    code.backward(grads, scene, saved, upstream, quadrature, (lanes, segments), scales)
    if scales is not None:
        grads = Gradients(*((g / s).float() for g, s in zip(grads, scales.double(), strict=True)))
    return grads.density, grads.features, grads.texture, grads.log_scale


@march_gradients.register_fake
def _(density: Tensor, features: Tensor, *_rest: Any) -> tuple[Tensor, ...]:
    shapes = gradient_shapes(density.shape, features.shape[-1])
    return tuple(torch.empty(shape, device=density.device, dtype=torch.float32) for shape in shapes)


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
    asset: Tensor | None,
    out_features: Tensor,
    out_depth: Tensor,
    out_opacity: Tensor,
    d_emptiness: Tensor,
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
    backend: str,
) -> None:
    implementation("march", backend).backward(
        Gradients(grad_density, grad_features, grad_texture, grad_log_scale),
        Scene(density, features, background, log_scale, c2w, fov, box, asset),
        Saved(out_features, out_depth, out_opacity, d_emptiness, stop, slots, state),
        Upstream(v_features, v_depth, v_opacity, v_emptiness),
        Quadrature(step, density_shift, sigmoid, beta),
        (lanes, segments),
        None,
    )


@_accumulate.register_fake
def _(*_arguments: object) -> None:
    return None
